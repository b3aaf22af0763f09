"""What every method stands on: its input and output, the linear algebra of solves, the history of earlier batches."""
