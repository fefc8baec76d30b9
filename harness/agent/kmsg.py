# SPDX-License-Identifier: Apache-2.0
"""The kernel log by sequence numbers: write marks, and read records with a sign of lost ones."""

from __future__ import annotations

import errno
import os
import time

from .failure import Failure

TYPE_CHECKING = False  # typing is slow to import, and only type checkers need it
if TYPE_CHECKING:
    from typing import Any

__all__ = ["KernelLog", "parse_record"]

_RECORD_BYTES = 8192  # the kernel's CONSOLE_EXT_LOG_MAX is the most that one read gives
_MARK_LIMIT_S = 10.0
_MAX_RECORDS = 50000


def parse_record(data: bytes) -> list[Any] | None:
    """Return [priority, sequence, microseconds, text] of one read of /dev/kmsg, None if it is no record."""
    head, found, rest = data.partition(b";")
    fields = head.split(b",")
    if not found or len(fields) < 3:
        return None
    try:
        prio, seq, usec = int(fields[0]), int(fields[1]), int(fields[2])
    except ValueError:
        return None
    text = rest.split(b"\n", 1)[0].decode("utf-8", "replace")  # the lines after it are a dictionary
    return [prio, seq, usec, text]


class KernelLog:
    """A reader of /dev/kmsg that continues where it stopped."""

    def __init__(self, path: str = "/dev/kmsg") -> None:
        self.path = path
        self._fd = -1
        self._next = -1  # the sequence number that the next read gives, -1 if unknown

    def mark(self, text: str) -> dict[str, Any]:
        """Write `text` into the log; return {"seq": its sequence number}."""
        if "\n" in text or len(text) > 900:
            raise Failure("usage", "kmsg_mark: text is not one line of up to 900 characters")
        reader = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.lseek(reader, 0, os.SEEK_END)
            writer = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                # Without the newline the record would be held back, open for a continuation.
                os.write(writer, b"<6>" + text.encode() + b"\n")
            finally:
                os.close(writer)
            end = time.monotonic() + _MARK_LIMIT_S
            while time.monotonic() < end:
                record, _ = _read_one(reader)
                if record is None:
                    time.sleep(0.001)
                elif record[3] == _escaped(text):
                    return {"seq": record[1]}
            raise Failure(
                "lab", "the kernel log did not take a mark within %d s (printk.devkmsg=off?)" % _MARK_LIMIT_S
            )
        finally:
            os.close(reader)

    def read(self, since: int, max: int = 10000) -> dict[str, Any]:
        """Return records from sequence number `since` on, at most `max`.

        {"records": [[prio, seq, usec, text]..], "lost": whether some from `since` on are gone, "next": the
        `since` of the next call}.
        """
        if since < 0 or not 1 <= max <= _MAX_RECORDS:
            raise Failure(
                "usage",
                "kmsg_read: since=%d is negative or max=%d is not 1 to %d" % (since, max, _MAX_RECORDS),
            )
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        if since != self._next:
            os.lseek(self._fd, 0, os.SEEK_SET)  # to the oldest record there is
        records: list[list[Any]] = []
        expected = since
        lost = False
        while len(records) < max:
            record, dropped = _read_one(self._fd)
            lost = lost or (dropped and bool(records or since == self._next))
            if record is None:
                break
            if record[1] < since:
                continue
            # A gap in the numbers is a loss, even if the kernel did not report one (EPIPE).
            lost = lost or record[1] > expected
            expected = record[1] + 1
            records.append(record)
        self._next = expected
        return {"records": records, "lost": lost, "next": expected}


def _escaped(text: str) -> str:
    """Return `text` as /dev/kmsg shows it."""
    return "".join(
        chr(byte) if 32 <= byte < 127 and byte != 92 else "\\x%02x" % byte for byte in text.encode()
    )


def _read_one(fd: int) -> tuple[list[Any] | None, bool]:
    """Return (record or None at the end, whether records were dropped before it)."""
    dropped = False
    while True:
        try:
            data = os.read(fd, _RECORD_BYTES)
        except OSError as e:
            if e.errno == errno.EPIPE:  # overwritten before we read it; the next read gives the oldest left
                dropped = True
                continue
            if e.errno == errno.EAGAIN:
                return None, dropped
            raise
        if not data:
            return None, dropped
        record = parse_record(data)
        if record is not None:
            return record, dropped
