# SPDX-License-Identifier: Apache-2.0
"""Leases: a device, and its IOMMU group, belong to one run at a time.

The lock is held by the agent's process on the lab host, so it ends with it, whatever happens to the
controller.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from harness.errors import LabError

__all__ = ["Caller", "Key", "leased"]

# A device as the agent takes it (it stands for its IOMMU group too), or a plain name.
Key = Mapping[str, Any] | str


class Caller(Protocol):
    """What provisioning needs of `harness.client.Agent`."""

    def call(self, method: str, *, deadline_s: float = 60.0, **params: Any) -> Any:
        """The agent's result; LabError, UsageError or HarnessError as it says."""
        ...


@contextlib.contextmanager
def leased(agent: Caller, keys: Sequence[Key], holder: str) -> Iterator[None]:
    """Holds `keys` while inside the `with`; LabError with who has one, and since when, where it is taken."""
    wanted = [key if isinstance(key, str) else dict(key) for key in keys]
    agent.call("lease", keys=wanted, holder=holder)
    try:
        yield
    finally:
        # Where the agent is gone its locks are gone with it.
        with contextlib.suppress(LabError):
            agent.call("release", keys=wanted)
