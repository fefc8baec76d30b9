# SPDX-License-Identifier: Apache-2.0
"""`vfiocert bench`: how fast suite and lab are, as ratios measured in one run; docs/figures.md explains."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from fixtures.connect import HostConnection, embedded_machine, inventory_of, open_rig
from harness import PROJECT
from harness.commands.bench.figures import (
    Figure,
    agent_memory,
    agent_start,
    own_memory,
    programs_figure,
    sweep_figures,
    sweep_targets_of,
)
from harness.commands.bench.large import dirty_figures, stream_figures
from harness.commands.bench.slow import SLOW_DEVICE, huge_stream_figures, slow_figures
from harness.commands.bench.yardstick import compiled, yardstick
from harness.errors import EXIT_CONFORMING, EXIT_NON_CONFORMING, LabError, UsageError
from harness.hosts.client import boot_command, start_agent
from harness.hosts.inventory import EMBEDDED, Target, select
from harness.hosts.inventory.models import HostSpec
from harness.hosts.ssh import SshConnection, SshHost
from harness.lab.embedded import attach
from harness.progress import Progress, open_progress
from suites.mig.sweep import sweep_programs

__all__ = ["bench", "certify_figures"]

_CERTIFY_LIMIT_S = 1800.0
_WARM_S, _COLD_S, _ALL_S = 60.0, 480.0, 300.0
_DEPTH, _PROGRAMS = 5, 4
_RESET = bytes([255])
"""Ends the walk of the yardstick in RUNNING: mtty does not survive a SET after a close in a saving state."""


def bench(
    lab: Annotated[str, typer.Option(help="lab of labs.yaml, or 'embedded'")] = EMBEDDED,
    device: Annotated[str | None, typer.Option(help="device id  [default: the lab's first]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="a JSON list, one object a figure")] = False,
    certify: Annotated[
        bool, typer.Option("--certify", help="also time a certification of the embedded lab, cached")
    ] = False,
    large: Annotated[
        bool, typer.Option("--large", help="also a stream of 256 MiB and many pages, on the reference device")
    ] = False,
    slow: Annotated[
        bool,
        typer.Option(
            "--slow", help="also a device whose arcs take 50 ms, and a stream of 4 GiB (embedded lab)"
        ),
    ] = False,
    cold: Annotated[
        bool, typer.Option("--cold", help="also time one with an empty cache, kernel build included")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="seed of the random programs")] = 0,
    labs_file: Annotated[Path | None, typer.Option(help="inventory [default: labs.yaml]")] = None,
) -> None:
    """Measure operations per second of agent and lab, as ratios of one run, against the wanted figures.

    \b
    Examples:
      vfiocert bench
      vfiocert bench --lab rack7 --device cx7-vf0 --json
      vfiocert bench --certify --cold

    Exit status: 0 every figure is met, 1 one is not, 3 the lab failed.
    """
    target = select(inventory_of(labs_file, lab), lab, [device] if device else [])[0]
    program = compiled()
    with open_progress() as progress:
        with embedded_machine(lab, None, "plain", progress) as lab_name:
            figures = _measure(target, lab_name, labs_file, seed, program, progress)
            if large:
                figures += _large(lab_name, seed, progress)
            if slow:
                figures += _slow(lab_name, seed, progress)
        if certify:
            progress.step("certifying the embedded lab")
            figures += certify_figures("certify mtty0, cached", _WARM_S, {}, "--device", "mtty0")
            progress.step("certifying every embedded device")
            figures += certify_figures("certify, all devices", _ALL_S, {})
        if cold:
            progress.step("certifying the embedded lab with an empty cache")
            with tempfile.TemporaryDirectory(prefix="vfiocert-bench-") as cache:
                figures += certify_figures(
                    "certify mtty0, empty cache", _COLD_S, {"XDG_CACHE_HOME": cache}, "--device", "mtty0"
                )
    if as_json:
        print(json.dumps([figure.as_dict() for figure in figures], indent=1))
    else:
        for figure in figures:
            print(figure.line())
    raise typer.Exit(EXIT_CONFORMING if all(f.met for f in figures) else EXIT_NON_CONFORMING)


def _measure(
    target: Target,
    lab_name: str | None,
    labs_file: Path | None,
    seed: int,
    program: bytes,
    progress: Progress,
) -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="vfiocert-bench-") as scratch:
        rig = open_rig(target.lab, lab_name, target.device.id, seed, Path(scratch), labs_file, [])
        try:
            flags = rig.subject("bench").flags
            held = rig.connection
            assert isinstance(held, HostConnection)
            programs = list(itertools.islice(sweep_programs(flags, _DEPTH), _PROGRAMS))
            with _connect(target, lab_name) as connection:
                python, sudo = _how(target)
                node = held.device["cdev"]
                progress.step("sweeping")
                with yardstick(connection, node, program, sweep_targets_of(programs) + _RESET, sudo) as yard:
                    figures = sweep_figures(rig, held, yard, programs)
                progress.step("running random programs")
                figures.append(programs_figure(rig, seed))
                progress.step("starting agents")
                figures.append(agent_memory(held))
                start = boot_command(python, sudo)
                figures.append(agent_start(lambda: start_agent(connection.transport(start))))
        finally:
            rig.drop()
    return [*figures, own_memory()]


def _large(lab_name: str | None, seed: int, progress: Progress) -> list[Figure]:
    if lab_name is None:
        raise UsageError("--large needs the reference device of the embedded lab; leave --lab out")
    with tempfile.TemporaryDirectory(prefix="vfiocert-bench-") as scratch:
        rig = open_rig(EMBEDDED, lab_name, "ref", seed, Path(scratch), None, [])
        try:
            progress.step("saving and restoring a stream of 256 MiB")
            figures = stream_figures(rig)
            progress.step("reporting a million pages and 64 GiB of addresses")
            figures += dirty_figures(rig)
        finally:
            rig.drop()
    return [*figures, own_memory("controller with large streams, at most resident", 400)]


def _slow(lab_name: str | None, seed: int, progress: Progress) -> list[Figure]:
    if lab_name is None:
        raise UsageError("--slow needs the reference device of the embedded lab; leave --lab out")
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="vfiocert-bench-") as scratch:
        rig = open_rig(EMBEDDED, lab_name, SLOW_DEVICE, seed, Path(scratch), None, [])
        try:
            progress.step("sweeping a device of 50 ms an arc")
            figures += slow_figures(rig, seed)
        finally:
            rig.drop()
        rig = open_rig(EMBEDDED, lab_name, "ref", seed, Path(scratch), None, [])
        try:
            progress.step("reading a stream of 4 GiB, twice")
            rig.subject("bench")
            held = rig.connection
            assert isinstance(held, HostConnection)
            figures += huge_stream_figures(rig, held, "/sys/module/vfiocert_ref/parameters/stream_bytes")
        finally:
            rig.drop()
    return [*figures, own_memory("controller after a huge stream, at most resident")]


def _how(target: Target) -> tuple[str, bool]:
    return ("python3", False) if target.host is None else (target.host.python, target.host.become == "sudo")


def _connect(target: Target, lab_name: str | None) -> SshConnection:
    """A connection beside the rig's."""
    if lab_name is None:
        if target.host is None:
            raise LabError("the embedded lab is not running; run 'vfiocert lab up'")
        return SshHost().connect(target.host, jumps=target.jumps)
    lab = attach(lab_name)
    access = {
        "address": lab.address, "port": lab.port, "user": lab.user, "key": str(lab.key_path),
        "known_hosts": str(lab.known_hosts_path),
    }  # fmt: skip
    return SshHost().connect(HostSpec.model_validate(access), name=f"lab {lab_name}")


def certify_figures(name: str, wanted_s: float, extra: dict[str, str], *arguments: str) -> list[Figure]:
    """Time `vfiocert certify` as a process of its own, from command to verdict."""
    environment = {k: v for k, v in os.environ.items() if k != "VFIOCERT_LAB_NAME"} | extra
    with tempfile.TemporaryDirectory(prefix="vfiocert-bench-") as folder:
        out = Path(folder) / "run"
        begun = time.monotonic()
        try:
            done = subprocess.run(
                [sys.executable, "-m", "harness", "certify", *arguments, "--out", str(out), "--seed", "1"],
                cwd=PROJECT, env=environment, stdin=subprocess.DEVNULL,
                capture_output=True, timeout=_CERTIFY_LIMIT_S, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise LabError(f"{name}: no verdict within {_CERTIFY_LIMIT_S:g} s") from None
        taken = time.monotonic() - begun
        run = _run_of(out, done.stderr.decode("utf-8", "replace"))
    arcs = sum(int(d.get("counts", {}).get("arcs", 0)) for d in run.get("devices", []))
    verdict = str(run.get("verdict"))
    detail = f"verdict {verdict}, {arcs} arcs"
    return [Figure(name, taken, wanted_s, "s", at_least=False, detail=detail)]


def _run_of(out: Path, words: str) -> dict[str, Any]:
    try:
        run = json.loads((out / "run.json").read_text())
    except (OSError, ValueError):
        last = (words.strip().splitlines() or ["no message"])[-1]
        raise LabError(f"certify left no run.json: {last[:300]}") from None
    if not isinstance(run, dict):
        raise LabError("certify left a run.json that is no object")
    return run
