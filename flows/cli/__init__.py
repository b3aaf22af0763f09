"""The command line `errata`."""
