"""Going through a page with Tab: what it reaches, and whether one sees where one is."""

from __future__ import annotations

from playwright.sync_api import Page

from tests.pages.browser_fixtures import wait_until_still

#: The element that has the focus, also inside our components.
DEEP = """() => { let e = document.activeElement;
  while (e && e.shadowRoot && e.shadowRoot.activeElement) e = e.shadowRoot.activeElement;
  return e; }"""
#: What a screen reader would call it, near enough to find it by.
NAME = """(e) => {
  if (!e || e === document.body) return "";
  const shown = (part) => { const copy = part.cloneNode(true);
    copy.querySelectorAll("[aria-hidden=true]").forEach((x) => x.remove());
    return copy.textContent; };
  const said = e.getAttribute("aria-label") || (e.labels && e.labels[0] && shown(e.labels[0]));
  return (said || shown(e) || e.title || e.tagName).trim();
}"""


MOST_TABS = 150


def focused(page: Page) -> str:
    name: str = page.evaluate(f"() => ({NAME})(({DEEP})())")
    return name.strip()


def reached(page: Page, *, most: int = MOST_TABS) -> list[str]:
    """The names of everything that Tab reaches, in order, once round the page."""
    found: list[str] = []
    for _ in range(most):
        page.keyboard.press("Tab")
        name = focused(page)
        if not name and len(found) > 5:
            break  # the end: the browser's own controls come next
        found.append(name)
    return found


def tab_to(page: Page, name: str, *, most: int = MOST_TABS) -> None:
    """Press Tab until something whose name begins so has the focus, and can be seen to."""
    for _ in range(most):
        page.keyboard.press("Tab")
        if focused(page).startswith(name):
            assert_seen(page, name)
            return
    raise AssertionError(f"Tab does not reach {name!r}; it is at {focused(page)!r}")


def assert_seen(page: Page, name: str) -> None:
    """The focus changes how the thing looks."""
    element = page.evaluate_handle(DEEP).as_element()
    assert element
    element.scroll_into_view_if_needed()
    wait_until_still(page)
    box = element.bounding_box()
    size = page.viewport_size
    assert box, name
    assert size, name
    x, y = max(0.0, box["x"] - 8), max(0.0, box["y"] - 8)
    clip = {
        "x": x,
        "y": y,
        "width": min(size["width"] - x, box["width"] + 16),
        "height": min(size["height"] - y, box["height"] + 16),
    }
    with_focus = page.screenshot(clip=clip)  # type: ignore[arg-type]
    page.keyboard.press("Shift+Tab")
    wait_until_still(page)
    without = page.screenshot(clip=clip)  # type: ignore[arg-type]
    page.keyboard.press("Tab")
    assert focused(page).startswith(name)
    assert with_focus != without, f"{name} looks the same with and without the focus"
