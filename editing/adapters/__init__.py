"""Updates in the forms of other programs."""
