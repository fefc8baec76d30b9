# SPDX-License-Identifier: Apache-2.0
"""YAML read as plain data that remembers the line of every value.

Stricter than PyYAML's loaders: a key that is there twice is an error, and a plain scalar is a string unless
it is obviously an integer, a boolean or null. YAML 1.1 would read the PCI address `0000:10:00.0` as a float
in base 60 and `no` as false.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from harness.errors import UsageError

__all__ = ["Marked", "Path", "load_marked", "spell"]

Path = tuple[str | int, ...]

_MAX_BYTES = 1 << 20
_MAX_VALUES = 100_000
_MAX_DEPTH = 20
_INTEGER = re.compile(r"(?:0|-?[1-9][0-9]{0,17})\Z")
_WORDS: dict[str, bool | None] = {"true": True, "false": False, "null": None, "~": None, "": None}


@dataclass
class Marked:
    """`data` as JSON knows it; `lines` has the 1-based line of each value by its path of keys and indexes."""

    data: Any
    lines: dict[Path, int] = field(default_factory=dict)

    def line(self, path: Path) -> int:
        """The line of the value at `path`, or of the nearest value around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def load_marked(text: str, name: str) -> Marked:
    """Reads one YAML document; `name` is the file's name in messages; UsageError where it is not one."""
    if len(text) > _MAX_BYTES:
        raise UsageError(f"{name}: {len(text)} characters are too many, at most {_MAX_BYTES} are read")
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise UsageError(
            f"{name}:{line}: not YAML: {_flat(error.problem or error.context or 'unreadable')}"
        ) from None
    except (yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"{name}: not YAML: {_flat(str(error) or 'nested too deeply')}") from None
    result = Marked(None)
    if root is not None:
        result.data = _Walk(name, result).value(root, ())
    return result


class _Walk:
    """Turns nodes into data; counts, because an alias makes a small file arbitrarily large."""

    def __init__(self, name: str, result: Marked) -> None:
        self._name = name
        self._lines = result.lines
        self._count = 0

    def value(self, node: yaml.Node, path: Path) -> Any:
        line = node.start_mark.line + 1
        self._lines.setdefault(path, line)
        self._count += 1
        if self._count > _MAX_VALUES or len(path) > _MAX_DEPTH:
            raise self._error(line, f"too large: at most {_MAX_VALUES} values, {_MAX_DEPTH} levels deep")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._scalar(node)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._error(line, f"a key of {spell(path) or 'the file'} is not a plain word")
            key = str(key_node.value)
            here = (*path, key)
            if key in found:
                raise self._error(line, f"{spell(here)} is there twice, first in line {self._lines[here]}")
            self._lines[here] = line
            found[key] = self.value(value_node, here)
        return found

    def _scalar(self, node: yaml.Node) -> Any:
        text = str(node.value)
        if getattr(node, "style", None) is not None:
            return text
        if text in _WORDS:
            return _WORDS[text]
        return int(text) if _INTEGER.match(text) else text

    def _error(self, line: int, text: str) -> UsageError:
        return UsageError(f"{self._name}:{line}: {text}")


def spell(path: Path) -> str:
    """`labs.rack7.devices[1].pci` for `("labs", "rack7", "devices", 1, "pci")`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _flat(text: str) -> str:
    return " ".join(text.split()).rstrip(".")
