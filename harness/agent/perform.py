# SPDX-License-Identifier: Apache-2.0
"""Performs one operation: finds its function, and makes a record of what comes of it.

Below actors and the executor, which both perform operations; above the functions, which know of neither.
"""

from __future__ import annotations

import errno
import time

from . import ops_dma, ops_engine, ops_gfx, ops_io, ops_iommu, ops_mem, ops_proc, ops_vfio, walk
from .failure import ActorGone
from .operations import OPERATIONS
from .slots import Context, NoSlot

TYPE_CHECKING = False  # typing is dear to import, and only checkers need it
if TYPE_CHECKING:
    from typing import Any, Callable

__all__ = ["FUNCTIONS", "perform", "skipped"]

FUNCTIONS: dict[str, Callable[[Context, dict[str, Any]], Any]] = {}
for _module in (ops_vfio, ops_gfx, ops_dma, ops_engine, ops_iommu, ops_io, ops_mem, ops_proc, walk):
    FUNCTIONS.update(_module.OPS)
if FUNCTIONS.keys() != OPERATIONS.keys():
    raise ImportError(
        "operations without an entry in the table or a function: %s"
        % sorted(FUNCTIONS.keys() ^ OPERATIONS.keys())
    )

_now = time.monotonic_ns


def perform(ctx: Context, op: Any, thread: str = "", index: int = 0) -> dict[str, Any]:
    """Perform one validated operation; its record."""
    name, args = op
    function = FUNCTIONS[name]
    t0 = _now()
    try:
        fields = function(ctx, args)
    except OSError as e:
        dt = _now() - t0
        number = e.errno or errno.EIO
        return {"t": thread, "i": index, "op": name, "ret": -1, "errno": number, "t0": t0, "dt": dt}
    except NoSlot as e:
        return skipped(thread, index, name, t0, "no slot %s" % e)
    except ValueError as e:
        if "file descriptor" not in str(e):
            raise
        # Python asks the kernel nothing about a negative number; the kernel's answer to each is EBADF.
        return {"t": thread, "i": index, "op": name, "ret": -1, "errno": errno.EBADF, "t0": t0, "dt": 0}
    except ActorGone as e:
        return skipped(thread, index, name, t0, str(e))
    record = {"t": thread, "i": index, "op": name, "ret": 0, "errno": 0, "t0": t0, "dt": _now() - t0}
    if fields:
        record.update(fields)
    return record


def skipped(thread: str, index: int, name: str, t0: int, why: str) -> dict[str, Any]:
    """Return the record of an operation that was not performed."""
    record = {"t": thread, "i": index, "op": name, "ret": -1, "errno": 0, "t0": t0, "dt": 0, "skipped": why}
    return record
