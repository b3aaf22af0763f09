"""What keeps a line beyond a disk, a person's wish, and one home: backup and restore, forgetting, carrying over."""
