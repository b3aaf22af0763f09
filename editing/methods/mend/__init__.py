"""MEND: a hypernetwork turns the gradient of an edit into its update."""
