"""Whether what is stored is whole, and whether ledger, HEAD, snapshots and MLflow say the same. Nothing is changed."""
