# SPDX-License-Identifier: Apache-2.0
"""Figures where the device is what is slow: the sweep at 50 ms an arc, and a stream of 4 GiB."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st

from fixtures.connect import HostConnection
from fixtures.rig import Rig
from harness.commands.bench.figures import Figure, send
from harness.errors import LabError
from harness.program.script import Script
from harness.uapi import vfio
from suites.mig.random_programs import STEPS, programs
from suites.mig.sweep import sweep_programs
from suites.mig.tour import Tour

__all__ = ["HUGE_BYTES", "SLOW_DEVICE", "huge_stream_figures", "slow_figures"]

SLOW_DEVICE = "ref-arc-50ms"
"""Variant of the reference device (fixtures/reference/variants.yaml) whose arcs take 50 ms each."""
HUGE_BYTES = 4 << 30
_DEPTH, _ARC_S = 3, 0.05
_CELLS_S, _DEPTH_S, _BUSY = 30.0, 60.0, 0.95
_RANDOM = 24
_SLICE_TARGETS = 150
_READ_S = 900.0

Trace = Sequence[Mapping[str, Any]]

_SET_STATE = vfio.VFIO_DEVICE_FEATURE_SET | vfio.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE
# What anybody would write who only wants the digest of a stream; runs on the lab host.
_PLAIN_READ = f"""
import fcntl, hashlib, os, struct, sys, time
device, iommufd = os.open(sys.argv[1], os.O_RDWR), os.open("/dev/iommu", os.O_RDWR)
fcntl.ioctl(device, {vfio.VFIO_DEVICE_BIND_IOMMUFD}, struct.pack("<IIiI", 16, 0, iommufd, 0))
answer = bytearray(struct.pack("<IIIi", 16, {_SET_STATE}, {vfio.VFIO_DEVICE_STATE_STOP_COPY}, -1))
fcntl.ioctl(device, {vfio.VFIO_DEVICE_FEATURE}, answer)
fd = struct.unpack("<IIIi", answer)[3]
done, total, begun = hashlib.sha256(), 0, time.monotonic()
while part := os.read(fd, 1 << 20):
    done.update(part)
    total += len(part)
print(total, time.monotonic() - begun, done.hexdigest())
"""


def slow_figures(rig: Rig, seed: int) -> list[Figure]:
    """How long the state table and every sequence of three take at 50 ms an arc, and how idle the device is.

    The device is busy while an operation on it is under way, by the clock of its host.
    """
    flags = rig.subject("bench").flags
    tour = Tour(flags, _DEPTH)
    begun = time.monotonic()
    busy_s = cells_s = 0.0
    found = 0
    sweep = sweep_programs(flags, _DEPTH, _SLICE_TARGETS, tour=tour)
    program = next(sweep, None)
    while program is not None:
        verdict, trace = rig.execute(program)
        busy_s += _busy_s(trace)
        found += len(verdict.violations)
        if not cells_s and tour.complete >= 1:
            cells_s = time.monotonic() - begun
        try:
            program = sweep.send(verdict)
        except StopIteration:
            break
    taken_s = time.monotonic() - begun
    if found or tour.complete < _DEPTH:
        raise LabError(f"the sweep at 50 ms an arc came to {tour.complete} of {_DEPTH}, {found} violations")
    arcs = f"{tour.sets_walked} SETs, {tour.resets_walked} resets"
    share, count = _random_share(rig, seed)
    return [
        Figure("all cells at 50 ms an arc", cells_s or taken_s, _CELLS_S, "s", at_least=False),
        Figure("every sequence of 3 at 50 ms an arc", taken_s, _DEPTH_S, "s", at_least=False, detail=arcs),
        Figure("device busy in the sweep", busy_s / taken_s, _BUSY),
        Figure("device busy in random programs", share, _BUSY, detail=f"{count} programs"),
    ]


def _busy_s(trace: Trace) -> float:
    return sum(int(record["dt"]) for record in trace) / 1e9


def _random_share(rig: Rig, seed: int) -> tuple[float, int]:
    """Share of the time in which random programs keep the device busy, and how many they were."""
    busy_s, done = 0.0, 0

    def judged(batch: list[dict[str, Any]]) -> None:
        nonlocal busy_s, done
        for _, trace in rig.execute_many(batch):
            busy_s += _busy_s(trace)
            done += 1

    settings = hypothesis.settings(
        max_examples=_RANDOM // 6, deadline=None, database=None, phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    batches = st.lists(programs(rig.subject("bench"), STEPS), min_size=6, max_size=6)
    begun = time.monotonic()
    hypothesis.seed(seed)(settings(hypothesis.given(batches)(judged)))()
    return busy_s / (time.monotonic() - begun), done


def huge_stream_figures(
    rig: Rig, held: HostConnection, parameter: str, size: int = HUGE_BYTES
) -> list[Figure]:
    """A stream of `size` bytes, checked, against the plain loop that reads it into a hash on the same host.

    `parameter` is the file in sysfs that makes the reference device's stream so long.
    """
    before = held.exec(f"cat {parameter}", 10.0)[1].decode().strip()
    if held.exec(f"echo {size} > {parameter}", 10.0)[0]:
        raise LabError(f"{parameter} does not take {size}")
    try:
        rig.subject("bench")
        script = Script()
        read = script.save(chunks=[1 << 20])
        result = send(held, script.to_json(), _READ_S)
        record = next(r for r in result.trace if r["i"] == read)
        rig.release()
        plain = held.exec(f"python3 - {held.device['cdev']} <<'EOF'\n{_PLAIN_READ}\nEOF", _READ_S)
        words = plain[1].split()
        if plain[0] or len(words) != 3:
            raise LabError(
                f"the plain read ended with {plain[0]}: {plain[2].decode('utf-8', 'replace')[-200:]}"
            )
        total, took_s = int(words[0]), float(words[1])
    finally:
        held.exec(f"echo {before} > {parameter}", 10.0)
    mine, theirs = record["n"] / (record["dt"] / 1e9), total / took_s
    return [
        Figure("stream checked to plain read into a hash", mine / theirs, 0.8,
               detail=f"{record['n'] >> 20} MiB at {mine / 1e6:.0f} to {theirs / 1e6:.0f} MB/s"),
        Figure("agent after a huge stream, resident", held.resident_kib() / 1024, 60, "MB", at_least=False),
    ]  # fmt: skip
