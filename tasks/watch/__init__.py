"""Watch over a line in service: what is wrong, what is late, and who is told."""
