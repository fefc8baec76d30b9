# SPDX-License-Identifier: Apache-2.0
"""Leases: a device, and its IOMMU group, belong to one run at a time.

The agent's process on the lab host holds the lock, which ends with that process, whatever happens to the
controller.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from harness.errors import LabError

__all__ = ["Caller", "Key", "Shell", "current_leases", "lease_of", "leased"]

# A device as the agent takes it (it stands for its IOMMU group too), or a plain name.
Key = Mapping[str, Any] | str


class Caller(Protocol):
    """What provisioning needs of `harness.hosts.client.Agent`."""

    def call(self, method: str, *, deadline_s: float = 60.0, **params: Any) -> Any:
        """Return the agent's result; LabError, UsageError or HarnessError as the agent reports."""
        ...


@contextlib.contextmanager
def leased(agent: Caller, keys: Sequence[Key], holder: str) -> Iterator[None]:
    """Hold `keys` inside the `with`; if one is taken, LabError says by whom and since when."""
    wanted = [key if isinstance(key, str) else dict(key) for key in keys]
    agent.call("lease", keys=wanted, holder=holder)
    try:
        yield
    finally:
        # If the agent is gone, so are its locks.
        with contextlib.suppress(LabError):
            agent.call("release", keys=wanted)


class Shell(Protocol):
    """What reading the leases needs of `harness.hosts.host.Host`."""

    def exec(self, command: str, deadline_s: float) -> tuple[int, bytes, bytes]:
        """Run a shell command: (exit status, stdout, stderr)."""
        ...


# Reads the leases without taking a lock, because that could fail a run that starts at this moment.
_READ = (
    'cd /run/vfiocert/lease 2>/dev/null || exit 0; for f in *; do [ -f "$f" ] && '
    'echo "$(stat -c %i -- "$f") $f $(head -c 2000 -- "$f")"; done; echo --; cat /proc/locks'
)
_READ_S = 20.0


def current_leases(host: Shell) -> dict[str, str]:
    """The leases held on a host now, `{key: "HOLDER since TIME"}`; an unlocked file is not a lease."""
    _, out, _ = host.exec(_READ, _READ_S)
    files, _, locks = out.decode("utf-8", "replace").partition("\n--\n")
    held = {fields[5].rpartition(":")[2] for line in locks.splitlines() if len(fields := line.split()) > 5}
    found: dict[str, str] = {}
    for line in files.splitlines():
        inode, _, rest = line.partition(" ")
        key, _, text = rest.partition(" ")
        if inode in held and key:
            found[key] = _holder(text)
    return found


def lease_of(leases: Mapping[str, str], wire: Mapping[str, Any], described: Mapping[str, Any]) -> str:
    """Who holds the device or its IOMMU group; "" for nobody."""
    keys = [str(wire.get("pci") or wire.get("uuid") or "")]
    if "pci" in wire and described.get("iommu_group") is not None:
        keys.append(f"iommu-group-{described['iommu_group']}")
    return next((leases[key] for key in keys if key in leases), "")


def _holder(text: str) -> str:
    try:
        value = json.loads(text)
        return f"{value['holder']} since {value['since']}"
    except (ValueError, KeyError, TypeError):
        return "somebody unknown"
