# SPDX-License-Identifier: Apache-2.0
"""Writes every report of a run into its folder."""

from __future__ import annotations

import os
from pathlib import Path

from reports.disk import write_atomically
from reports.formats.html import render_html
from reports.formats.junit import render_junit
from reports.formats.ktap import render_ktap
from reports.formats.summary import summary_lines
from reports.models import Run

__all__ = ["render_all"]


def render_all(run: Run, out_dir: Path) -> list[Path]:
    """Write all reports of `run` into `out_dir`; returns the files written.

    On a `LabError` (the disk is full) the reports written so far stay.
    """
    shown = os.path.relpath(out_dir)
    texts = {
        "run.html": render_html(run, out_dir=shown),
        "junit.xml": render_junit(run),
        "run.ktap": render_ktap(run),
        "summary.txt": "\n".join(summary_lines(run, shown)) + "\n",
    }
    written = []
    for name, text in texts.items():
        write_atomically(out_dir / name, text)
        written.append(out_dir / name)
    return written
