# SPDX-License-Identifier: Apache-2.0
"""Write cpio archives in `newc` format, the kernel's initramfs format, without root and without cpio.

Every entry belongs to root and has time 0: the same content gives the same bytes, so images can be cached.
The format: Documentation/driver-api/early-userspace/buffer-format.rst of the kernel.
"""

from __future__ import annotations

import stat
from types import TracebackType
from typing import Protocol

__all__ = ["CpioWriter"]

_MAX_FILE_BYTES = 0xFFFFFFFF


class _Sink(Protocol):
    def write(self, data: bytes, /) -> object: ...


class CpioWriter:
    """Writes entries to `out`; a context manager, which writes the trailer at its end.

    Parent folders of an entry are made with it; a path given twice is a ValueError (the kernel would
    silently take the second).
    """

    def __init__(self, out: _Sink) -> None:
        self._out = out
        self._inode = 0
        self._seen: set[str] = set()

    def __enter__(self) -> CpioWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._entry("TRAILER!!!", 0, b"")

    def folder(self, path: str, mode: int = 0o755) -> None:
        """Add a folder and its parents; one that exists already stays as it is."""
        if path in self._seen:
            return
        self._parents(path)
        self._add(path, stat.S_IFDIR | mode, b"")

    def file(self, path: str, data: bytes, mode: int = 0o644) -> None:
        """Add a regular file."""
        if len(data) > _MAX_FILE_BYTES:
            raise ValueError(f"{path} has {len(data)} bytes, newc allows {_MAX_FILE_BYTES}")
        self._parents(path)
        self._add(path, stat.S_IFREG | mode, data)

    def link(self, path: str, target: str) -> None:
        """Add a symbolic link."""
        self._parents(path)
        self._add(path, stat.S_IFLNK | 0o777, target.encode())

    def device(self, path: str, major: int, minor: int, mode: int = 0o600) -> None:
        """Add a character device."""
        self._parents(path)
        self._add(path, stat.S_IFCHR | mode, b"", (major, minor))

    def _parents(self, path: str) -> None:
        above = path.rpartition("/")[0]
        if above:
            self.folder(above)

    def _add(self, path: str, mode: int, data: bytes, device: tuple[int, int] = (0, 0)) -> None:
        if not path or path.startswith("/") or ".." in path.split("/"):
            raise ValueError(f"cpio path {path!r} must be relative, without '..'")
        if path in self._seen:
            raise ValueError(f"cpio path {path!r} is there twice")
        self._seen.add(path)
        self._entry(path, mode, data, device)

    def _entry(self, path: str, mode: int, data: bytes, device: tuple[int, int] = (0, 0)) -> None:
        self._inode += 1
        name = path.encode() + b"\0"
        links = 2 if stat.S_ISDIR(mode) else 1
        fields = (self._inode, mode, 0, 0, links, 0, len(data), 0, 0, *device, len(name), 0)
        head = b"070701" + "".join(f"{value:08X}" for value in fields).encode() + name
        self._out.write(_padded(head))
        self._out.write(_padded(data))


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
