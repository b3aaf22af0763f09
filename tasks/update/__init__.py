"""The stages of a knowledge update."""
