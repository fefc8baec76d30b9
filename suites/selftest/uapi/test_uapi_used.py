# SPDX-License-Identifier: Apache-2.0
"""Numbers and structs of the kernel's interface are defined in `harness.uapi` and nowhere else."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TypeGuard

import pytest

from harness import PROJECT
from harness.uapi import vfio

_IOCTLS = range(0x3B00, 0x3C00)  # _IO(';', n): VFIO's and iommufd's


def sources(*folders: str) -> list[Path]:
    """Our Python files below the folders, without the definitions and the tests of the harness."""
    left_out = (PROJECT / "harness" / "uapi", PROJECT / "suites" / "selftest")
    files = [f for folder in folders for f in sorted((PROJECT / folder).rglob("*.py"))]
    return [f for f in files if not any(f.is_relative_to(folder) for folder in left_out)]


def own_numbers(source: str) -> list[str]:
    """Ioctl numbers that the source writes out, and kernel names that it defines itself."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if _is_number(node) and node.value in _IOCTLS:
            found.append(f"{node.lineno}: {node.value!r} is an ioctl number")
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        if not any(_is_number(v) for v in ast.walk(node.value)):
            continue
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            names = [t.id for t in ast.walk(target) if isinstance(t, ast.Name)]
            kernels = [n for n in names if n.lstrip("_").startswith(("VFIO_", "IOMMU_"))]
            found += [f"{node.lineno}: {name} is given a number" for name in kernels]
    return found


def _is_number(node: ast.AST) -> TypeGuard[ast.Constant]:
    return isinstance(node, ast.Constant) and type(node.value) is int


def test_no_ioctl_number_is_declared_beside_the_uapi():
    """Steps: read every number in suites, fixtures and harness. Verify: none is an ioctl's."""
    wrong = []
    files = sources("suites", "fixtures", "harness")
    for path in files:
        wrong += [f"{path.relative_to(PROJECT)}:{fault}" for fault in own_numbers(path.read_text("utf-8"))]
    assert not wrong, "\n".join(wrong)
    assert {"suites", "fixtures", "harness"} == {f.relative_to(PROJECT).parts[0] for f in files}


@pytest.mark.parametrize(
    "source",
    [
        "FEATURE = 0x3B75",
        "def f(s):\n    s.op('ioctl', nr=15221)",
        "for n in (0x3b63, x): pass",
        "n = 0x3B00 | number",
        "VFIO_DEVICE_FEATURE_MIGRATION = 1",
        "_VFIO_A, B = 1, 2",
        "IOMMU_X: int = 1 << 4",
    ],
)
def test_a_number_of_its_own_is_seen(source):
    assert own_numbers(source)


def test_a_number_from_the_uapi_is_not():
    assert vfio.VFIO_DEVICE_FEATURE in _IOCTLS
    assert own_numbers("from harness.uapi import vfio\nFEATURE = vfio.VFIO_DEVICE_FEATURE\nn = 15") == []


def packs(source: str) -> bool:
    """Whether the source packs structs by a format string."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module == "struct":
            return True
        if isinstance(node, ast.Import) and any(alias.name == "struct" for alias in node.names):
            return True
    return False


def test_operations_pack_through_the_structs_of_the_uapi():
    """Verify: no function of an operation packs by format, but the walk, whose record is no kernel struct."""
    files = sorted((PROJECT / "harness" / "agent").glob("ops_*.py"))
    assert len(files) > 5
    assert [f.name for f in files if packs(f.read_text("utf-8"))] == []
    assert packs((PROJECT / "harness" / "agent" / "walk.py").read_text("utf-8"))
    assert packs("def f():\n    import struct")
