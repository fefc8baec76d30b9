# SPDX-License-Identifier: Apache-2.0
"""The seeded defects, from the reference drivers' tables and the patches of the kernel's core.

A driver's table is `fixtures/reference/*/defects.h`, whose lines its C code expands as X-macros:

    DEFECT(name, "MIG-055", "what a driver author gets wrong")
    DEFECT_ON(name, "MIG-030", "...", "ref-minimal")     on another device than the driver's usual one
    DEFECT_DEBUG(name, "MIG-166", "...")                 seen by the debug kernel only

A patch is `fixtures/core_patches/NAME.patch`, or `fixtures/silicon/DRIVER/defects/NAME.patch` for a driver
that has a model: a unified diff against the kernel with a head of `Defect:`, `Breaks:`, `Device:` (and
`Flavour:`) lines and a paragraph that says why an author would do it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path

from harness import PROJECT
from harness.errors import HarnessError, UsageError
from harness.hosts.inventory import Variant, embedded_devices, embedded_variants
from harness.lab.silicon import silicon_drivers
from harness.spec.clause import by_id

__all__ = [
    "CORE",
    "FIXTURES",
    "Defect",
    "catalogue",
    "check_defects",
    "parse_patch",
    "parse_table",
    "select_defects",
    "variant_defects",
]

FIXTURES = PROJECT / "fixtures"
CORE = "core"
_NAME = r"[a-z0-9_]{1,64}"
_STRING = r'"(?:[^"\\\n]|\\.)*"'
_TEXT = rf"{_STRING}(?:[\s\\]*{_STRING})*"
_LINE = re.compile(
    rf'\b(DEFECT(?:_ON|_DEBUG)?)\(\s*({_NAME})\s*,\s*"([^"]*)"\s*,[\s\\]*({_TEXT})\s*(?:,\s*"([^"]*)"\s*)?\)'
)
_ANY_LINE = re.compile(r"^\s*DEFECT(?:_[A-Z]+)?\(", re.M)
_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.S)
_HEAD = re.compile(r"^(Defect|Breaks|Device|Flavour): *(.*?) *$", re.M)
_FILE = re.compile(r"^\+\+\+ b/(\S+)", re.M)
_MAX_TABLE_BYTES = 1 << 20


@dataclass(frozen=True)
class Defect:
    """One rule broken on purpose: `clause` is the one it breaks, `device` the one it is tested on.

    `module` is the kernel module with the knob; with a `patch` it is `core`, or the driver that is patched.
    """

    name: str
    module: str
    clause: str
    text: str
    device: str
    flavour: str = "plain"
    where: str = ""
    patch: Path | None = None
    knob: str = ""
    """What the module calls it, where that is not its name."""


def parse_table(text: str, module: str, device: str, where: str) -> list[Defect]:
    """Parse the defects of one `defects.h`; HarnessError for a line that cannot be read."""
    plain = _COMMENT.sub(" ", text)
    found = []
    for kind, name, clause, quoted, other in _LINE.findall(plain):
        words = "".join(re.findall(r'"((?:[^"\\\n]|\\.)*)"', quoted)).replace('\\"', '"')
        flavour = "debug" if kind == "DEFECT_DEBUG" else "plain"
        found.append(Defect(name, module, clause, words, other or device, flavour, where))
    lines = len(_ANY_LINE.findall(plain))
    if lines > len(found):
        raise HarnessError(
            f"{where}: {lines - len(found)} of {lines} DEFECT lines cannot be read; a line is "
            'DEFECT(name, "MIG-055", "sentence")'
        )
    return found


def parse_patch(text: str, path: Path, module: str = CORE) -> Defect:
    """The defect that a patch seeds, of the kernel's core or of driver `module`.

    HarnessError for a head that lacks something.
    """
    head, found, _ = text.partition("\n--- ")
    values = {key: value for key, value in _HEAD.findall(head)}
    missing = [key for key in ("Defect", "Breaks", "Device") if not values.get(key)]
    files = _FILE.findall(text)
    if missing or not found or not files:
        lacks = f"no '{missing[0]}:' line" if missing else "no unified diff"
        raise HarnessError(f"{path.name}: {lacks}; the head of a patch is Defect:, Breaks:, Device:")
    if values["Defect"] != path.stem or not re.fullmatch(_NAME, path.stem):
        raise HarnessError(f"{path.name}: 'Defect: {values['Defect']}' is not the name of the file")
    words = " ".join(_HEAD.sub("", head).split())
    words = re.sub(r"^SPDX-License-Identifier: \S+ ", "", words)
    where = ", ".join(sorted({file.rpartition("/")[2] for file in files}))
    return Defect(
        values["Defect"], module, values["Breaks"], words, values["Device"], values.get("Flavour", "plain"),
        where, path,
    )  # fmt: skip


def catalogue(fixtures: Path = FIXTURES) -> tuple[Defect, ...]:
    """Load every defect; HarnessError for one that cannot be read, and for a name used twice."""
    found: list[Defect] = []
    for table in sorted(fixtures.glob("reference/*/defects.h")):
        module, device = _driver_of(table.parent.name)
        if table.stat().st_size > _MAX_TABLE_BYTES:
            raise HarnessError(f"{table.parent.name}/{table.name}: is over {_MAX_TABLE_BYTES} bytes")
        text = table.read_text(encoding="utf-8", errors="replace")
        found += parse_table(text, module, device, f"{table.parent.name}/{table.name}")
    for patch in sorted(fixtures.glob("core_patches/*.patch")):
        found.append(parse_patch(patch.read_text(encoding="utf-8", errors="replace"), patch))
    for module, folder in silicon_drivers().items() if fixtures == FIXTURES else ():
        for patch in sorted(folder.glob("defects/*.patch")):
            found.append(parse_patch(patch.read_text(encoding="utf-8", errors="replace"), patch, module))
    names = [d.name for d in found]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise HarnessError(f"defect name used twice: {', '.join(twice)}")
    return tuple(found)


def variant_defects(found: Sequence[Defect], variants: Mapping[str, Variant]) -> tuple[Defect, ...]:
    """The defects that variants must show, too, as `DEFECT-on-VARIANT`; HarnessError for an unknown one."""
    by_name = {d.name: d for d in found}
    pairs = []
    for variant in variants.values():
        for name in variant.catches:
            base = by_name.get(name)
            if base is None or base.module == CORE or base.flavour != "plain":
                raise HarnessError(
                    f"variants.yaml: {variant.name}: catches {name!r}, which is no defect of it"
                )
            words = f"{base.text}; on a device like this: {variant.text}"
            pairs.append(
                replace(base, name=f"{name}-on-{variant.name}", knob=name, device=variant.name, text=words)
            )
    return tuple(pairs)


def _driver_of(folder: str) -> tuple[str, str]:
    """The module and usual device of a reference driver's folder; HarnessError if unknown."""
    drivers = {"mdev": ("vfiocert_ref", "ref"), "edu": ("edu_vfio_pci", "edu-ref")}
    if folder not in drivers:
        raise HarnessError(f"fixtures/reference/{folder}: has defects, and is no driver known to prove")
    return drivers[folder]


def check_defects(found: Iterable[Defect]) -> None:
    """Check defects; HarnessError if one names an unknown clause, device or flavour."""
    devices = {d.id for d in embedded_devices()} | set(embedded_variants())
    for defect in found:
        if defect.clause not in by_id():
            raise HarnessError(f"defect {defect.name}: breaks {defect.clause}, which is no clause")
        if defect.device not in devices:
            known = ", ".join(sorted(devices))
            raise HarnessError(f"defect {defect.name}: device {defect.device!r} is not one of {known}")
        if defect.flavour not in ("plain", "debug"):
            raise HarnessError(f"defect {defect.name}: flavour {defect.flavour!r} is not plain or debug")


def select_defects(defects: Sequence[Defect], globs: Iterable[str]) -> tuple[Defect, ...]:
    """The defects whose `NAME`, `MODULE:NAME` or clause matches one of the patterns; without a pattern, all.

    If a pattern matches none, UsageError names the closest.
    """
    wanted = list(globs)
    chosen: dict[str, Defect] = {}
    for glob in wanted:
        matched = {d.name: d for d in defects if any(fnmatchcase(n, glob) for n in _names(d))}
        if not matched:
            raise UsageError(_unknown(glob, {d.name: d for d in defects}))
        chosen.update(matched)
    return tuple(d for d in defects if d.name in chosen) if wanted else tuple(defects)


def _names(defect: Defect) -> tuple[str, ...]:
    return defect.name, f"{defect.module}:{defect.name}", defect.clause


def _unknown(glob: str, defects: Mapping[str, Defect]) -> str:
    names = sorted(defects)
    close = difflib.get_close_matches(glob, names, n=5, cutoff=0.5)
    shown = close or names[:8]
    more = "" if close or len(names) <= len(shown) else f" and {len(names) - len(shown)} more"
    said = f"close: {', '.join(shown)}" if close else f"there are {', '.join(shown) or 'none'}{more}"
    return f"--defect={glob!r} is not a defect; {said}; 'vfiocert prove --list' shows all"
