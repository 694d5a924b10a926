"""Setting up a gate on a login node, over one ssh connection (docs/gate.md).

`bundle` and `wheels` say what is shipped, `connection` speaks with the program in `remote`,
which is sent first and runs on the login node; `steps` are what `admin.py gate` does.
"""
