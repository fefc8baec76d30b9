# SPDX-License-Identifier: Apache-2.0
"""A device whose PCI class is that of a 16550 (0700h, interface 02h) has the registers of one.

Register numbers and bits as in include/uapi/linux/serial_reg.h; their meaning is in the data sheet of the
PC16550D.  Everything is tried in loopback (MCR bit 4): the port receives what it transmits, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator

from fixtures.experiment import experiment
from fixtures.subject import Subject
from suites.dev.program import INTX, Bench, le

_DATA, _IER, _FCR, _LCR, _MCR, _LSR, _MSR, _SCR = 0, 1, 2, 3, 4, 5, 6, 7
_IIR = _FCR
_RDI, _THRI, _RLSI, _MSI = 1, 2, 4, 8
_PENDING = {_RLSI: 6, _RDI: 4, _THRI: 2}
_DLAB, _LOOP, _OUT2, _RTS, _DTR = 0x80, 0x10, 0x08, 0x02, 0x01
_FIFO = 16
_PORT = 8
_ODD = [le(v, 1) for v in range(1, 256, 2)]
_EVEN = [le(v, 1) for v in range(0, 256, 2)]


def _ports(subject: Subject) -> list[int]:
    """Regions that are a port: the first, and the second if it has the size of one."""
    if not subject.has("uart"):
        return []
    sizes = {int(r["index"]): int(r["size"]) for r in subject.capabilities.get("regions") or ()}
    return [index for index in (0, 1) if sizes.get(index) == _PORT]


def _quiet(subject: Subject, port: int) -> Bench:
    """A bench with the port in loopback, its FIFOs empty and its interrupts disabled."""
    b = Bench(subject)
    for register, value in ((_LCR, 3), (_IER, 0), (_MCR, _LOOP), (_FCR, 7)):
        b.write(port, register, value, 1)
    for _ in range(_FIFO):  # in case the FIFO cannot be cleared
        b.read(port, _DATA, 1)
    return b


def _send(b: Bench, port: int, data: bytes) -> None:
    for value in data:
        b.write(port, _DATA, value, 1)


def _receive(b: Bench, port: int, data: bytes, clause: str, words: str) -> None:
    for value in data:
        ready = b.read(port, _LSR, 1)
        b.is_one_of("DEV-132", ready, "hex", _ODD, "data ready while there is some")
        i = b.read(port, _DATA, 1)
        b.equals(clause, i, "hex", le(value, 1), words)


@experiment("DEV-130", "DEV-131", own_open=True)
def registers_of_a_16550_keep_what_is_written(subject: Subject) -> Iterator[Bench]:
    for port in _ports(subject):
        b = _quiet(subject, port)
        for register, values in (
            (_SCR, (0, 0xFF, 0x5A)),
            (_LCR, (0x1F, 3)),
            (_MCR, (0x1F, _LOOP)),
            (_IER, (0xF, 0)),
        ):
            for value in values:
                b.write(port, register, value, 1)
                i = b.read(port, register, 1)
                b.equals("DEV-130", i, "hex", le(value, 1), f"register {register} keeps {value:#x}")
        yield b
        b = _quiet(subject, port)
        b.write(port, _LCR, _DLAB | 3, 1)
        for divisor in (0x0001, 0x0C00, 0xFFFF, 0x1234):
            b.write(port, _DATA, divisor & 0xFF, 1)
            b.write(port, _IER, divisor >> 8, 1)
            low, high = b.read(port, _DATA, 1), b.read(port, _IER, 1)
            b.equals("DEV-131", low, "hex", le(divisor & 0xFF, 1), f"the divisor's low byte of {divisor:#x}")
            b.equals("DEV-131", high, "hex", le(divisor >> 8, 1), f"the divisor's high byte of {divisor:#x}")
        b.write(port, _LCR, 3, 1)
        i = b.read(port, _IER, 1)
        b.equals("DEV-131", i, "hex", "00", "the latch is not the register behind it")
        yield b


@experiment("DEV-132", "DEV-133", own_open=True)
def a_16550_in_loopback_receives_what_it_sends(subject: Subject) -> Iterator[Bench]:
    for port in _ports(subject):
        for number in (1, 2, _FIFO):
            b = _quiet(subject, port)
            data = subject.rng.randbytes(number)
            i = b.read(port, _LSR, 1)
            b.is_one_of("DEV-132", i, "hex", _EVEN, "no data ready")
            _send(b, port, data)
            _receive(b, port, data, "DEV-132", "what was sent, in order")
            i = b.read(port, _LSR, 1)
            b.is_one_of("DEV-132", i, "hex", _EVEN, "no data ready any more")
            yield b
        b = _quiet(subject, port)
        data = subject.rng.randbytes(_FIFO)
        _send(b, port, data)
        i = b.read(port, _LSR, 1)
        b.is_one_of("DEV-133", i, "hex", [le(v, 1) for v in range(256) if not v & 2], "no overrun")
        _send(b, port, b"\x55\xaa")
        i = b.read(port, _LSR, 1)
        b.is_one_of("DEV-133", i, "hex", [le(v, 1) for v in range(256) if v & 2], "overrun")
        _receive(b, port, data, "DEV-133", "what was there before the overrun")
        b.write(port, _FCR, 7, 1)
        yield b


@experiment("DEV-134", "DEV-135", own_open=True)
def a_16550_interrupts_for_what_is_enabled(subject: Subject) -> Iterator[Bench]:
    if not subject.capabilities.get("irq_intx"):
        return
    for port in _ports(subject):
        for trigger in (0x01, 0x41, 0x81, 0xC1):
            b = _armed(subject, port, _RDI)
            b.write(port, _FCR, trigger, 1)
            _send(b, port, bytes(14))
            b.signalled("DEV-134", "e", "received data")
            _identified(b, port, _RDI)
            yield b
        b = _armed(subject, port, _RLSI)
        _send(b, port, bytes(_FIFO))
        b.silent("DEV-135", "e", "received data, which is not enabled")
        _send(b, port, b"\x01")
        b.signalled("DEV-134", "e", "overrun")
        _identified(b, port, _RLSI)
        yield b
        b = _armed(subject, port, 0)
        b.write(port, _IER, _THRI, 1)
        b.signalled("DEV-134", "e", "the transmitter is empty")
        _identified(b, port, _THRI)
        yield b
        b = _armed(subject, port, _MSI)
        b.write(port, _MCR, _LOOP | _OUT2 | _RTS | _DTR, 1)
        b.signalled("DEV-134", "e", "a modem line changed")
        b.read(port, _MSR, 1)
        yield b
        b = _armed(subject, port, 0)
        _send(b, port, bytes(_FIFO + 1))
        b.write(port, _MCR, _LOOP | _OUT2 | _RTS, 1)
        i = b.read(port, _IIR, 1)
        b.is_one_of("DEV-135", i, "hex", _ODD, "no interrupt is pending where none is enabled")
        b.silent("DEV-135", "e", "no interrupt is enabled")
        b.write(port, _FCR, 7, 1)
        yield b


def _armed(subject: Subject, port: int, sources: int) -> Bench:
    b = _quiet(subject, port)
    b.eventfd("e")
    b.op("irq_info", fd="d", index=INTX)
    b.succeeds("DEV-134", b.trigger_fds(INTX, 0, ["e"]), "an eventfd for INTx")
    b.write(port, _MCR, _LOOP | _OUT2, 1)
    b.write(port, _IER, sources, 1)
    b.op("eventfd_read", fd="e")  # enabling may have signalled what was pending
    b.unmask()
    return b


def _identified(b: Bench, port: int, source: int) -> None:
    i = b.read(port, _IIR, 1)
    wanted = [le(high << 4 | _PENDING[source], 1) for high in range(16)]
    b.is_one_of("DEV-134", i, "hex", wanted, f"the interrupt is identified as {_PENDING[source]}")
    b.write(port, _FCR, 7, 1)
