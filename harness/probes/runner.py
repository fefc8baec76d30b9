# SPDX-License-Identifier: Apache-2.0
"""The interface that probes need of an agent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

__all__ = ["Runner"]


class Runner(Protocol):
    """The part of `harness.hosts.client.Agent` that runs a program."""

    def run(self, program: Mapping[str, Any], deadline_s: float | None = None) -> Any:
        """Run the program; returns an object with `trace` (list of records) and `hung`."""
        ...
