# SPDX-License-Identifier: Apache-2.0
"""Writes files so that a full disk or a killed process never leaves a partial file."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from harness.errors import LabError

__all__ = ["write_atomically", "write_error"]


def write_error(path: Path, error: OSError) -> LabError:
    """The `LabError` for a failed write of `path`; it says why, and that earlier results are kept."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    what = "the disk is full" if full else (error.strerror or str(error))
    return LabError(f"{path}: {what}; every clause finished before is kept, go on with --resume")


def write_atomically(path: Path, text: str) -> None:
    """Replace `path` by `text` in one step, durably; on a `LabError` the old file is unchanged."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise write_error(path, error) from None
