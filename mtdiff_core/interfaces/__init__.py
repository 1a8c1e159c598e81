"""What a plugin author reads: one concept a file. Only ``codec`` imports torch."""
