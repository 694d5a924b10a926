"""The program that `admin.py gate` sends to a login node and runs there.

It lives as long as the connection, is kept in memory only, and does what it is asked in
frames. Standard library, lib.errors, lib.files and lib.model.json_value only, Python 3.10 or
newer; `SOURCES` of `lib.gate_deploy.connection` lists its modules.
"""
