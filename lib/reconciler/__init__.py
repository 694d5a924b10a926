"""The reconciler makes the world agree with the store: one loop per cluster."""
