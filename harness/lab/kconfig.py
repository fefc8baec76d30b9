# SPDX-License-Identifier: Apache-2.0
"""The lab kernel's configuration: its fragments, and a check that every line of them took effect."""

from __future__ import annotations

import os
import re
from pathlib import Path

from harness.errors import UsageError
from harness.lab.places import project_path

__all__ = ["FLAVOURS", "compare_config", "fragments", "known_symbols", "read_config"]

FLAVOURS = ("plain", "debug", "gcov")
_LINE = re.compile(r"^CONFIG_([A-Za-z0-9_]+)=(.*)$")
_UNSET = re.compile(r"^# CONFIG_([A-Za-z0-9_]+) is not set$")
_SYMBOL = re.compile(r"^\s*(?:menu)?config\s+([A-Za-z0-9_]+)\s*$", re.M)


def fragments(flavour: str) -> list[Path]:
    """The fragments of `flavour`, to be merged over tinyconfig in this order."""
    if flavour not in FLAVOURS:
        raise UsageError(f"--flavour {flavour!r} is not one of {', '.join(FLAVOURS)}")
    names = ["plain"] if flavour == "plain" else ["plain", flavour]
    return [project_path(f"config/{name}.config") for name in names]


def read_config(path: Path) -> dict[str, str]:
    """Symbols (without CONFIG_) and values of a `.config` or fragment; "n" for "is not set"."""
    values: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        found = _LINE.match(line)
        if found:
            values[found.group(1)] = found.group(2)
        else:
            unset = _UNSET.match(line)
            if unset:
                values[unset.group(1)] = "n"
    return values


def compare_config(
    wanted: dict[str, str], got: dict[str, str], known: set[str]
) -> tuple[list[str], list[str]]:
    """What `got` lacks of `wanted`: (lines that the kernel knows but dropped, lines it does not know)."""
    lost: list[str] = []
    unknown: list[str] = []
    for symbol, value in wanted.items():
        actual = got.get(symbol, "n")
        if actual != value:
            text = f"CONFIG_{symbol}={value}"
            if symbol in known:
                lost.append(f"{text} (is {actual})")
            else:
                unknown.append(text)
    return lost, unknown


def known_symbols(tree: Path) -> set[str]:
    """Every symbol that the Kconfig files of a source tree declare."""
    symbols: set[str] = set()
    for folder, folders, names in os.walk(tree):
        folders[:] = [name for name in folders if name not in {".git", "Documentation"}]
        for name in names:
            if name.startswith("Kconfig"):
                text = (Path(folder) / name).read_text(encoding="utf-8", errors="replace")
                symbols.update(_SYMBOL.findall(text))
    return symbols
