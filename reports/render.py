# SPDX-License-Identifier: Apache-2.0
"""Writes every report of a run into its folder."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from harness.errors import LabError
from reports.disk import write_atomically, write_error
from reports.formats.allure import FOLDER, render_allure
from reports.formats.html import render_html
from reports.formats.junit import render_junit
from reports.formats.ktap import render_ktap
from reports.formats.summary import summary_lines
from reports.models import Run

__all__ = ["render_all"]


def render_all(run: Run, out_dir: Path) -> list[Path]:
    """Writes all reports of `run` into `out_dir`; gives the files written (Allure's counts as one folder).

    A `LabError` (the disk is full) leaves the reports written so far.
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
    written.append(_write_allure(run, out_dir / FOLDER))
    return written


def _write_allure(run: Run, folder: Path) -> Path:
    files = render_allure(run)
    try:
        folder.mkdir(exist_ok=True)
        # What an earlier rendering of this folder left would count as further cases.
        for old in folder.iterdir():
            if old.name.endswith(("-result.json", "-attachment.txt")) and old.name not in files:
                with contextlib.suppress(FileNotFoundError):
                    old.unlink()
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
    except LabError:
        raise
    except OSError as error:
        raise write_error(folder, error) from None
    return folder
