"""The table of events and what follows from it."""
