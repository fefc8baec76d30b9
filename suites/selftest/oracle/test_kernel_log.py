# SPDX-License-Identifier: Apache-2.0
"""The kernel log classifier against recorded-style logs; a new case is a new pair of files, no code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.oracle.kernel_log import Window, parse_dmesg, taint_names, window

LOGS = Path(__file__).parent / "kernel_logs"
CASES = sorted(path.stem for path in LOGS.glob("*.log"))


def _read(name: str) -> Window:
    return window(parse_dmesg((LOGS / f"{name}.log").read_text(encoding="utf-8")))


def as_expected(seen: Window) -> list[dict[str, Any]]:
    """The content of the JSON file beside a log."""
    return [
        {
            "kind": event.kind,
            "title": event.title,
            "severity": event.severity,
            "device": event.device,
            "frames": list(event.frames),
            "count": event.count,
        }
        for event in seen.events
    ]


def test_there_are_enough_logs() -> None:
    assert len(CASES) >= 30


def test_each_log_has_an_expectation_and_the_other_way_round() -> None:
    assert sorted(path.stem for path in LOGS.glob("*.json")) == CASES


@pytest.mark.parametrize("name", CASES)
def test_log_gives_what_is_expected(name: str) -> None:
    assert as_expected(_read(name)) == json.loads((LOGS / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("benign")])
def test_titles_do_not_depend_on_addresses_offsets_pids_and_cpus(name: str) -> None:
    text = (LOGS / f"{name}.log").read_text(encoding="utf-8")
    other = re.sub(r"\+0x([0-9a-f]+)/0x([0-9a-f]+)", r"+0x1\1/0x1\2", text)
    other = re.sub(r"\b(ffff[0-9a-f]{11})[0-9a-f]\b", r"\g<1>7", other)
    other = (
        other.replace("python3/312", "python3/99").replace("PID: 312 ", "PID: 99 ").replace("CPU#0", "CPU#5")
    )
    assert as_expected(window(parse_dmesg(other))) == as_expected(_read(name))


def test_an_iommu_fault_counts_for_its_own_device_only() -> None:
    seen = _read("iommu-dmar-write-fault")
    assert [event.kind for event in seen.findings("0000:00:04.0")] == ["iommu-fault"]
    assert [event.kind for event in seen.findings("00:04.0")] == ["iommu-fault"]
    assert not seen.findings("0000:00:05.0")
    assert not seen.findings(None)


def test_a_warning_counts_for_every_device() -> None:
    assert len(_read("warn-7.x-format").findings("0000:00:04.0")) == 1
    assert len(_read("warn-7.x-format").findings(None)) == 1


def test_a_note_is_not_a_finding() -> None:
    assert not _read("rcu-stall-starved-host").findings(None)
    assert _read("rcu-stall-starved-host").events


def test_the_lines_of_an_event_are_its_own() -> None:
    (event,) = _read("kasan-after-benign-lines").events
    assert event.lines[0].startswith("BUG: KASAN")
    assert not any("mtty_reset" in line for line in event.lines)


def test_lost_records_are_said() -> None:
    assert window([], lost=True) == Window((), True)


@given(st.lists(st.text(max_size=80), max_size=30))
def test_any_text_is_survived(lines: list[str]) -> None:
    window([(4, n, n, text) for n, text in enumerate(lines)])


@settings(deadline=None)  # its time is the machine's, which does other work as well
@given(st.lists(st.sampled_from([path.name for path in LOGS.glob("warn*.log")]), max_size=4))
def test_a_flood_is_bounded_and_merged(names: list[str]) -> None:
    text = "".join((LOGS / name).read_text(encoding="utf-8") for name in names)
    once = {(e.kind, e.title, e.device) for e in window(parse_dmesg(text)).events}
    again = window(parse_dmesg(text * 3)).events
    assert {(e.kind, e.title, e.device) for e in again} == once
    assert len(again) == len(once)


def test_taint_names() -> None:
    assert taint_names(0) == ()
    assert taint_names(512 + 4096) == ("warn", "out-of-tree module")
    assert taint_names(1 << 40) == ("bit 40",)
    with pytest.raises(ValueError, match="negative"):
        taint_names(-1)
