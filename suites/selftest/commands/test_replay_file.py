# SPDX-License-Identifier: Apache-2.0
"""A saved finding is read back as it was written; another file is refused in one line."""

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
    path.write_text(saved().to_json())
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
        ({"own": "yes"}, "own"),
        ({"own": None}, "own"),
        ({"trace": [1]}, "trace"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    path = tmp_path / "f.json"
    path.write_text(json.dumps({**json.loads(saved().to_json()), **change}))
    with pytest.raises(UsageError, match=words) as caught:
        load_finding(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", ["schema", "own", "program", "clause", "device", "expected", "observed"])
def test_a_file_that_lacks_a_field_is_one_line(tmp_path: Path, field: str) -> None:
    path = tmp_path / "f.json"
    values = json.loads(saved().to_json())
    del values[field]
    path.write_text(json.dumps(values))
    with pytest.raises(UsageError, match=field):
        load_finding(path)


def test_a_file_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    """It has the keys of that version, and one unknown key."""
    path = tmp_path / "f.json"
    values = {
        "schema": 1, "device": "mtty0", "profile": "mtty", "clause": "MIG-001", "own": False,
        "signature": "0123456789abcdef", "expected": "a", "observed": "b", "capabilities": {},
        "program": PROGRAM, "trace": [], "remark": "seen twice",
    }  # fmt: skip
    path.write_text(json.dumps(values))
    assert json.loads(load_finding(path).to_json()) == {k: v for k, v in values.items() if k != "remark"}


def test_a_lone_surrogate_in_a_trace_costs_no_finding(tmp_path: Path) -> None:
    """The lab's answer is decoded JSON, which may hold half of a surrogate pair."""
    path = tmp_path / "f.json"
    torn = saved().model_copy(update={"trace": [{"op": "read", "text": "\udcff"}]})
    path.write_text(torn.to_json())
    assert load_finding(path) == torn


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00", "[" * 100000])
def test_what_is_no_finding_at_all_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "f.json"
    path.write_text(text)
    with pytest.raises(UsageError, match="findings are in RUN"):
        load_finding(path)
