"""One thin Streamlit script per page; `ui` draws, `lib.portal.facade` answers."""
