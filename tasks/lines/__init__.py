"""Lines: what they are made of."""
