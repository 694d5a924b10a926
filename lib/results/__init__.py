"""What runs found: the files fetched from clusters, and their way into the store."""
