# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the self-tests: the embedded lab, once per run (per worker with -n)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import nullcontext

import pytest

from harness.lab.embedded import EmbeddedLab, new_name
from harness.progress import open_progress

__all__ = ["KERNEL_VARIABLE", "embedded_lab", "lab_kernel"]

KERNEL_VARIABLE = "VFIOCERT_LAB_UP_KERNEL"


@pytest.fixture(scope="session")
def lab_kernel() -> str | None:
    """The kernel of the self-tests' labs: what `lab up` takes from the environment, else the default."""
    return os.environ.get(KERNEL_VARIABLE) or None


@pytest.fixture(scope="session")
def embedded_lab(pytestconfig: pytest.Config, lab_kernel: str | None) -> Iterator[EmbeddedLab]:
    """A lab that is up.  A test that changes it leaves it as it was, or calls `reset`."""
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    # The first time this builds a kernel: minutes in which the log must not look dead.
    shown = capture.global_and_fixture_disabled() if capture is not None else nullcontext()
    with shown, open_progress() as progress:
        lab = EmbeddedLab.up(name=new_name("selftest"), kernel=lab_kernel, progress=progress)
    try:
        yield lab
    finally:
        lab.down()
