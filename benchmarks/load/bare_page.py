"""A page of Streamlit alone, about as long as ours: what the machine and Streamlit cost."""

from __future__ import annotations

import streamlit as st

st.title("A page")
for number in range(10):
    with st.container(border=True):
        st.markdown(f"Line **{number}**")
        left, right = st.columns(2)
        left.button("Press", key=f"press-{number}")
        right.text_input("Text", key=f"text-{number}")
