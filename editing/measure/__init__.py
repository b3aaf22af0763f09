"""What a model says and how good it still is."""
