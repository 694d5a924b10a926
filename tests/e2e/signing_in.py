"""Signing in as a person does, in a real Chromium."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from playwright.sync_api import Page, expect

from lib.auth import Auth
from lib.store import Store
from tests.fakes.provider import TestProvider
from tests.running import RunningPortal

GROUPS = """
administrators = [{ provider = "aist", claim = "groups", value = "portal-admins" }]
[[group]]
id = "forest"
title = "Forest monitoring"
members = [{ provider = "aist", claim = "groups", value = "forest" }]
leads = [{ provider = "aist", claim = "groups", value = "forest-leads" }]
"""
COAST = """
[[group]]
id = "coast"
title = "Coast watch"
members = [{ provider = "nspo", claim = "team", value = "coast" }]
"""


def set_up_providers(data: Path, providers: Mapping[str, TestProvider]) -> None:
    """The settings of a portal where people of these institutes sign in."""
    lines = ['embedded_groups = ["everyone"]', GROUPS, COAST if "nspo" in providers else ""]
    (data / "secrets").mkdir(mode=0o700, exist_ok=True)
    for name, at in providers.items():
        lines.append(f"[[provider]]\nid = {json.dumps(name)}\ntitle = {json.dumps(name.upper())}")
        lines.append(f'issuer = {json.dumps(at.issuer)}\nclient_id = "scenebridge"')
        secret = data / "secrets" / f"oidc-{name}"
        secret.touch(mode=0o600)
        secret.write_text("a client secret of tests")
    (data / "settings.toml").write_text("\n".join(lines))


def sign_in_at(page: Page, portal: RunningPortal, institute: str, subject: str) -> None:
    """From the portal's address to its first page, by way of the provider's form."""
    page.goto(portal.origin)
    expect(page.get_by_role("heading", name="Please sign in")).to_be_visible()
    page.get_by_role("link", name=f"Sign in at {institute}").click()
    page.locator("input[name=sub]").fill(subject)
    page.get_by_role("button", name="Authorize").click()
    expect(page.get_by_role("heading", name="Explore")).to_be_visible()


def sign_in(page: Page, portal: RunningPortal) -> str:
    """By a one-time link of its own, which is returned."""
    with closing(Store(portal.data / "portal.sqlite")) as store:
        link = Auth(store).links.new(portal.origin)
    page.goto(link)
    expect(page.get_by_role("heading", name="Explore")).to_be_visible()
    return link
