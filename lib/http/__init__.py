"""What every HTTP server of the project shares."""
