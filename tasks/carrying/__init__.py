"""Versions on their way to the servers that answer users: exported, and asked for once they have arrived."""
