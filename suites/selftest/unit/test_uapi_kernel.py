# SPDX-License-Identifier: Apache-2.0
"""Everything `harness.uapi` defines, compared with the kernel's header by a C program made from it."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from harness.uapi import iommufd, names, vfio

HEADERS_VARIABLE = "VFIOCERT_KERNEL_HEADERS"


def structs(module):
    """Public structs the module itself defines, by name."""
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, ctypes.Structure) and not name.startswith("_")
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
        if isinstance(value, int) and name.startswith(("VFIO_", "IOMMU"))
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


def header_folder(tmp_path):
    """Where `linux/vfio.h` is, without what only the kernel's build knows; skips where there is none."""
    given = os.environ.get(HEADERS_VARIABLE)
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "vfiocert"
    candidates = (
        [Path(given)] if given else [*cache.glob("kernel/*/uapi"), *cache.glob("source/*/include/uapi")]
    )
    for candidate in candidates:
        for base in (candidate, candidate / "include" / "uapi", candidate / "include"):
            if (base / "linux" / "iommufd.h").is_file():
                return sanitised(base, tmp_path)
    pytest.skip(f"no kernel headers: set {HEADERS_VARIABLE} to a folder with linux/vfio.h, or build the lab")


def sanitised(base, tmp_path):
    """Copies of the two headers in which what only the kernel's build knows is defined away."""
    target = tmp_path / "include" / "linux"
    target.mkdir(parents=True, exist_ok=True)
    for name in ("vfio.h", "iommufd.h"):
        text = (base / "linux" / name).read_text("utf-8")
        text = text.replace("__user", "").replace("#include <linux/stddef.h>", "#define __counted_by(m)")
        (target / name).write_text("#undef __counted_by\n" + text, "utf-8")
    return target.parent


@pytest.mark.parametrize(("header", "module"), [("vfio.h", vfio), ("iommufd.h", iommufd)])
def test_definitions_agree_with_the_kernel_header(header, module, tmp_path):
    """Steps: compile and run a probe of everything defined.  Verify: equal, and nothing was left out."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = header_folder(tmp_path)
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
    assert len(structs(module)) > 25


def test_a_number_is_ambiguous_only_between_kinds_of_fd():
    for kind, table in names.IOCTLS.items():
        assert len(set(table.values())) == len(table), kind
    shared = names.IOCTLS["device"]["VFIO_DEVICE_FEATURE"]
    assert names.ioctl_name("device", shared) == "VFIO_DEVICE_FEATURE"
    assert names.ioctl_name("container", shared) == "VFIO_IOMMU_DIRTY_PAGES"
    assert names.ioctl_name("migration", names.IOCTLS["migration"]["VFIO_MIG_GET_PRECOPY_INFO"]) == (
        "VFIO_MIG_GET_PRECOPY_INFO"
    )


def test_every_ioctl_is_in_the_table_of_a_kind():
    listed = {name for table in names.IOCTLS.values() for name in table}
    # An ioctl number is the one constant with the type byte above a command from 0x64 on.
    known = constants(vfio) | constants(iommufd)
    numbers = {name for name, value in known.items() if value >> 8 == ord(";") and value & 0xFF >= 0x64}
    assert numbers == listed


def test_names_of_errors_and_states():
    assert names.errno_name(22) == "EINVAL"
    assert names.errno_name(9999) == "errno 9999"
    assert names.errno_number("EINVAL") == 22
    with pytest.raises(KeyError, match="EBOGUS"):
        names.errno_number("EBOGUS")
    assert names.mig_state_name(7) == "PRE_COPY_P2P"
    assert names.mig_state_name(99) == "state 99"
    assert names.ioctl_name("device", 1) == "ioctl 0x1"
