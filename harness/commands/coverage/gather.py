# SPDX-License-Identifier: Apache-2.0
"""Gather counters while tests run, because a lab that is reset starts its counters at zero."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence

from fixtures.connect import embedded_host
from harness.commands.coverage.collect import Counters, Source, executed_lines, fetch
from harness.errors import LabError, VfiocertError
from harness.lab.embedded import attach
from harness.lab.kernel import KernelBuild

__all__ = ["Gatherer"]

_EVERY_S = 15.0


class Gatherer:
    """The counters of some labs, by machine: `with Gatherer(names):` fetches them periodically.

    Guarantees: the counts at a machine's last fetch are kept, even if the machine dies; at the end of the
    `with`, all machines that are alive are fetched.  `lost` names the labs that were restarted meanwhile.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)
        self._last: dict[tuple[str, str], Counters] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Gatherer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        for name in self._names:
            self._ask(name)

    @property
    def lost(self) -> list[str]:
        """Labs that had more than one machine: what ran up to 15 s before a reset is not counted."""
        labs = [name for name, _ in self._last]
        return sorted({name for name in labs if labs.count(name) > 1})

    def sources(self, kernel: KernelBuild) -> dict[str, Source]:
        """The executed lines of all machines together; LabError if none gave counters."""
        if not self._last:
            raise LabError(
                f"no counters came from lab {', '.join(self._names)}; 'vfiocert lab status' tells more"
            )
        found: dict[str, Source] = {}
        for counters in self._last.values():
            for file, source in executed_lines(kernel, counters).items():
                found.setdefault(file, Source()).merge(source)
        return found

    def _watch(self) -> None:
        while not self._done.wait(_EVERY_S):
            for name in self._names:
                with contextlib.suppress(VfiocertError):  # it is being reset, or died: try next time
                    self._ask(name)

    def _ask(self, name: str) -> None:
        boot, counters = fetch(embedded_host(attach(name, own=False)), name)
        self._last[name, boot] = counters
