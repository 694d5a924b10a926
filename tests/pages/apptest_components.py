"""Reading and pressing, in pages under AppTest, what Streamlit's own runner knows nothing of."""

from __future__ import annotations

import json
from typing import Any

from streamlit.components.v2.bidi_component.main import _make_trigger_id
from streamlit.proto.WidgetStates_pb2 import WidgetState
from streamlit.testing.v1 import AppTest


def component(app: AppTest, key: str) -> Any:
    """The component of ours with that key, or None."""
    found = [e for e in app.get("bidi_component") if e.proto.id.endswith(f"-{key}")]
    return found[0].proto if found else None


def component_data(app: AppTest, key: str) -> dict[str, Any] | None:
    """What that component is given to draw."""
    proto = component(app, key)
    return None if proto is None else json.loads(proto.json)


def rows(app: AppTest, key: str) -> list[tuple[list[str], list[str]]] | None:
    """A table of `ui.data_table`: of each row the texts of its cells, and its actions."""
    given = component_data(app, key)
    return given and [
        ([_text(cell) for cell in row["cells"]], [name for name, _ in row["actions"]])
        for row in given["rows"]
    ]


def _text(cell: dict[str, Any]) -> str:
    parts = [cell["text"], cell["small"], *(text for text, _ in cell["tags"])]
    return " | ".join(filter(None, parts))


def press_row(app: AppTest, key: str, row: str, action: str) -> AppTest:
    """Press a button of a row, as the browser tells it; also one that is not there."""
    states = app._tree.get_widget_states()
    told = [{"event": "pressed", "value": {"row": row, "action": action}}]
    states.widgets.append(
        WidgetState(
            id=_make_trigger_id(component(app, key).id, "events"),
            json_trigger_value=json.dumps(told),
        )
    )
    app._run(states)
    assert not app.exception, app.exception
    return app


def press(app: AppTest, label: str, key: str | None = None) -> AppTest:
    """Press the first button with that label."""
    next(b for b in app.button if b.label == label and key in (None, b.key)).click()
    app.run()
    assert not app.exception, app.exception
    return app


def labels(app: AppTest) -> list[str]:
    """What the page's own buttons say."""
    return [b.label for b in app.button]
