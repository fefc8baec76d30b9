# SPDX-License-Identifier: Apache-2.0
"""Bounds and cleans text from a device, a kernel log or a lab host before it is shown."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["MAX_LINE", "MAX_TEXT", "clean", "clip", "clip_json", "one_line", "xml_text"]

MAX_TEXT = 4000
"""Characters of one field of a record."""
MAX_LINE = 1000
"""Characters of one line of a kernel log or one step of a path."""

# Everything that moves a cursor, is invalid in XML or cannot be encoded; newline and tab stay.  The last
# group are the bidirectional controls, which can make a line look different from what it says.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"
    "\ud800-\udfff\ufdd0-\ufdef\ufeff\ufffe\uffff"
    "\u200e\u200f\u2028-\u202e\u2066-\u2069]"
)


def clean(text: str) -> str:
    """`text` with every control character, lone surrogate and bidirectional mark escaped."""
    return _UNSAFE.sub(lambda m: f"\\x{ord(m[0]):02x}" if ord(m[0]) < 256 else f"\\u{ord(m[0]):04x}", text)


def clip(text: str, limit: int = MAX_TEXT) -> str:
    """`text` cleaned and cut to at most `limit` characters; a cut text says how long it was."""
    safe = clean(text[: limit + 1])
    if len(text) <= limit and len(safe) <= limit:
        return safe
    mark = f" [... {len(text)} characters in all]"
    return safe[: max(0, limit - len(mark))] + mark


def one_line(text: str, limit: int = MAX_LINE) -> str:
    """`text` on one line: newlines and tabs become spaces."""
    return clip(" ".join(text.split()), limit)


def xml_text(text: str) -> str:
    """`text` with the characters that XML 1.0 does not allow escaped."""
    return clean(text)


def clip_json(value: Any, budget: int) -> Any:
    """A JSON value with its strings cleaned, or a note if it is longer than `budget` characters."""
    used = 0

    def walk(item: Any, depth: int) -> Any:
        nonlocal used
        if depth > 32:
            used = budget + 1
        used += 8
        if used > budget:
            return None
        if isinstance(item, str):
            used += len(item)
            return clean(item) if used <= budget else None
        if isinstance(item, dict):
            return {clean(str(key)[:200]): walk(each, depth + 1) for key, each in item.items()}
        if isinstance(item, (list, tuple)):
            return [walk(each, depth + 1) for each in item]
        if item is None or isinstance(item, (bool, int)):
            return item
        if isinstance(item, float) and item == item and abs(item) != float("inf"):
            return item
        return one_line(repr(item), 200)

    result = walk(value, 0)
    return {"left_out": f"over {budget} characters; the replay file holds it"} if used > budget else result
