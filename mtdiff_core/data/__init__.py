"""From a DatasetSource to batches of model values."""
