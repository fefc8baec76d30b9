# SPDX-License-Identifier: Apache-2.0
"""DEV-130 to DEV-135: a correct 16550 breaks no clause, and each wrong one is caught."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from fixtures.experiment import experiments_in
from fixtures.subject import Subject
from harness.oracle.judge import _judge_claims
from harness.oracle.judgement import Judgement
from harness.profiles import load_profile
from suites.dev import experiments_uart

CAPABILITIES: dict[str, Any] = {
    "uart": True, "irq_intx": 1, "regions": [{"index": 0, "size": 8}, {"index": 7, "size": 256}],
}  # fmt: skip
RDI, THRI, RLSI, MSI = 1, 2, 4, 8


class Uart:
    """The registers of a PC16550D in loopback, its line and an eventfd; `bad` names what is wrong with it."""

    def __init__(self, bad: str) -> None:
        self.bad = bad
        self.kept = dict.fromkeys((1, 3, 4, 7), 0)
        self.latch = [0, 0]
        self.fifo: list[int] = []
        self.overrun = self.thr_told = self.modem = False
        self.signals = 0
        self.was_up = self.masked = False

    def pending(self) -> list[int]:
        """Sources that are enabled and pending, the most urgent first."""
        raised = {
            RLSI: self.overrun, RDI: bool(self.fifo), THRI: not self.thr_told, MSI: self.modem,
        }  # fmt: skip
        enabled = 0xF if self.bad == "interrupts for all" else self.kept[1]
        silent = {"no RLSI": RLSI, "no RDI": RDI, "no THRI": THRI, "no MSI": MSI}.get(self.bad, 0)
        return [source for source in raised if raised[source] and enabled & source & ~silent]

    def line(self) -> None:
        """Update the interrupt line from the registers; it is automasked, as INTx is."""
        up = bool(self.pending())
        if up and not self.masked and not self.was_up:
            self.signals += 1
            self.masked = True
        self.was_up = up and self.masked

    def write(self, register: int, value: int) -> None:
        """One byte to a register."""
        if register in (0, 1) and self.kept[3] & 0x80:
            self.latch[register] = (self.latch[register] if self.bad == "latch ors" else 0) | value
        elif register == 0:
            if len(self.fifo) < 16:
                self.fifo.append(value)
            else:
                self.overrun = self.bad != "no overrun"
                if self.bad == "overrun clears":
                    self.fifo = [value]
            self.thr_told = False
        elif register == 2:
            if value & 6:
                self.fifo = []
        elif register == 4:
            self.modem |= (value ^ self.kept[4]) & 3 != 0
            self.kept[4] = value
        elif register in self.kept and not (register == 7 and self.bad == "scratch forgets"):
            self.kept[register] = value

    def read(self, register: int) -> int:
        """One byte from a register."""
        if register in (0, 1) and self.kept[3] & 0x80 and self.bad != "no latch":
            return self.latch[register]
        if register == 0:
            return (self.fifo.pop(-1 if self.bad == "last in first out" else 0)) if self.fifo else 0
        if register == 2:
            sources = self.pending()
            self.thr_told |= sources[:1] == [THRI]
            code = {RLSI: 6, RDI: 4, THRI: 2, MSI: 0}
            if self.bad == "no identification":
                return 0xC1
            if self.bad == "always pending":
                return 0xC0 | (code[sources[0]] if sources else 0)
            return 0xC0 | (code[sources[0]] if sources else 1)
        if register == 5:
            value = (bool(self.fifo) and self.bad != "no data ready") | self.overrun << 1
            self.overrun = False
            return value
        if register == 6:
            self.modem = False
        return self.kept.get(register, 0)


def records_of(program: dict[str, Any], uart: Uart) -> dict[tuple[str | None, int], Any]:
    """What the program's operations return on this device."""
    records: dict[tuple[str | None, int], Any] = {}
    for i, (name, args) in enumerate(program["threads"][0]["ops"]):
        record: dict[str, Any] = {"t": "main", "i": i, "op": name, "ret": 0, "errno": 0}
        if name == "region_write":
            uart.write(args["off"], int(args["hex"], 16))
        elif name == "region_read":
            record["hex"] = f"{uart.read(args['off']):02x}"
        elif name == "set_irqs" and args["flags"] & 16:
            uart.masked = uart.was_up = False
        elif name == "eventfd_read":
            record["errno"] = 0 if uart.signals else errno.EAGAIN
            uart.signals = 0
        uart.line()
        records[None, i] = record
    return records


def broken(bad: str) -> set[str]:
    """The clauses that fail on a device that is wrong in this way."""
    verdict = Judgement()
    for experiment in experiments_in(experiments_uart):
        subject = Subject.of(CAPABILITIES, load_profile("mtty"), 1)
        for bench in experiment(subject):
            program = bench.to_json()
            _judge_claims(program, records_of(program, Uart(bad)), verdict)
    assert {f"DEV-{n}" for n in range(130, 136)} == set(verdict.checked)
    return {violation.clause for violation in verdict.violations}


def test_a_16550_that_keeps_its_data_sheet_breaks_nothing() -> None:
    assert broken("") == set()


@pytest.mark.parametrize(
    "bad, clause",
    [
        ("scratch forgets", "DEV-130"), ("latch ors", "DEV-131"), ("no latch", "DEV-131"),
        ("last in first out", "DEV-132"), ("no data ready", "DEV-132"), ("no overrun", "DEV-133"),
        ("overrun clears", "DEV-133"), ("no RLSI", "DEV-134"), ("no RDI", "DEV-134"), ("no THRI", "DEV-134"),
        ("no MSI", "DEV-134"), ("no identification", "DEV-134"), ("interrupts for all", "DEV-135"),
        ("always pending", "DEV-135"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_caught(bad: str, clause: str) -> None:
    assert clause in broken(bad)
