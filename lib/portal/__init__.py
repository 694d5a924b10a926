"""What pages and API may ask (`facade.Portal`), and its parts."""
