"""Serves `bare_page.py` as the portal is served, without the portal: `... bare PORT`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import streamlit as st
import uvicorn

from lib.config.settings import PROJECT
from lib.http.server_settings import SERVER_SETTINGS


def main() -> None:
    os.chdir(PROJECT)  # for .streamlit/config.toml
    uvicorn.run(
        st.App(str(Path(__file__).with_name("bare_page.py"))),
        port=int(sys.argv[1]),
        log_config=None,
        access_log=False,
        loop="uvloop",
        **SERVER_SETTINGS,
    )


if __name__ == "__main__":
    main()
