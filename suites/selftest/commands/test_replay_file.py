# SPDX-License-Identifier: Apache-2.0
"""A saved finding is read as it was written, and one that is none is refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.commands.replay import load_finding
from harness.errors import UsageError
from reports.models import Finding, SavedFinding

PROGRAM = {"threads": [{"name": "main", "ops": [["reset", {"fd": "d"}]]}], "claims": []}


def saved() -> SavedFinding:
    finding = Finding(clause="MIG-001", device="mtty0", title="t", expected="a", observed="b")
    return SavedFinding.of(
        finding, PROGRAM, [{"op": "reset"}], own=True, profile="mtty", capabilities={"reset": True}
    )


def test_what_is_saved_is_what_is_read(tmp_path: Path) -> None:
    path = tmp_path / "f.json"
    path.write_text(saved().model_dump_json(by_alias=True))
    read = load_finding(path)
    assert read == saved()
    assert json.loads(path.read_text())["schema"] == 1
    assert read.program == PROGRAM


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 2}, "schema"),
        ({"program": {"threads": []}}, "program.threads is not a list of threads with ops"),
        ({"program": 5}, "program"),
        ({"clause": None}, "clause"),
        ({"own": "perhaps"}, "own"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    path = tmp_path / "f.json"
    path.write_text(json.dumps({**json.loads(saved().model_dump_json(by_alias=True)), **change}))
    with pytest.raises(UsageError, match=words) as caught:
        load_finding(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00", "[" * 100000])
def test_what_is_no_finding_at_all_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "f.json"
    path.write_text(text)
    with pytest.raises(UsageError, match="findings are in RUN"):
        load_finding(path)
