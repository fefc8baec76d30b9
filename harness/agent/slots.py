# SPDX-License-Identifier: Apache-2.0
"""Named slots, which pass values between the operations of a program, and the context they run in."""

from __future__ import annotations

import ctypes
import errno
import os
import time

from .failure import Failure
from .features import StateRequest

TYPE_CHECKING = False  # typing is slow to import, and only type checkers need it
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Context", "Mapping", "NoSlot", "Slots", "libc", "libc_error"]

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64,
]  # fmt: skip
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.write.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
libc.write.restype = ctypes.c_ssize_t
libc.read.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]
libc.read.restype = ctypes.c_ssize_t


def libc_error() -> OSError:
    """Return the OSError for the last failed libc call of this thread."""
    number = ctypes.get_errno() or errno.EIO
    return OSError(number, os.strerror(number))


class NoSlot(Exception):
    """An operation names a slot that does not exist: the operation that fills it failed or did not run."""


class _SlotDict(dict):  # type: ignore[type-arg]
    def __missing__(self, name: str) -> Any:
        raise NoSlot(name)


class _FdDict(_SlotDict):
    def __missing__(self, name: Any) -> Any:
        if isinstance(name, int):  # a raw number, for negative tests
            return name
        raise NoSlot(name)


class Mapping:
    """A memory slot: an mmap of an fd or anonymous memory of this process."""

    __slots__ = ("address", "base", "length", "total")

    def __init__(self, address: int, length: int, base: int, total: int) -> None:
        self.address = address  # what operations see, aligned as asked
        self.length = length
        self.base = base  # what munmap takes
        self.total = total

    def at(self, off: int, count: int) -> int:
        """Return the address of `count` bytes at `off`; Failure if the mapping does not hold all of them."""
        if off + count > self.length:
            raise Failure(
                "usage", "offset %d plus %d is outside the mapping of %d bytes" % (off, count, self.length)
            )
        return self.address + off


class Slots:
    """The slots of one session.  `keep` names those that outlive a program."""

    def __init__(self) -> None:
        self.fds = _FdDict()
        self.ints = _SlotDict()
        self.blobs = _SlotDict()
        self.maps = _SlotDict()
        self.actors = _SlotDict()
        self.replaced: list[int] = []  # fds whose slot was taken by a later one; open until the program ends
        self.keep: set[str] = set()

    def put_fd(self, name: str | None, fd: int) -> None:
        """Store `fd` in slot `name`; an fd that was there stays open until the end of the program."""
        if name is None:
            self.replaced.append(fd)
            return
        if name in self.fds:
            self.replaced.append(self.fds[name])
        self.fds[name] = fd

    def close_rest(self, keep: set[str] | frozenset[str]) -> None:
        """Close and forget every slot that is not in `keep`."""
        for name in [n for n in self.actors if n not in keep]:
            self.actors.pop(name).end()
        for name in [n for n in self.maps if n not in keep]:
            mapping = self.maps.pop(name)
            libc.munmap(mapping.base, mapping.total)
        while self.replaced:
            _close(self.replaced.pop())
        for name in [n for n in self.fds if n not in keep]:
            _close(self.fds.pop(name))
        for values in (self.ints, self.blobs):
            for name in [n for n in values if n not in keep]:
                del values[name]


def _close(fd: int) -> None:
    try:
        os.close(fd)
    except OSError:
        pass


class _Pulse:
    """Stands in for the executor's thread, in an actor."""

    __slots__ = ("since_ns",)

    def __init__(self) -> None:
        self.since_ns = 0


class Context:
    """The state of one thread of a program; not shared between threads."""

    def __init__(
        self, slots: Slots, devices: dict[str, Any], deadline_ns: int, shared: Any, pulse: Any = None
    ) -> None:
        self.slots = slots
        self.fds = slots.fds
        self.ints = slots.ints
        self.blobs = slots.blobs
        self.maps = slots.maps
        self.devices = devices
        self.deadline_ns = deadline_ns
        self.shared = shared  # the Run: barriers and actors, which all threads of a program share
        self.pulse = pulse or _Pulse()  # its `since_ns` is set by each step of an operation of many steps
        self.request = StateRequest()  # for get_state and set_state, which set every field

    def remaining_s(self) -> float:
        """Return how long this program may still run, in seconds, never negative."""
        if self.shared is not None:
            self.deadline_ns = self.shared.deadline_ns  # later than it was, where the host stood still
        return max(0.0, (self.deadline_ns - time.monotonic_ns()) / 1e9)

    def device(self, name: str) -> dict[str, Any]:
        """Return the program's device `name`."""
        return self.devices[name]  # type: ignore[no-any-return]

    def number(self, value: Any) -> int:
        """Return the value of an `id` argument: the number, or the integer slot that it names."""
        return value if isinstance(value, int) else self.ints[value]
