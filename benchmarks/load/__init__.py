"""What many people at once cost one of them: `python -m benchmarks.load`."""
