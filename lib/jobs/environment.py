"""The environment allow-list: what a job inherits from the account's. All else is left out."""

from __future__ import annotations

import os

_NAMES = frozenset(
    {
        *("HOME", "USER", "LOGNAME", "SHELL", "PATH", "LD_LIBRARY_PATH"),
        *("LANG", "LC_ALL", "LC_CTYPE", "TZ"),
        *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
        "CUDA_VISIBLE_DEVICES",
    }
)
_PREFIXES = ("OPENBLAS_", "OMP_", "MKL_", "NUMBA_")


def inherited() -> dict[str, str]:
    """The variables that are passed on: where things are, language, site proxies, threads."""
    return {k: v for k, v in os.environ.items() if k in _NAMES or k.startswith(_PREFIXES)}
