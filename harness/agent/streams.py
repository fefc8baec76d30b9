# SPDX-License-Identifier: Apache-2.0
"""Migration streams of any length in little memory: the start stays in memory, the rest lies in a file.

A stream is kept to be written back.  All else about it is its length and digest, which need no store.
"""

from __future__ import annotations

import errno
import os

TYPE_CHECKING = False  # typing is dear to import, and only checkers need it
if TYPE_CHECKING:
    from typing import Any

__all__ = ["PIECE", "Pieces", "Recorder", "Sizes", "part_of"]

PIECE = 1 << 20  # bytes moved at once where nothing asks for other sizes
_IN_MEMORY = 4 << 20  # bytes of a stream that need no file
_PLACES = ("/var/tmp", "/tmp")
_SPARE = 64 << 20  # bytes of a file system, or of memory, that are left to others


class Recorder:
    """Takes a stream as it comes: its length and digest, and with `keep` its bytes.

    Guarantees: at most about 6 MiB of memory; `add` raises OSError (ENOSPC) where the host has no room.
    """

    def __init__(self, keep: bool) -> None:
        from hashlib import sha256  # dear to import: it loads OpenSSL

        self.keep = keep
        self._hash = sha256()
        self._head = bytearray()
        self._waiting = bytearray()  # small parts are hashed and stored together
        self._file = -1
        self._done = 0

    def __len__(self) -> int:
        return self._done + len(self._waiting)

    def add(self, part: bytes) -> None:
        """Append the next bytes of the stream."""
        self._waiting += part
        if len(self._waiting) >= PIECE:
            self._flush()

    def _flush(self) -> None:
        data, self._waiting = self._waiting, bytearray()
        self._hash.update(data)
        if self.keep:
            room = max(0, _IN_MEMORY - self._done)
            self._head += data[:room]
            if len(data) > room:
                self._store(memoryview(data)[room:], self._done + room - _IN_MEMORY)
        self._done += len(data)

    def _store(self, data: memoryview, at: int) -> None:
        if self._file < 0:
            self._file = _scratch_file()
        if at // (64 * PIECE) != (at + len(data)) // (64 * PIECE) and _room(self._file) < 64 * PIECE:
            raise OSError(errno.ENOSPC, "no room for more than %d bytes of a stream" % (at + _IN_MEMORY))
        while data:
            wrote = os.pwrite(self._file, data, at)
            data, at = data[wrote:], at + wrote

    def digest(self) -> str:
        """Return the SHA-256 of all that was added, in hex."""
        self._flush()
        return self._hash.hexdigest()

    def read(self, at: int, count: int) -> bytes:
        """Return `count` bytes from `at`, fewer at the end; only after `digest`."""
        count = max(0, min(count, self._done - at))
        part = bytes(self._head[at : at + count])
        rest = count - len(part)
        return part + os.pread(self._file, rest, max(0, at - _IN_MEMORY)) if rest else part

    def close(self) -> None:
        """Give the file back."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    __del__ = close


class Pieces:
    """Parts of other streams in a row, with bytes changed here and there; nothing is copied."""

    def __init__(self, parts: list[Any], flips: dict[int, int]) -> None:
        self._parts = parts  # (stream, offset in it, length)
        self._flips = flips  # offset -> what to xor the byte with
        self._length: int = sum(n for _, _, n in parts)

    def __len__(self) -> int:
        return self._length

    def read(self, at: int, count: int) -> bytes:
        """Return `count` bytes from `at`, fewer at the end."""
        found = bytearray()
        begin, start, left = at, 0, min(count, self._length - at)
        for stream, off, n in self._parts:
            if left > 0 and begin < start + n:
                take = min(left, start + n - begin)
                found += part_of(stream, off + begin - start, take)
                begin, left = begin + take, left - take
            start += n
        for place, mask in self._flips.items():
            if at <= place < at + len(found):
                found[place - at] ^= mask
        return bytes(found)

    def digest(self) -> str:
        """Return the SHA-256 of all of it, in hex."""
        from hashlib import sha256  # dear to import: it loads OpenSSL

        done = sha256()
        for at in range(0, self._length, PIECE):
            done.update(self.read(at, PIECE))
        return done.hexdigest()


class Sizes:
    """The sizes in which a stream is read or written: `chunks` in turn, inside the windows `fine` only.

    A stream of gigabytes cannot be moved in single bytes, and need not be: what goes wrong in small pieces
    goes wrong at its start, at its end, or where one of its records ends.  No windows: `chunks` everywhere.
    """

    def __init__(self, chunks: list[int], fine: list[Any] | None) -> None:
        self._chunks = chunks
        self._fine = sorted(fine) if fine else None
        self._turn = -1

    def next(self, at: int) -> int:
        """Return the size of the piece that begins at `at`."""
        fine = self._fine
        if fine is not None:
            while fine and fine[0][1] <= at:
                fine = self._fine = fine[1:]
            if not fine or at < fine[0][0]:
                return min(PIECE, fine[0][0] - at) if fine else PIECE
        self._turn += 1
        return self._chunks[self._turn % len(self._chunks)]


def part_of(blob: Any, at: int, count: int) -> Any:
    """Return `count` bytes from `at` of a bytes slot, whatever it is kept in; fewer at the end."""
    if isinstance(blob, (bytes, bytearray, memoryview)):
        return blob[at : at + count]
    return blob.read(at, count)


def _scratch_file() -> int:
    """Open a file without a name where the host has most room; -> fd.  On a disk, if there is one."""
    there = [place for place in _PLACES if _free(place) >= _SPARE]
    best = max(there, key=lambda place: (not _in_memory(place), _free(place)), default="")
    if not best:
        raise OSError(errno.ENOSPC, "no room for a stream in %s" % " or ".join(_PLACES))
    return os.open(best, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)


def _free(place: str) -> int:
    try:
        found = os.statvfs(place)
    except OSError:
        return 0
    room = found.f_bavail * found.f_frsize - _SPARE
    return max(0, min(room, _available_memory() - _SPARE) if _in_memory(place) else room)


def _room(file: int) -> int:
    return _free("/proc/self/fd/%d" % file)


def _in_memory(place: str) -> bool:
    """Whether files there lie in memory: a stream may then not take it all."""
    try:
        wanted = os.stat(place).st_dev
        with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                fields = line.split()
                major, _, minor = fields[2].partition(":")
                if os.makedev(int(major), int(minor)) == wanted:
                    return fields[fields.index("-") + 1] in ("tmpfs", "ramfs", "rootfs")
    except (OSError, ValueError, IndexError):
        pass
    return False


def _available_memory() -> int:
    """Memory that a file in it may take: what is free, and the swap that it can go to."""
    found = 0
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith(("MemAvailable:", "SwapFree:")):
                    found += int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return found
