# SPDX-License-Identifier: Apache-2.0
"""The fast path of the bounded-exhaustive sweep: thousands of state requests in one operation.

The record of a step is 4 bytes (docs/architecture.md):

* errno of the SET or reset;
* the state that GET reports, 0xff where it failed;
* bits: 1 an fd came back, 2 it was close-on-exec, 4 an fd was held before this step, 8 the number returned
  was neither -1 nor a new open fd, 16 the state written back by a successful SET is not what GET reports;
* errno of the one-byte read of the fd held before, 0 where it returned nothing, 0xfd where it returned data,
  0xfe where no read was made.

With a stream, each session that RESUMING starts is given it whole: bit 32.  A walk that has used its
`limit_ms` ends before the next step: there are as many records as steps were made.

walk.c is the same loop compiled, and is what runs where the host takes it (native_walk.py).
"""

from __future__ import annotations

import binascii
import gc
import os
import time
from fcntl import F_GETFD, FD_CLOEXEC, fcntl, ioctl
from struct import Struct

from harness.uapi import vfio

from .features import StateRequest
from .slots import Context
from .streams import PIECE, part_of

TYPE_CHECKING = False  # typing is dear to import, and only checkers need it
if TYPE_CHECKING:
    from typing import Any

    from .native_walk import NativeWalk

__all__ = ["OPS", "RESET_TARGET", "walk", "walk_in_c", "walk_in_python"]

RESET_TARGET = 255
_SESSIONS = {
    vfio.VFIO_DEVICE_STATE_PRE_COPY: 1,
    vfio.VFIO_DEVICE_STATE_PRE_COPY_P2P: 1,
    vfio.VFIO_DEVICE_STATE_STOP_COPY: 1,
    vfio.VFIO_DEVICE_STATE_RESUMING: 2,
}
_SESSION = bytes(_SESSIONS.get(state, 0) for state in range(256))  # 0: none
_SET = vfio.VFIO_DEVICE_FEATURE_SET | vfio.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE
_GET = vfio.VFIO_DEVICE_FEATURE_GET | vfio.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE
NO_FD_YET = -2  # what data_fd holds before the call: not -1, so that a kernel that writes nothing is seen


def _request(flags: int, state: int) -> bytearray:
    return bytearray(StateRequest(argsz=16, flags=flags, device_state=state, data_fd=NO_FD_YET))


_REQUESTS: list[bytearray] = []  # by target; made by the first walk, for most agents make none


def walk(ctx: Context, args: dict[str, Any]) -> dict[str, Any]:
    """Request each target in turn and return 4 bytes about each, base64."""
    from .native_walk import native_walk  # most agents never walk

    fd = ctx.fds[args["fd"]]
    stream = ctx.blobs[args["stream"]] if "stream" in args else b""
    if len(stream) <= PIECE:
        stream = bytes(part_of(stream, 0, PIECE))
    targets = binascii.a2b_base64(args["targets"])
    until_ns = time.monotonic_ns() + args.get("limit_ms", 1 << 32) * 1_000_000
    native = native_walk() if fd >= 0 else None  # Python has an answer of its own to a negative number
    if native is None:
        recs, held = walk_in_python(fd, targets, stream, ctx.pulse, until_ns)
    else:
        recs, held = walk_in_c(native, fd, targets, stream, ctx.pulse, until_ns)
    if held >= 0:
        os.close(held)
    return {"recs": binascii.b2a_base64(recs, newline=False).decode("ascii")}


def walk_in_c(
    native: NativeWalk, fd: int, targets: bytes, stream: Any, pulse: Any, until_ns: int
) -> tuple[bytes, int]:
    """The compiled loop: (records, the fd still held or -1).  A stream of many pieces is loaded from here."""
    load = (lambda held: _load(held, stream, pulse)) if len(stream) > PIECE else None
    requests = _request(_SET, 0), _request(_GET, 0)
    return native.walk(fd, targets, requests, _SESSION, stream, load, pulse, until_ns)


def walk_in_python(fd: int, targets: bytes, stream: Any, pulse: Any, until_ns: int) -> tuple[bytes, int]:
    """The loop of this file: (records, the fd still held or -1)."""
    collecting = gc.isenabled()
    gc.disable()  # each refused request makes an exception, and none of them is in a cycle
    try:
        return _walk(fd, targets, stream, pulse, until_ns)
    finally:
        if collecting:
            gc.enable()


def _load(fd: int, stream: Any, pulse: Any) -> int:
    """Write the stream to a resuming fd; 32 where all of it was taken."""
    done, length = 0, len(stream)
    try:
        while done < length:
            part = part_of(stream, done, PIECE) if done or length > PIECE else stream
            done += os.write(fd, part)
            pulse.since_ns = time.monotonic_ns()
    except OSError:
        return 0
    return 32


def _walk(fd: int, targets: bytes, stream: Any, pulse: Any, until_ns: int) -> tuple[bytes, int]:
    # Everything a step touches is a local, and no object is made that can be avoided: this loop is the
    # suite's throughput.
    feature, reset, read, close = vfio.VFIO_DEVICE_FEATURE, vfio.VFIO_DEVICE_RESET, os.read, os.close
    session_of, requests, control, descriptor, clock = _SESSION, _REQUESTS, ioctl, fcntl, time.monotonic_ns
    if not requests:
        requests += [_request(_SET, target) for target in range(256)]
    answer = bytearray(16)
    get = _request(_GET, 0)
    answered, got = memoryview(answer).cast("i"), memoryview(get).cast("I")
    recs: list[int] = []
    record = recs.append
    held, held_session = -1, 0
    for target in targets:
        pulse.since_ns = now = clock()
        if now > until_ns and recs:
            break
        flags = 4 if held >= 0 else 0
        error = 0
        written = -1
        number = -1
        if target == RESET_TARGET:
            try:
                control(fd, reset)
            except OSError as e:
                error = (e.errno or 0xFF) & 0xFF
        else:
            answer[:] = requests[target]
            try:
                control(fd, feature, answer, True)
                written, number = answered[2], answered[3]
            except OSError as e:
                error = (e.errno or 0xFF) & 0xFF
                number = answered[3]
                if number == NO_FD_YET:  # refused before the kernel wrote anything
                    number = -1
        try:
            control(fd, feature, get, True)
            state = got[2]
            if state > 0xFE:
                state = 0xFE  # no such state: it must not pass for a failed GET
        except OSError:
            state = 0xFF
        if written != state and written != -1:
            flags |= 16
        new = -1
        if number != -1:
            try:
                mode = descriptor(number, F_GETFD) if number >= 0 and number != held and number != fd else -1
            except OSError:
                mode = -1
            if mode < 0:
                flags |= 8
            else:
                new = number
                flags |= 3 if mode & FD_CLOEXEC else 1
        session = session_of[state]
        outcome = 0xFE
        if held >= 0 and (new >= 0 or (session != held_session and state != 0xFF)):
            try:
                outcome = 0xFD if read(held, 1) else 0
            except OSError as e:
                outcome = (e.errno or 0xFF) & 0xFF
            close(held)
            held = -1
        if new >= 0:
            held, held_session = new, session
            if stream and session == 2:
                flags |= _load(new, stream, pulse)
        record(error | state << 8 | flags << 16 | outcome << 24)
    return Struct("<%dI" % len(recs)).pack(*recs), held  # the trace's own format, not the kernel's


OPS = {"walk": walk}
