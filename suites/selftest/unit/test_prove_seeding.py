# SPDX-License-Identifier: Apache-2.0
"""Seeding a lab and building a patched core: bad input is one line that says whose fault it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixtures.seeding import Seeding, parse_seeding
from harness.errors import LabError, UsageError
from harness.lab.kernel import KernelBuild
from harness.progress import NoProgress
from harness.prove.core import patched_modules


def test_what_defect_takes():
    assert parse_seeding([]) is None
    assert parse_seeding(["vfiocert_ref=fd_leaks"]) == Seeding((), ("vfiocert_ref", "fd_leaks"))
    assert parse_seeding(["a/vfio.ko", "b/mdev.ko"]) == Seeding((Path("a/vfio.ko"), Path("b/mdev.ko")), None)


@pytest.mark.parametrize("value", ["fd_leaks", "a=b; reboot", "=x", "a="])
def test_what_defect_does_not_take(value):
    with pytest.raises(UsageError, match="is neither MODULE=NAME nor FILE"):
        parse_seeding([value])


class FakeHost:
    """Answers commands with one status and output."""

    name = "lab"

    def __init__(self, status: int, out: bytes) -> None:
        self.answer = (status, out, b"")

    def exec(self, _command, _deadline_s, _stdin=b""):
        return self.answer


def test_a_knob_that_does_not_take_the_defect_is_the_labs_fault():
    Seeding(knob=("vfiocert_ref", "fd_leaks")).turn_knob(FakeHost(0, b"fd_leaks\n"))
    with pytest.raises(LabError, match="does not take defect=fd_leaks"):
        Seeding(knob=("vfiocert_ref", "fd_leaks")).turn_knob(FakeHost(0, b"\n"))


def test_a_kernel_without_trees_cannot_be_patched(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kernel = KernelBuild("k", "7.2.12", "plain", tmp_path, None, None, ())
    patch = tmp_path / "x.patch"
    patch.write_text("")
    with pytest.raises(UsageError, match="no source and build tree"):
        patched_modules(kernel, patch, NoProgress())


def test_a_patch_that_does_not_apply_says_so(tmp_path, monkeypatch):
    """Steps: a tree that 'builds' by a Makefile without rules. Verify: patch's own words."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source, build = tmp_path / "source", tmp_path / "build"
    (source / "drivers/vfio").mkdir(parents=True)
    (source / "drivers/vfio/vfio_main.c").write_text("int a;\n")
    build.mkdir()
    (build / "Makefile").write_text("modules:\n\t@true\n")
    kernel = KernelBuild("k", "7.2.12", "plain", tmp_path, build, source, ())
    patch = tmp_path / "x.patch"
    head = "Defect: x\n\n--- a/drivers/vfio/vfio_main.c\n+++ b/drivers/vfio/vfio_main.c\n@@ -1 +1 @@\n"
    patch.write_text(head + "-int b;\n+int c;\n")
    with pytest.raises(LabError, match=r"x\.patch does not apply to this kernel's drivers/vfio"):
        patched_modules(kernel, patch, NoProgress())
    patch.write_text(head + "-int a;\n+int c;\n")
    with pytest.raises(LabError, match="changes no module"):
        patched_modules(kernel, patch, NoProgress())
