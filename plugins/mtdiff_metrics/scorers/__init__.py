"""What the metrics do: one kind of figure a file."""
