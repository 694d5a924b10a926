"""The notebook reverse proxy: one origin per notebook, entered with a one-time ticket.

`supervisor` lives in the portal: it starts `main` as a process of its own, keeps it alive and
tells it what to do over a pair of connected sockets, in the words of `messages`.
"""
