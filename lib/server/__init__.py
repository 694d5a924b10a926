"""What `./run` becomes: the portal put together, started, served and stopped."""
