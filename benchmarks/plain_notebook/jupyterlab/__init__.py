"""Takes the place of JupyterLab in the benchmark of the proxy."""
