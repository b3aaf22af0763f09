"""The training of a hypernetwork."""
