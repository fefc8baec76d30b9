# SPDX-License-Identifier: Apache-2.0
"""Operations that any fd understands: read, write, bytes, poll, fcntl, dup, close, eventfd."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import time

from harness.uapi.layout import s32, u64

from .digest import sha256_hex
from .failure import Failure
from .slots import Context, libc, libc_error
from .streams import PIECE, Pieces, Recorder, Sizes, part_of
from .validation import MAX_IO_BYTES

TYPE_CHECKING = False  # typing is dear to import, and only checkers need it
if TYPE_CHECKING:
    from typing import Any, Callable

__all__ = ["OPS"]

_SHOWN_BYTES = 256
_EFD_CLOEXEC, _EFD_NONBLOCK = os.O_CLOEXEC, os.O_NONBLOCK
_POLL = {
    "IN": select.POLLIN, "OUT": select.POLLOUT, "PRI": select.POLLPRI, "ERR": select.POLLERR,
    "HUP": select.POLLHUP, "NVAL": select.POLLNVAL, "RDHUP": select.POLLRDHUP,
}  # fmt: skip


def _data(data: bytes) -> dict[str, Any]:
    return {
        "ret": len(data), "n": len(data), "hex": data[:_SHOWN_BYTES].hex(),
        "sha256": sha256_hex(data),
    }  # fmt: skip


def _source(ctx: Context, a: dict[str, Any]) -> bytes:
    if "from" in a:
        blob, off = ctx.blobs[a["from"]], a.get("off", 0)
        data: bytes = part_of(blob, off, min(a.get("n", MAX_IO_BYTES), max(0, len(blob) - off)))
        return data
    return bytes.fromhex(a.get("hex", ""))


def _flips(items: list[Any]) -> dict[int, int]:
    """What to xor each byte with, by its offset."""
    flips: dict[int, int] = {}
    for item in items:
        if not (isinstance(item, list) and len(item) == 2 and all(isinstance(v, int) for v in item)):
            raise Failure("usage", "flip: %r is not [byte offset, xor]" % (item,))
        flips[item[0]] = flips.get(item[0], 0) ^ (item[1] & 0xFF)
    return flips


def read(ctx: Context, a: dict[str, Any]) -> Any:
    data = os.read(ctx.fds[a["fd"]], a["n"])
    if "keep" in a:
        ctx.blobs[a["keep"]] = data
    return _data(data)


def read_all(ctx: Context, a: dict[str, Any]) -> Any:
    """Read until the end, an error or `max_bytes`; `end` says which of them it was.

    Where the program's time is over first, or the host has no room for more: "deadline" or "full", and the
    record is marked `cut`, for nothing is known of the rest.  So it is at `max_bytes` with `partial`.
    """
    fd, pulse = ctx.fds[a["fd"]], ctx.pulse
    sizes = Sizes(a.get("chunks") or [1 << 16], a.get("fine"))
    limit = a.get("max_bytes", 1 << 62)
    taken = Recorder("keep" in a)
    have = reads = error = 0
    end, why = "max", ""
    until = time.monotonic_ns() + int(ctx.remaining_s() * 1e9)
    while have < limit:
        pulse.since_ns = now = time.monotonic_ns()
        if now >= until and not ctx.remaining_s():
            end = "deadline"
            break
        try:
            part = os.read(fd, min(sizes.next(have), limit - have))
        except OSError as e:
            end, error = "errno", e.errno or errno.EIO
            break
        reads += 1
        if not part:
            end = "eof"
            break
        have += len(part)
        try:
            taken.add(part)
        except OSError as e:
            end, why = "full", str(e)
            break
    digest = ""
    if end != "full":
        try:
            digest = taken.digest()  # stores what was still waiting, for which there may be no room
        except OSError as e:
            end, why = "full", str(e)
    fields: dict[str, Any] = {
        "ret": -1 if error else have,
        "errno": error,
        "n": have,
        "reads": reads,
        "end": end,
    }
    if end in ("deadline", "full") or (end == "max" and a.get("partial")):
        return {**fields, "cut": True, "why": why}
    fields["sha256"] = digest
    if "keep" in a:
        ctx.blobs[a["keep"]] = taken
    return fields


def write(ctx: Context, a: dict[str, Any]) -> Any:
    wrote = os.write(ctx.fds[a["fd"]], _source(ctx, a))
    return {"ret": wrote, "n": wrote}


def write_all(ctx: Context, a: dict[str, Any]) -> Any:
    """Write all bytes of a slot in `chunks`; stops at the first failing write, or one that takes nothing.

    Where the program's time is over first, the record is marked `cut`.
    """
    fd, pulse, blob, off = ctx.fds[a["fd"]], ctx.pulse, ctx.blobs[a["from"]], a.get("off", 0)
    length = max(0, min(a.get("n", len(blob)), len(blob) - off))
    flips, repeat = _flips(a.get("flip", [])), a.get("repeat", 1)
    if flips or repeat != 1:
        blob, off, length = (
            Pieces([(Pieces([(blob, off, length)], flips), 0, length)] * repeat, {}),
            0,
            length * repeat,
        )
    sizes = Sizes(a.get("chunks") or [1 << 16], a.get("fine"))
    done = writes = error = 0
    ahead, ahead_at = memoryview(b""), 0  # read from the slot at once, written in pieces
    until = time.monotonic_ns() + int(ctx.remaining_s() * 1e9)
    cut = False
    while done < length:
        pulse.since_ns = now = time.monotonic_ns()
        if now >= until and not ctx.remaining_s():
            cut = True
            break
        want = min(sizes.next(done), length - done)
        if done + want > ahead_at + len(ahead):
            ahead, ahead_at = (
                memoryview(part_of(blob, off + done, min(max(want, PIECE), length - done))),
                done,
            )
        try:
            wrote = os.write(fd, ahead[done - ahead_at : done - ahead_at + want])
        except OSError as e:
            error = e.errno or errno.EIO
            break
        writes += 1
        done += wrote
        if not wrote:
            break
    fields = {"ret": -1 if error else done, "errno": error, "n": done, "writes": writes}
    return {**fields, "cut": True} if cut else fields


def make_bytes(ctx: Context, a: dict[str, Any]) -> Any:
    parts: list[Any] = []
    if "from" in a:
        blob, off = ctx.blobs[a["from"]], a.get("off", 0)
        parts.append((blob, off, max(0, min(a.get("n", len(blob)), len(blob) - off))))
    else:
        data = bytes.fromhex(a.get("hex", ""))
        parts.append((data, 0, len(data)))
    parts += [(ctx.blobs[name], 0, len(ctx.blobs[name])) for name in a.get("concat", [])]
    made = Pieces(parts, _flips(a.get("flip", [])))
    ctx.blobs[a["out"]] = made
    return {"n": len(made), "sha256": made.digest()}


def _file_offset(value: int) -> int:
    return value if value < 1 << 63 else value - (1 << 64)  # as the kernel sees an off_t


def pread(ctx: Context, a: dict[str, Any]) -> Any:
    data = os.pread(ctx.fds[a["fd"]], a["n"], _file_offset(a["off"]))
    if "keep" in a:
        ctx.blobs[a["keep"]] = data
    return _data(data)


def pwrite(ctx: Context, a: dict[str, Any]) -> Any:
    data = _source(ctx, {"from": a["from"]} if "from" in a else a)
    wrote = os.pwrite(ctx.fds[a["fd"]], data, _file_offset(a["off"]))
    return {"ret": wrote, "n": wrote}


def lseek(ctx: Context, a: dict[str, Any]) -> Any:
    whence = (
        getattr(os, a.get("whence", "SEEK_SET"), None)
        if a.get("whence", "SEEK_").startswith("SEEK_")
        else None
    )
    if whence is None:
        raise Failure("usage", "lseek: whence=%r is not SEEK_SET, SEEK_CUR or SEEK_END" % a["whence"])
    at = os.lseek(ctx.fds[a["fd"]], _file_offset(a["off"]), whence)
    return {"ret": at, "n": at}


def poll(ctx: Context, a: dict[str, Any]) -> Any:
    mask = 0
    for name in a.get("events", ["IN"]):
        if name not in _POLL:
            raise Failure("usage", "poll: %r is not an event; valid are %s" % (name, ", ".join(_POLL)))
        mask |= _POLL[name]
    poller = select.poll()
    poller.register(ctx.fds[a["fd"]], mask)
    ready = poller.poll(min(a.get("timeout_ms", 0), ctx.remaining_s() * 1000))
    got = ready[0][1] if ready else 0
    return {"ret": len(ready), "revents": [name for name, bit in _POLL.items() if got & bit]}


def do_fcntl(ctx: Context, a: dict[str, Any]) -> Any:
    if a["cmd"] not in ("F_GETFD", "F_SETFD", "F_GETFL", "F_SETFL"):
        raise Failure("usage", "fcntl: cmd=%r is not F_GETFD, F_SETFD, F_GETFL or F_SETFL" % a["cmd"])
    value = fcntl.fcntl(ctx.fds[a["fd"]], getattr(fcntl, a["cmd"]), a.get("arg", 0) & 0x7FFFFFFF)
    return {"ret": value, "value": value}


def dup(ctx: Context, a: dict[str, Any]) -> Any:
    command = fcntl.F_DUPFD_CLOEXEC if a.get("cloexec") else fcntl.F_DUPFD
    ctx.slots.put_fd(a["out"], fcntl.fcntl(ctx.fds[a["fd"]], command, 3))


def close(ctx: Context, a: dict[str, Any]) -> Any:
    fd = ctx.fds[a["fd"]]
    del ctx.fds[a["fd"]]  # whatever close says, Linux has released the number
    os.close(fd)


def pipe(ctx: Context, a: dict[str, Any]) -> Any:
    for name, fd in zip(a["out"], os.pipe()):
        ctx.slots.put_fd(name, fd)


def socketpair(ctx: Context, a: dict[str, Any]) -> Any:
    import socket  # dear to import, and seldom needed

    for name, sock in zip(a["out"], socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)):
        ctx.slots.put_fd(name, sock.detach())


def send_fd(ctx: Context, a: dict[str, Any]) -> Any:
    import socket  # dear to import, and seldom needed

    fd = bytes(s32(ctx.fds[a["fd"]]))
    sock = socket.socket(fileno=ctx.fds[a["sock"]])
    try:
        sock.sendmsg([b"f"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fd)])
    finally:
        sock.detach()


def recv_fd(ctx: Context, a: dict[str, Any]) -> Any:
    import socket  # dear to import, and seldom needed

    number = ctx.fds[a["sock"]]
    wait_ms = min(a.get("timeout_ms", MAX_IO_BYTES), max(0.0, ctx.remaining_s() - 0.2) * 1000)
    poller = select.poll()
    poller.register(number, select.POLLIN)
    if not poller.poll(wait_ms):
        raise OSError(errno.ETIMEDOUT, "no fd came")
    sock = socket.socket(fileno=number)
    try:
        _, ancillary, _, _ = sock.recvmsg(1, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
    finally:
        sock.detach()
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS and len(data) >= 4:
            ctx.slots.put_fd(a["out"], s32.from_buffer_copy(data).value)
            return None
    raise OSError(errno.ENOMSG, "the message carried no fd")


def eventfd(ctx: Context, a: dict[str, Any]) -> Any:
    flags = _EFD_CLOEXEC | (_EFD_NONBLOCK if a.get("nonblock", True) else 0)
    fd = libc.eventfd(a.get("init", 0), flags)
    if fd < 0:
        raise libc_error()
    ctx.slots.put_fd(a["out"], fd)


def eventfd_read(ctx: Context, a: dict[str, Any]) -> Any:
    fd = ctx.fds[a["fd"]]
    if a.get("timeout_ms"):
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        poller.poll(min(a["timeout_ms"], ctx.remaining_s() * 1000))
    data = os.read(fd, 8)
    return {"ret": len(data), "value": u64.from_buffer_copy(data).value if len(data) == 8 else None}


def eventfd_write(ctx: Context, a: dict[str, Any]) -> Any:
    return {"ret": os.write(ctx.fds[a["fd"]], bytes(u64(a.get("value", 1))))}


def stat(ctx: Context, a: dict[str, Any]) -> Any:
    found = os.fstat(ctx.fds[a["fd"]])
    return {"rdev": "%d:%d" % (os.major(found.st_rdev), os.minor(found.st_rdev)), "mode": found.st_mode}


def fdinfo(ctx: Context, a: dict[str, Any]) -> Any:
    return {"text": _text("/proc/self/fdinfo/%d" % ctx.fds[a["fd"]])}


def read_text(ctx: Context, a: dict[str, Any]) -> Any:
    return {"text": _text(a["path"]).strip()}


def _text(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read(4096)


OPS: dict[str, Callable[[Context, dict[str, Any]], Any]] = {
    "read": read, "read_all": read_all, "write": write, "write_all": write_all, "bytes": make_bytes,
    "pread": pread, "pwrite": pwrite, "lseek": lseek, "poll": poll, "fcntl": do_fcntl, "dup": dup,
    "close": close, "pipe": pipe, "socketpair": socketpair, "send_fd": send_fd, "recv_fd": recv_fd,
    "eventfd": eventfd, "eventfd_read": eventfd_read, "eventfd_write": eventfd_write,
    "stat": stat, "fdinfo": fdinfo, "read_text": read_text,
}  # fmt: skip
