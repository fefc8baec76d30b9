# SPDX-License-Identifier: Apache-2.0
"""The figures: each a measured value, what is wanted of it, and whether that is met."""

from __future__ import annotations

import base64
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase
from hypothesis import strategies as st

from fixtures.connect import HostConnection
from fixtures.rig import Rig
from harness.commands.bench.yardstick import Yardstick
from harness.hosts.client import Agent, RunResult
from harness.program.script import Script
from suites.mig.random_programs import STEPS, programs

__all__ = [
    "Figure",
    "agent_memory",
    "agent_start",
    "own_memory",
    "programs_figure",
    "send",
    "sweep_figures",
    "sweep_targets_of",
]

OPERATIONS = 20
_ROUNDS = 5
_EXECS = 10


@dataclass(frozen=True)
class Figure:
    """One line of the report; `at_least` says which side of `wanted` is good."""

    name: str
    measured: float
    wanted: float
    unit: str = ""
    at_least: bool = True
    detail: str = ""

    @property
    def met(self) -> bool:
        """Whether what was measured is on the good side."""
        return self.measured >= self.wanted if self.at_least else self.measured <= self.wanted

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "met": self.met}

    def line(self) -> str:
        """For people: figure, measured, wanted, met or not."""
        side = "at least" if self.at_least else "at most"
        unit = f" {self.unit}" if self.unit else ""
        text = f"{self.name}: {self.measured:.4g}{unit}, wanted {side} {self.wanted:g}{unit}: "
        return text + ("met" if self.met else "NOT met") + (f" ({self.detail})" if self.detail else "")


def sweep_targets_of(programs: list[dict[str, Any]]) -> bytes:
    """All targets of the walks in sweep programs, in order: what the yardstick walks."""
    walks = [args for p in programs for name, args in p["threads"][0]["ops"] if name == "walk"]
    return b"".join(base64.b64decode(args["targets"]) for args in walks)


def send(connection: HostConnection, program: Mapping[str, Any], limit_s: float) -> RunResult:
    """Run a program in the rig's open session, unjudged; an operation, or all of it, may take `limit_s`."""
    limit_ms = int(limit_s * 1000)
    return connection.agent.run(
        {"devices": {"dev0": dict(connection.device)}, "session": "main", "keep": ["d", "i", "ioas"],
         "deadline_ms": limit_ms, "op_ms": limit_ms, "threads": program["threads"]},
        deadline_s=limit_s + 30,
    )  # fmt: skip


def _rate(work: Callable[[], int]) -> float:
    begun = time.monotonic()
    done = work()
    return done / (time.monotonic() - begun)


def sweep_figures(
    rig: Rig, connection: HostConnection, yard: Yardstick, programs: list[dict[str, Any]]
) -> list[Figure]:
    """The sweep against the C program doing the same, and against an `exec` for each operation.

    Rounds of the three alternate, so that whatever else the machine does falls on all of them.
    """
    arcs = len(sweep_targets_of(programs))

    def whole_stack() -> int:
        for program in programs:
            send(connection, program, 60.0)
        return arcs

    def execs() -> int:
        for _ in range(_EXECS):
            yard.one(1)
        return _EXECS

    stack, plain, single = [], [], []
    for _ in range(_ROUNDS):
        rig.subject("bench")  # opens the device
        stack.append(_rate(whole_stack))
        rig.execute(
            Script().to_json()
        )  # a reset: mtty does not survive a SET after a close in a saving state
        rig.release()  # only one may have the device open
        plain.append(yard.sweep(max(1, 40000 // arcs)))
        single.append(_rate(execs))
    mine, c, one = statistics.median(stack), statistics.median(plain), statistics.median(single)
    seen = f"{mine:,.0f} arcs/s"
    return [
        Figure("sweep to C loop", statistics.median(a / b for a, b in zip(stack, plain, strict=True)), 0.5,
               detail=f"{seen} to {c:,.0f}"),
        Figure("sweep to one exec an operation",
               statistics.median(a / b for a, b in zip(stack, single, strict=True)), 500,
               detail=f"{seen} to {one:.1f} arcs/s"),
    ]  # fmt: skip


def programs_figure(rig: Rig, seed: int, count: int = 600, batch: int = 8) -> Figure:
    """Random programs of 20 steps a second, as certification runs them: Hypothesis to oracle and back."""
    subject = rig.subject("bench")
    settings = hypothesis.settings(
        max_examples=max(1, count // batch), deadline=None, database=None, phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    done = 0

    def judged(many: list[dict[str, Any]]) -> None:
        nonlocal done
        rig.execute_many(many)
        done += len(many)

    batches = st.lists(programs(subject, STEPS), min_size=batch, max_size=batch)
    trial = hypothesis.seed(seed)(settings(hypothesis.given(batches)(judged)))
    begun = time.monotonic()
    trial()
    return Figure(
        "random programs", done / (time.monotonic() - begun), 150, "programs/s", detail=f"{done} programs"
    )


def agent_memory(connection: HostConnection) -> Figure:
    """Resident memory of the agent after all this."""
    return Figure("agent, resident", connection.resident_kib() / 1024, 40, "MB", at_least=False)


def agent_start(start: Callable[[], Agent]) -> Figure:
    """From the start of a second agent's process to its first answer; the median of five."""
    taken = []
    for _ in range(_ROUNDS):
        begun = time.monotonic()
        agent = start()
        try:
            agent.call("host_info")
            taken.append(time.monotonic() - begun)
        finally:
            agent.close()
    shown = ", ".join(f"{t:.2f}" for t in taken)
    return Figure(
        "agent, start to first answer", statistics.median(taken), 1, "s", at_least=False, detail=shown
    )


def own_memory(name: str = "controller, at most resident", wanted: float = 300) -> Figure:
    """The most memory this controller process ever had."""
    kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Figure(name, kib / 1024, wanted, "MB", at_least=False)
