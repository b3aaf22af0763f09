"""What a person reads: pages, pictures, tables."""
