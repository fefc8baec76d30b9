# SPDX-License-Identifier: Apache-2.0
"""Everything `harness.uapi` defines, compared with the kernel's header by a C program made from it."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.uapi import capability, iommufd, vfio

pytestmark = pytest.mark.lab

HEADERS_VARIABLE = "VFIOCERT_KERNEL_HEADERS"
HEADERS = [("vfio.h", vfio, 26), ("iommufd.h", iommufd, 26), ("capability.h", capability, 2)]
"""A header, what we have of it, and how many structs that is at the least."""
OF_THE_LAB = ("vfio.h", "iommufd.h")
"""Headers that the lab's kernel is built with; the others never change, and are the compiler's own."""


def structs(module):
    """Public structs the module itself defines, by name."""
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, ctypes.Structure)
        and not re.match("_(?!_user)", name)
    }


def fields(cls):
    """(field, offset, size) of a struct, with the members of anonymous unions as C names them."""
    for name, kind in cls._fields_:
        if name.startswith("_") and not name.startswith("__"):
            for inner, inner_kind in kind._fields_:
                yield inner, getattr(cls, inner).offset, ctypes.sizeof(inner_kind)
        else:
            mangled = getattr(cls, name)
            yield name, mangled.offset, ctypes.sizeof(kind)


def constants(module):
    """Values and ioctl numbers the module defines, by name."""
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, int) and name.startswith(("VFIO_", "IOMMU", "_LINUX_CAPABILITY_"))
    }


def probe_source(header, module):
    """A C program that prints `name value` for every struct size, field offset and size, and constant."""
    lines = ["#include <stdio.h>", "#include <stddef.h>", f"#include <linux/{header}>", "int main(void) {"]
    for name, cls in structs(module).items():
        tag = f"struct {name}"
        lines.append(f'printf("{name} %llu\\n", (unsigned long long)sizeof({tag}));')
        for field, _, size in fields(cls):
            lines.append(f'printf("{name}.{field} %llu\\n", (unsigned long long)offsetof({tag}, {field}));')
            if size:  # a flexible array has no size in C
                size_of = f"sizeof((({tag} *)0)->{field})"
                lines.append(f'printf("{name}.{field}:size %llu\\n", (unsigned long long){size_of});')
    for name in constants(module):
        lines.append(f'printf("{name} %lld\\n", (long long)({name}));')
    return "\n".join([*lines, "return 0;", "}", ""])


def expected(module):
    found = {}
    for name, cls in structs(module).items():
        found[name] = ctypes.sizeof(cls)
        for field, offset, size in fields(cls):
            found[f"{name}.{field}"] = offset
            if size:
                found[f"{name}.{field}:size"] = size
    return found | constants(module)


def header_folder(lab, tmp_path):
    """The two headers of the lab's kernel, or of the folder in the environment variable."""
    given = os.environ.get(HEADERS_VARIABLE)
    return sanitised(Path(given) if given else lab.kernel.uapi_dir, tmp_path)


def sanitised(base, tmp_path):
    """Copies of the two headers without what only the kernel's own build knows."""
    target = tmp_path / "include" / "linux"
    target.mkdir(parents=True, exist_ok=True)
    for name in OF_THE_LAB:
        text = (base / "linux" / name).read_text("utf-8")
        text = text.replace("__user", "").replace("#include <linux/stddef.h>", "#define __counted_by(m)")
        (target / name).write_text("#undef __counted_by\n" + text, "utf-8")
    return target.parent


@pytest.mark.parametrize(("header", "module", "least"), HEADERS)
def test_definitions_agree_with_the_kernel_header(header, module, least, tmp_path, embedded_lab):
    """Steps: compile and run a probe of everything defined.  Verify: equal, and nothing was left out."""
    compiler = shutil.which("cc") or "gcc"
    folder = header_folder(embedded_lab, tmp_path)
    source, binary = tmp_path / "probe.c", tmp_path / "probe"
    source.write_text(probe_source(header, module))
    built = subprocess.run([compiler, "-w", "-I", str(folder), "-o", str(binary), str(source)],
                           capture_output=True, text=True, timeout=120, check=False)  # fmt: skip
    assert built.returncode == 0, built.stderr[:2000]
    out = subprocess.run([str(binary)], capture_output=True, text=True, timeout=30, check=True).stdout
    kernel = {name: int(value) for name, value in (line.split() for line in out.splitlines())}
    ours = expected(module)
    # VFIO_REGION_TYPE_PCI_VENDOR_TYPE is 1 << 31 of a C int: the bits count, not the sign.
    wrong = {name: (ours[name], kernel.get(name)) for name in ours
             if kernel.get(name, -(1 << 40)) & 0xFFFFFFFF != ours[name] & 0xFFFFFFFF}  # fmt: skip
    assert wrong == {}
    assert len(structs(module)) >= least
