"""What may be taken away: leftovers that nothing refers to, by their age."""
