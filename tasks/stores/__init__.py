"""Objects, snapshots, checkpoints and leases, in a folder or on S3."""
