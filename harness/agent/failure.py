# SPDX-License-Identifier: Apache-2.0
"""Exceptions that several modules of the agent share."""

from __future__ import annotations

TYPE_CHECKING = False  # typing is slow to import, and only type checkers need it
if TYPE_CHECKING:
    from typing import Any


__all__ = ["ActorGone", "Failure"]


class Failure(Exception):
    """A request that cannot be carried out.

    `kind` says whose fault it is: `usage` (the request is wrong), `lab` (the host is not as needed), `agent`
    (a bug here).  `detail` is a JSON-able dict.
    """

    def __init__(self, kind: str, message: str, **detail: Any) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.detail = detail


class ActorGone(Exception):
    """The actor's process ended; the text says how."""
