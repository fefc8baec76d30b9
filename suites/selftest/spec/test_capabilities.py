# SPDX-License-Identifier: Apache-2.0
"""Capabilities are in one table: asking for any other name fails at once."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixtures.experiment import experiment
from fixtures.subject import Subject
from harness import PROJECT
from harness.errors import HarnessError
from harness.spec.capabilities import CAPABILITIES, unknown_names
from harness.spec.clause import Clause, all_clauses

TYPES = {"bool", "int", "str", "list", "mapping"}


def sources() -> Iterator[Path]:
    for room in ("harness", "fixtures", "suites"):
        yield from (f for f in sorted((PROJECT / room).rglob("*.py")) if "selftest" not in f.parts)


def asked_in(source: str) -> set[str]:
    """Names that the source asks for: has("x"), capabilities.get("x"), capabilities["x"], needs=("x",)."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        key: ast.expr | None = None
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args:
            whose = ast.unparse(node.func.value)
            if node.func.attr == "has" or (node.func.attr == "get" and whose.endswith("capabilities")):
                key = node.args[0]
        elif isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("capabilities"):
            key = node.slice
        elif isinstance(node, ast.keyword) and node.arg == "needs" and isinstance(node.value, ast.Tuple):
            found |= {str(e.value) for e in node.value.elts if isinstance(e, ast.Constant)}
        if isinstance(key, ast.Constant) and isinstance(key.value, str):
            found.add(key.value)
    return found


ASKED = {name for file in sources() for name in asked_in(file.read_text(encoding="utf-8"))}


def test_every_name_that_is_asked_for_is_in_the_table() -> None:
    assert sorted(ASKED - CAPABILITIES.keys()) == []


def test_the_scan_sees_each_way_of_asking() -> None:
    source = 'a.has("x"); capabilities.get("y"); self.capabilities["z"]; f(needs=("v", "w"))'
    assert asked_in(source) == {"v", "w", "x", "y", "z"}


@pytest.mark.parametrize("name", CAPABILITIES)
def test_a_capability_is_found_out_where_the_table_says(name: str) -> None:
    """Steps: read the file that it names. Verify: the name is there (engines' are made of their gifts)."""
    one = CAPABILITIES[name]
    text = (PROJECT / one.probe).read_text(encoding="utf-8")
    assert f'"{name}"' in text or (name.startswith("engine_") and 'f"engine_{gift}"' in text)
    assert one.type in TYPES
    assert one.source
    assert one.meaning


def test_every_capability_is_used() -> None:
    needed = {n for c in all_clauses() for n in c.needs}
    text = "".join(f.read_text(encoding="utf-8") for f in sources() if f.name != "capabilities.py")
    idle = [n for n in CAPABILITIES if n not in needed | ASKED and text.count(f'"{n}"') < 2]
    assert idle == []


def test_a_typo_is_an_error_when_the_suite_is_loaded() -> None:
    with pytest.raises(ValueError, match=r"MIG-999: needs 'pre_cpy' .*did you mean 'pre_copy'"):
        Clause("MIG-999", "MUST", "a rule", "vfio.h", ("pre_cpy",))
    with pytest.raises(HarnessError, match="did you mean 'dma_logging'"):
        experiment("MIG-001", needs=("dma_loging",))
    with pytest.raises(HarnessError, match="'restes' is no capability"):
        Subject({}).has("restes")
    assert unknown_names(["reset", "p2p"]) == ""
