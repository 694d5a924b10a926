"""Read a Landsat MTL file: txt (ODL), json or xml, Collection 2 and earlier.

Source: USGS "Landsat 8-9 Collection 2 Level 1 / Level 2 Data Format Control Book"
(LSDS-1822, LSDS-1619). GDAL does not read the Level-2 MTL, so it is parsed here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from lib.errors import InvalidProduct
from lib.model import JsonValue
from lib.scenes import limits

ROOTS = ("LANDSAT_METADATA_FILE", "L1_METADATA_FILE")
_LINE = re.compile(r"\s*([A-Z0-9_]+)\s*=\s*(.*?)\s*\Z")

Groups = dict[str, dict[str, str]]


@dataclass(frozen=True, slots=True)
class Mtl:
    """The groups of one MTL file, all values as text.

    Level-2 files repeat fields of Level 1 (PROCESSING_LEVEL, FILE_NAME_BAND_1, ...) in
    later groups; a search without a group therefore takes the first one in the file's
    order, which describes the product itself.
    """

    name: str
    root: str
    groups: Mapping[str, Mapping[str, str]] = field(repr=False)

    def find(self, key: str, *, group: str | None = None) -> str | None:
        """The value of the field `key`, or None."""
        for title, fields in self.groups.items():
            if key in fields and group in (None, title):
                return fields[key]
        return None

    def text(self, *keys: str) -> str:
        """The first of `keys` that is there.

        Raises:
            InvalidProduct: none of them is.
        """
        for key in keys:
            value = self.find(key)
            if value:
                return value
        raise InvalidProduct(f"{self.name} lacks the field {keys[0]}.")

    def number(self, *keys: str) -> float:
        """As `text`, as a finite number."""
        value = self.text(*keys)
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise InvalidProduct(
                f"{self.name}: the field {keys[0]} is not a number ({value!r:.40})."
            )
        return number


def is_mtl(path: Path) -> bool:
    """True when the file name is that of an MTL file."""
    return path.stem.upper().endswith("MTL") and path.suffix.lower() in (".txt", ".json", ".xml")


def read(path: Path) -> Mtl:
    """Read one MTL file.

    Raises:
        InvalidProduct: too large, not text, or not an MTL file.
    """
    with path.open("rb") as stream:
        data = stream.read(limits.MAX_TEXT_BYTES + 1)
    if len(data) > limits.MAX_TEXT_BYTES:
        raise InvalidProduct(f"{path.name} is too large to be an MTL file.")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise InvalidProduct(f"{path.name} is not a text file.") from exc
    parse = {".json": _from_json, ".xml": _from_xml}.get(path.suffix.lower(), _from_odl)
    try:
        root, groups = parse(text)
    except (ValueError, RecursionError, ParseError, DefusedXmlException) as exc:
        raise InvalidProduct(f"{path.name} cannot be read as an MTL file: {exc}") from exc
    if root not in ROOTS:
        raise InvalidProduct(f"{path.name} is not an MTL file: it starts with {root!r:.40}.")
    return Mtl(path.name, root, groups)


def _from_odl(text: str) -> tuple[str, Groups]:
    groups: Groups = {}
    stack: list[str] = []
    root = ""
    for key, value in _odl_pairs(text):
        if key == "GROUP":
            root = root or value
            stack.append(value)
            groups.setdefault(value, {})
        elif key == "END_GROUP":
            if not stack or stack.pop() != value:
                raise ValueError(f"END_GROUP = {value} does not close what was opened")
        elif not stack:
            raise ValueError(f"{key} stands outside of any group")
        else:
            groups[stack[-1]].setdefault(key, value)
    if stack:
        raise ValueError(f"the group {stack[-1]} has no end; the file may be cut off")
    return root, groups


def _odl_pairs(text: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip("\0 \t"):
            continue
        if line.strip() == "END":
            return
        found = _LINE.match(line)
        if not found:
            raise ValueError(f"line {number} is not KEY = VALUE")
        yield found[1], found[2].strip('"')


def _from_json(text: str) -> tuple[str, Groups]:
    data = json.loads(text)
    if not isinstance(data, dict) or not data:
        raise ValueError("it holds no groups")
    root = next(iter(data))
    if not isinstance(data[root], dict):
        raise ValueError("it holds no groups")
    groups = {
        title: {key: _plain(value) for key, value in fields.items()}
        for title, fields in data[root].items()
        if isinstance(fields, dict)
    }
    return root, groups


def _plain(value: JsonValue) -> str:
    return value.strip() if isinstance(value, str) else json.dumps(value)


def _from_xml(text: str) -> tuple[str, Groups]:
    top: Element = fromstring(text)
    groups = {group.tag: {f.tag: (f.text or "").strip() for f in group} for group in top}
    return top.tag, groups
