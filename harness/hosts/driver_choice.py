# SPDX-License-Identifier: Apache-2.0
"""Choose the VFIO driver for a PCI device, as user space is meant to.

A variant driver's id table is marked for driver_override only, and its aliases begin with `vfio_pci:`
instead of `pci:` (scripts/mod/file2alias.c, do_pci_entry(); Linux commit cc6711b0bf36 ("PCI / VFIO: Add
'override_only' support for VFIO PCI sub system")).  The kernel never chooses: user space looks for the
`vfio_pci:` aliases in modules.alias that match the device's modalias, and takes the one with the fewest
wildcards, as libvirt does (commit 82e2fac29710 ("qemu: automatically bind to a vfio variant driver, if
available")).  vfio-pci's own alias has a wildcard in each field: it is chosen when no other alias matches.

No text says which of two equally specific modules to take.  Here it is the first in the file, and the
others are reported (`Choice.tied`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path

from harness.errors import UsageError

__all__ = [
    "Alias",
    "Choice",
    "choose",
    "ids_of",
    "is_modalias",
    "modalias_of",
    "others",
    "parse_aliases",
    "read_aliases",
]

VFIO_PREFIX, PCI_PREFIX = "vfio_pci:", "pci:"
_MAX_FILE_BYTES = 64 << 20
_MAX_ALIAS = 256
_FIELDS = (("v", 8), ("d", 8), ("sv", 8), ("sd", 8), ("bc", 2), ("sc", 2), ("i", 2))
_MODALIAS = re.compile(PCI_PREFIX + "".join(f"{name}([0-9A-F]{{{width}}})" for name, width in _FIELDS))
_PATTERN = re.compile("".join(f"{name}([0-9A-F]{{{width}}}|\\*)" for name, width in _FIELDS))
_MODULE = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True)
class Alias:
    """One PCI line of modules.alias: `pattern` with its prefix, and `line`, its number in the file."""

    pattern: str
    module: str
    line: int

    @property
    def vfio(self) -> bool:
        """Whether this is the alias of a VFIO driver."""
        return self.pattern.startswith(VFIO_PREFIX)

    @property
    def wildcards(self) -> int:
        """How many of the seven fields may have any value; in a hand-written pattern, its wildcards."""
        body = self.pattern.partition(":")[2]
        fields = _PATTERN.fullmatch(body)
        if fields:
            return sum(field == "*" for field in fields.groups())
        return len(re.findall(r"\*|\?|\[", body))

    @property
    def regular(self) -> bool:
        """Whether it has the form that the kernel's build writes: every field, each a value or one `*`."""
        return _PATTERN.fullmatch(self.pattern.partition(":")[2]) is not None

    def matches(self, modalias: str) -> bool:
        """Whether the alias matches a device with this modalias (`pci:v...`)."""
        prefix = self.pattern.partition(":")[0]
        return fnmatchcase(f"{prefix}:{modalias.partition(':')[2]}", self.pattern)


@dataclass(frozen=True)
class Choice:
    """What `choose` found for one device.

    `module` is the driver's module, "" where no alias matches; `candidates` are the matching aliases, the
    most specific first; `tied` are modules as specific as the chosen one.
    """

    modalias: str
    module: str
    candidates: tuple[Alias, ...]
    tied: tuple[str, ...]


def is_modalias(text: str) -> bool:
    """Whether `text` is the modalias of a PCI device (drivers/pci/pci-sysfs.c, modalias_show())."""
    return _MODALIAS.fullmatch(text) is not None


def ids_of(modalias: str) -> tuple[int, ...]:
    """Vendor, device, subsystem vendor and device, base class, subclass, interface of a PCI modalias."""
    fields = _MODALIAS.fullmatch(modalias)
    if fields is None:
        raise UsageError(
            f"modalias {modalias[:80]!r} is not pci:vXXXXXXXXdXXXXXXXXsvXXXXXXXXsdXXXXXXXXbcXXscXXiXX with "
            "upper-case hexadecimal X; a device's is in /sys/bus/pci/devices/BDF/modalias"
        )
    return tuple(int(field, 16) for field in fields.groups())


def modalias_of(vendor: int, device: int, *, subsystem: tuple[int, int] = (0, 0), class_code: int = 0) -> str:
    """The modalias of a device; `class_code` has base class, subclass and interface in its three bytes."""
    fields = (vendor, device, *subsystem, class_code >> 16 & 0xFF, class_code >> 8 & 0xFF, class_code & 0xFF)
    return PCI_PREFIX + "".join(f"{n}{f:0{w}X}" for (n, w), f in zip(_FIELDS, fields, strict=True))


def choose(modalias: str, aliases: Iterable[Alias]) -> Choice:
    """Choose the VFIO driver for a device; UsageError if `modalias` is not a PCI device's."""
    ids_of(modalias)
    found = [alias for alias in aliases if alias.vfio and alias.matches(modalias)]
    found.sort(key=lambda alias: (alias.wildcards, alias.line))
    if not found:
        return Choice(modalias, "", (), ())
    best = [alias.module for alias in found if alias.wildcards == found[0].wildcards]
    tied = tuple(dict.fromkeys(module for module in best if module != best[0]))
    return Choice(modalias, best[0], tuple(found), tied)


def others(modalias: str, aliases: Iterable[Alias]) -> tuple[str, ...]:
    """The modules of other drivers that match the device: what the kernel itself loads for it."""
    found = [alias.module for alias in aliases if not alias.vfio and alias.matches(modalias)]
    return tuple(dict.fromkeys(found))


def parse_aliases(text: str, name: str = "modules.alias") -> tuple[Alias, ...]:
    """Parse the PCI aliases of a modules.alias file, in its order; skip comments and other buses.

    UsageError with file and line if a PCI line is not `alias PATTERN MODULE`.
    """
    found: list[Alias] = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if len(words) < 2 or words[0] != "alias" or not words[1].startswith((VFIO_PREFIX, PCI_PREFIX)):
            continue
        if len(words) != 3 or len(words[1]) > _MAX_ALIAS or not _MODULE.fullmatch(words[2]):
            raise UsageError(
                f"{name}:{number}: {line[:100]!r} is not 'alias PATTERN MODULE'; run 'depmod' to rewrite it"
            )
        found.append(Alias(words[1], words[2].replace("-", "_"), number))
    return tuple(found)


def read_aliases(path: Path) -> tuple[Alias, ...]:
    """Read the PCI aliases in a file; UsageError if it cannot be read or is not a modules.alias."""
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise UsageError(f"alias file {path} is larger than {_MAX_FILE_BYTES >> 20} MiB")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = (getattr(error, "strerror", None) or "not text").lower()
        hint = _neighbours(path)
        raise UsageError(f"alias file {path} cannot be read ({reason}){hint}") from None
    return parse_aliases(text, path.name)


def _neighbours(path: Path) -> str:
    try:
        close = get_close_matches(path.name, [entry.name for entry in path.parent.iterdir()], n=1)
    except OSError:
        return ""
    return f"; did you mean '{close[0]}'?" if close else ""
