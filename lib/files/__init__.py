"""Writing files that other processes read: by temporary file and rename, or line by line.

Shipped to login nodes and compute nodes: standard library only.
"""
