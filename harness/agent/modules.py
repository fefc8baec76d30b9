# SPDX-License-Identifier: Apache-2.0
"""Kernel modules: list, load and unload them, find their dependencies and aliases."""

from __future__ import annotations

import ctypes
import errno
import os
import re

from .failure import Failure
from .slots import libc, libc_error
from .sysfs import Sysfs, read_text

__all__ = ["Modules", "module_name"]

_LIMIT_S = 60.0
# init_module, delete_module
_SYSCALLS = {"x86_64": (175, 176), "aarch64": (105, 106), "riscv64": (105, 106), "ppc64le": (128, 129),
             "s390x": (128, 129)}  # fmt: skip
_NAME = re.compile(r"^[A-Za-z0-9_-]{1,64}$")


def module_name(name: str) -> str:
    """Return a module's name as the kernel spells it; Failure `usage` if it is not a name."""
    if not _NAME.match(name):
        raise Failure("usage", "module name %r is not 1 to 64 of A-Z a-z 0-9 _ -" % name)
    return name.replace("-", "_")


def _syscall(which: int, *args: object) -> None:
    numbers = _SYSCALLS.get(os.uname().machine)
    if numbers is None:
        raise Failure("agent", "the module system calls of %s are not known here" % os.uname().machine)
    if libc.syscall(ctypes.c_long(numbers[which]), *args) != 0:
        raise libc_error()


class Modules:
    """The modules of the running kernel."""

    def __init__(self, sysfs: Sysfs) -> None:
        self.sysfs = sysfs
        self.folder = sysfs.at("lib/modules", os.uname().release)

    def loaded(self) -> list[str]:
        """Return the names of the loaded modules, sorted."""
        lines = read_text(self.sysfs.at("proc/modules")).splitlines()
        return sorted(line.split()[0] for line in lines if line.split())

    def srcversion(self, name: str) -> str:
        """Return a module's srcversion, which identifies its source; "" if the kernel has none."""
        return read_text(self.sysfs.at("sys/module", name, "srcversion"))

    def needs(self, name: str) -> list[str]:
        """Return `name` and every module it needs, from `modules.dep`; [] if it is not listed there."""
        for line in read_lines(os.path.join(self.folder, "modules.dep")):
            files = line.replace(":", " ").split()
            if files and _stem(files[0]) == name:
                return [_stem(file) for file in files]
        return []

    def load(self, name: str) -> None:
        """Load a module with modprobe, unless it is loaded or built in; Failure `lab` if that fails."""
        if name in self.loaded():
            return
        import shutil  # slow to import, and seldom needed
        import subprocess

        tool = shutil.which("modprobe", path="/usr/sbin:/sbin:/usr/bin:/bin")
        if tool is None:
            raise Failure("lab", "no modprobe on this host; load %s by hand" % name)
        result = subprocess.run(
            [tool, name], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
            timeout=_LIMIT_S, check=False,
        )  # fmt: skip
        if result.returncode != 0:
            why = result.stderr.decode("utf-8", "replace").strip()[:300]
            raise Failure("lab", "modprobe %s failed with status %d: %s" % (name, result.returncode, why))

    def unload(self, name: str) -> bool:
        """Unload a module; False if it was not loaded.  If it is in use, Failure `lab` says by what."""
        if name not in self.loaded():
            return False
        try:
            _syscall(1, name.encode(), os.O_NONBLOCK)
        except OSError as e:
            if e.errno == errno.ENOENT:
                return False
            holders = self.sysfs.at("sys/module", name, "holders")
            users = ", ".join(sorted(os.listdir(holders))) if os.path.isdir(holders) else ""
            count = read_text(self.sysfs.at("sys/module", name, "refcnt"))
            raise Failure(
                "lab", "module %s cannot be unloaded (%s); used by: %s; references: %s"
                % (name, os.strerror(e.errno or 0), users or "no module", count or "?"),
            )  # fmt: skip
        return True

    def insert(self, name: str, image: bytes) -> None:
        """Load a module from its bytes, after the modules it depends on."""
        found = re.search(rb"\0depends=([^\0]*)\0", b"\0" + image)
        for need in (found.group(1).decode("ascii", "replace") if found else "").split(","):
            if need:
                self.load(module_name(need))
        try:
            _syscall(0, image, ctypes.c_ulong(len(image)), b"")
        except OSError as e:
            why = os.strerror(e.errno or 0)
            raise Failure(
                "lab", "the kernel does not take the image of %s: %s; its log says why" % (name, why)
            )

    def vfio_driver(self, modalias: str) -> str | None:
        """Return the module of the best `vfio_pci:` alias that matches: the one with fewest wildcards."""
        from fnmatch import fnmatchcase  # slow to import, and seldom needed

        wanted = modalias.replace("pci:", "vfio_pci:", 1)
        best: tuple[int, str] | None = None
        for line in read_lines(os.path.join(self.folder, "modules.alias")):
            fields = line.split()
            if len(fields) != 3 or fields[0] != "alias" or not fields[1].startswith("vfio_pci:"):
                continue
            if fnmatchcase(wanted, fields[1]):
                candidate = (fields[1].count("*"), fields[2])
                best = candidate if best is None or candidate[0] < best[0] else best
        return best[1] if best else None


def read_lines(path: str) -> list[str]:
    """Return the lines of a file that may be large, [] if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(64 << 20).splitlines()
    except OSError:
        return []


def _stem(path: str) -> str:
    return os.path.basename(path).split(".ko")[0].replace("-", "_")
