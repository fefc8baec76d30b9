# SPDX-License-Identifier: Apache-2.0
"""Runs the walk operation in the compiled loop of walk.c, where this host can.

The shared object comes with the agent, in its bundle, and so under the bundle's hash.  It lies in a memfd
while it is loaded: nothing is written to the host.  The dynamic loader refuses what is made for another
machine or word size, which a bare piece of code in memory would not; a host that forbids code from memory
refuses, too.  The loop needs no C library.
"""

from __future__ import annotations

import binascii
import ctypes
import errno
import os
import sys
import time

from harness.uapi import vfio

from . import compiled
from .features import StateRequest
from .slots import libc

TYPE_CHECKING = False  # typing is dear to import, and only checkers need it
if TYPE_CHECKING:
    from typing import Any, Callable

__all__ = ["CALL", "NativeWalk", "native_walk"]

_MFD_EXEC = 0x10  # Linux before 6.3 does not know it; later ones log a line where it is missing
_OVER, _MORE, _LOAD, _FAILED = range(4)  # what a slice ends with
_SLICE_NS = 20_000_000  # how old the pulse may be while steps are fast

CALL = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_long, ctypes.c_long, ctypes.c_long, ctypes.c_long)
"""A system call by number, with three arguments: a result, or minus an errno."""


class _Walk(ctypes.Structure):
    """`struct walk` of walk.c."""

    _fields_ = [
        ("call", ctypes.c_void_p), ("clock", ctypes.c_void_p),
        ("targets", ctypes.c_char_p), ("sessions", ctypes.c_char_p), ("stream", ctypes.c_char_p),
        ("recs", ctypes.c_void_p),
        ("count", ctypes.c_uint64), ("done", ctypes.c_uint64),
        ("stream_bytes", ctypes.c_uint64), ("loaded_bytes", ctypes.c_uint64),
        ("until_ns", ctypes.c_int64), ("slice_ns", ctypes.c_int64),
        ("set", StateRequest), ("get", StateRequest),
        ("feature", ctypes.c_uint32), ("reset", ctypes.c_uint32), ("pending", ctypes.c_uint32),
        ("fd", ctypes.c_int32), ("held", ctypes.c_int32), ("held_session", ctypes.c_int32),
        ("loading", ctypes.c_int32), ("elsewhere", ctypes.c_int32), ("error", ctypes.c_int32),
    ]  # fmt: skip


class NativeWalk:
    """The compiled loop.  `call` (a CALL) stands in for the kernel in tests; None is the kernel itself."""

    def __init__(self, image: bytes, call: Any = None) -> None:
        """Load `image`, the shared object; OSError or AttributeError where this host does not take it."""
        library = _loaded_from_memory(image)
        size = ctypes.c_uint32.in_dll(library, "vfiocert_walk_bytes").value
        if size != ctypes.sizeof(_Walk):
            raise OSError("its structure has %d bytes, and here %d" % (size, ctypes.sizeof(_Walk)))
        self._function = library.vfiocert_walk
        self._function.argtypes = [ctypes.POINTER(_Walk)]
        self._call = call  # held here, since the loop has only its address
        # The C library's clock needs no system call.
        self._clock = None if call else ctypes.cast(libc.clock_gettime, ctypes.c_void_p).value

    def walk(
        self, fd: int, targets: bytes, requests: tuple[bytearray, bytearray], sessions: bytes, stream: Any,
        load: Callable[[int], int] | None, pulse: Any, until_ns: int,
    ) -> tuple[bytes, int]:  # fmt: skip
        """Walk as harness/agent/walk.py does: (records, the fd still held or -1); OSError of a close.

        `requests`: those of SET and GET, as they are before the call.  `sessions`: that of each state.
        `load` writes the stream to an fd where it is not to be written in one go, and gives 0 where not all
        of it was taken; `stream` is bytes where there is no `load`.
        """
        recs = (ctypes.c_uint8 * (4 * len(targets)))()
        walk = _Walk(
            call=ctypes.cast(self._call, ctypes.c_void_p).value if self._call else None, clock=self._clock,
            targets=targets, sessions=sessions, stream=None if load else stream, recs=ctypes.addressof(recs),
            count=len(targets), stream_bytes=len(stream), until_ns=until_ns, slice_ns=_SLICE_NS,
            set=StateRequest.from_buffer(requests[0]), get=StateRequest.from_buffer(requests[1]),
            feature=vfio.VFIO_DEVICE_FEATURE, reset=vfio.VFIO_DEVICE_RESET, fd=fd, held=-1,
            elsewhere=load is not None,
        )  # fmt: skip
        function, place, clock = self._function, ctypes.byref(walk), time.monotonic_ns
        end = _MORE
        while end != _OVER:
            pulse.since_ns = clock()
            end = function(place)  # without the interpreter's lock, so that the agent's watcher goes on
            if end == _LOAD and load is not None:
                walk.loaded_bytes = load(walk.held)
            elif end == _FAILED:
                raise OSError(walk.error, os.strerror(walk.error))
        return bytes(memoryview(recs)[: 4 * walk.done]), walk.held


def _loaded_from_memory(image: bytes) -> ctypes.CDLL:
    try:
        fd = os.memfd_create("vfiocert-walk", os.MFD_CLOEXEC | _MFD_EXEC)
    except OSError as e:
        if e.errno != errno.EINVAL:
            raise
        fd = os.memfd_create("vfiocert-walk", os.MFD_CLOEXEC)
    try:
        os.write(fd, image)
        return ctypes.CDLL("/proc/self/fd/%d" % fd)
    finally:
        os.close(fd)


_found: list[NativeWalk | None] = []  # once this process has looked


def native_walk() -> NativeWalk | None:
    """Return the compiled loop, None where this host cannot run it; the first call says why on stderr."""
    if not _found:
        why = compiled.WHY
        walk = None
        if compiled.WALK and os.uname().machine != compiled.MACHINE:
            why = "it was compiled for %s" % compiled.MACHINE
        elif compiled.WALK:
            try:
                walk = NativeWalk(binascii.a2b_base64(compiled.WALK))
            except (OSError, AttributeError, ValueError) as e:  # ValueError: not base64, or no such symbol
                why = str(e)
        if walk is None:
            sys.stderr.write("vfiocert agent: walks in Python, the compiled loop is not usable: %s\n" % why)
        _found.append(walk)
    return _found[0]
