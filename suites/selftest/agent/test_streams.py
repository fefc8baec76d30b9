# SPDX-License-Identifier: Apache-2.0
"""Where the agent keeps a long stream: on a host that lacks a place for it, or has no room."""

from __future__ import annotations

import pytest

from harness.agent import streams
from harness.agent.executor import Executor

LENGTH = 8_600_000  # more than is kept in memory, and a little more than a number of pieces


def whole_read(source):
    ops = [["open", {"path": str(source), "out": "f"}], ["read_all", {"fd": "f", "keep": "s"}]]
    return Executor().run({"threads": [{"name": "main", "ops": ops}]})["trace"][1]


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "stream"
    path.write_bytes(bytes(range(250)) * (LENGTH // 250))
    return path


def test_a_place_that_is_not_there_is_passed_over(monkeypatch, source, tmp_path):
    monkeypatch.setattr(streams, "_PLACES", (str(tmp_path / "gone"), str(tmp_path)))
    record = whole_read(source)
    assert (record["errno"], record["n"], record["end"]) == (0, LENGTH, "eof")
    assert len(record["sha256"]) == 64


def test_a_host_without_a_place_is_no_fault_of_the_device(monkeypatch, source, tmp_path):
    monkeypatch.setattr(streams, "_PLACES", (str(tmp_path / "gone"),))
    record = whole_read(source)
    assert (record["errno"], record["end"], record["cut"]) == (0, "full", True)
    assert "no room" in record["why"]


def test_what_waits_at_the_end_may_find_no_room_either(monkeypatch, source, tmp_path):
    """Steps: the store fails when the last part of the stream, less than one piece, is put there."""
    real, stored = streams.Recorder._store, []

    def store(self, data, at):
        stored.append(len(data))
        if len(data) < streams.PIECE // 2 and at:
            raise OSError(28, "no room for the rest")
        real(self, data, at)

    monkeypatch.setattr(streams, "_PLACES", (str(tmp_path),))
    monkeypatch.setattr(streams.Recorder, "_store", store)
    record = whole_read(source)
    assert stored[-1] < streams.PIECE // 2
    assert (record["errno"], record["end"], record["cut"]) == (0, "full", True)
    assert "sha256" not in record
