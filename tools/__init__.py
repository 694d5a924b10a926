"""What only developers run, and the set-up of a checkout."""
