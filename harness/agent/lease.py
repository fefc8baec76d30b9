# SPDX-License-Identifier: Apache-2.0
"""Leases: a device belongs to one run, through a lock that the kernel drops when the agent dies."""

from __future__ import annotations

import fcntl
import json
import os
import re
import time

from .failure import Failure

TYPE_CHECKING = False  # typing is slow to import, and only type checkers need it
if TYPE_CHECKING:
    from typing import Any

__all__ = ["Leases"]

_KEY = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,199}$")


class Leases:
    """The leases this agent holds."""

    def __init__(self, root: str) -> None:
        self.folder = os.path.join(root, "lease")
        self._held: dict[str, int] = {}

    def take(self, keys: list[str], holder: str) -> dict[str, Any]:
        """Lease all `keys` or none; Failure `lab` says who holds one of them, and since when."""
        for key in keys:
            if not isinstance(key, str) or not _KEY.match(key):
                raise Failure("usage", "lease: key %r is not 1 to 200 of A-Z a-z 0-9 . _ : -" % (key,))
        os.makedirs(self.folder, mode=0o755, exist_ok=True)
        taken: list[str] = []
        try:
            for key in sorted(set(keys)):  # in one order, so that two runs cannot each hold half
                if key not in self._held:
                    self._held[key] = self._lock(key, holder)
                    taken.append(key)
        except Failure:
            self.release(taken)
            raise
        return {}

    def _lock(self, key: str, holder: str) -> int:
        path = os.path.join(self.folder, key)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            other = _holder(os.pread(fd, 4096, 0))
            os.close(fd)
            raise Failure(
                "lab",
                "%s is leased by %s since %s" % (key, other["holder"], other["since"]),
                key=key,
                **other,
            )
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        # The file stays when the lease ends: a lock on an unlinked file would protect nothing.
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps({"holder": holder[:500], "since": since, "pid": os.getpid()}).encode(), 0)
        return fd

    def release(self, keys: list[str]) -> dict[str, Any]:
        """Give back `keys`; ignore those that are not held."""
        for key in keys:
            fd = self._held.pop(key, None) if isinstance(key, str) else None
            if fd is not None:
                os.close(fd)
        return {}

    def release_all(self) -> None:
        """Give back everything."""
        self.release(list(self._held))


def _holder(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data.decode("utf-8"))
        return {"holder": str(value["holder"]), "since": str(value["since"]), "pid": int(value["pid"])}
    except (ValueError, KeyError, TypeError):
        return {"holder": "somebody unknown", "since": "a moment ago", "pid": 0}
