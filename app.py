"""The portal's ASGI application: pages, API, notebook proxy, reconciler.

Imported by a server it builds `app`; run as a script by Streamlit, which happens at each
rerun of a page, it draws the page. What both share lives in `lib`.
"""

from __future__ import annotations

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

if get_script_run_ctx(suppress_warning=True) is None:
    from lib.config import settings
    from lib.server.app import Assembly
    from ui import components

    components.look_for_no_others()
    assembly = Assembly(settings.current())
    app = st.App(
        __file__,
        lifespan=assembly.lifespan,
        routes=assembly.routes(),
        middleware=assembly.middleware(),
    )
else:
    from ui import layout, script_queue

    with script_queue.in_turn(), layout.one_run():
        layout.set_up_page()
        portal, user = layout.require_user()
        page = st.navigation(layout.navigation_pages(user), position="top")
        with layout.errors_on_page():
            layout.header(portal, user)
        page.run()
