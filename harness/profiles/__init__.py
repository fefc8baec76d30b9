# SPDX-License-Identifier: Apache-2.0
"""What the suite must know about a driver and cannot ask the device: one file per driver.

The file is named after the kernel module and holds `PROFILE = Profile(...)`.  A new driver is one new file
and no edit anywhere else.  A profile never says what a device *can* do (capabilities are probed on the
device): it says where its migrated state shows, how to change that state, and how to make the device fail.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from typing import Literal

from harness.errors import HarnessError, UsageError

__all__ = [
    "Drain",
    "ErrorHook",
    "Mutation",
    "Profile",
    "RegionWrite",
    "StateRegion",
    "load_profile",
    "profile_names",
]

_WIDTHS = (1, 2, 4, 8)


@dataclass(frozen=True)
class StateRegion:
    """Bytes of a device region that are migrated state; reading them changes nothing.

    `region` is the VFIO region index, `offset` and `length` are bytes in it, `width` is the size in bytes of
    each access (a UART register answers only byte reads).
    """

    region: int
    offset: int
    length: int
    width: int = 4

    def __post_init__(self) -> None:
        _check_access("state region", self.region, self.offset, self.length, self.width)

    def as_wire(self) -> list[int]:
        """`[region, offset, length, width]`, as the agent's `fingerprint` operation takes it."""
        return [self.region, self.offset, self.length, self.width]


@dataclass(frozen=True)
class Drain:
    """A read that changes state: `count` accesses of `width` bytes at one place, for instance a FIFO.

    What comes out is state too, so a complete comparison of two devices ends with the drains, and only then.
    `count` is exactly what a mutation put there: reading past it may give anything.
    """

    region: int
    offset: int
    count: int
    width: int = 1

    def __post_init__(self) -> None:
        _check_access("drain", self.region, self.offset, self.width, self.width)


@dataclass(frozen=True)
class RegionWrite:
    """One write of `data` (its length is the access width) at `offset` bytes of region `region`."""

    region: int
    offset: int
    data: bytes

    def __post_init__(self) -> None:
        _check_access("region write", self.region, self.offset, len(self.data), len(self.data))


@dataclass(frozen=True)
class Mutation:
    """Writes that bring a device into a state that differs from the state after reset.

    Guarantees: allowed in RUNNING; the same writes on two devices that were just made (or just resumed from
    the same stream) leave the same state; two mutations of one profile leave different states; `drains`, read
    after the writes (and nothing else that touches the same place), give the same bytes each time.
    """

    name: str
    writes: tuple[RegionWrite, ...]
    drains: tuple[Drain, ...] = ()


@dataclass(frozen=True)
class ErrorHook:
    """How to tell this device to fail the next `arc`, once, and no other: `writes`, made in RUNNING.

    `enters_error`: whether it then ends in ERROR, or stays in the state it was in.
    """

    name: str
    arc: tuple[str, str]
    enters_error: bool
    writes: tuple[RegionWrite, ...]


@dataclass(frozen=True)
class Profile:
    """All that is known of one driver; `module` is the file name and the kernel module's name.

    `driver` is the name under `/sys/bus/*/drivers/`.  `needs_pf`: the device is a virtual function and its
    PF's driver must stay bound.
    """

    module: str
    driver: str
    description: str
    does_dma: bool
    bus: Literal["pci", "mdev"] = "pci"
    state_regions: tuple[StateRegion, ...] = ()
    mutate: tuple[Mutation, ...] = ()
    error_hooks: tuple[ErrorHook, ...] = ()
    needs_pf: bool = False
    expects: Mapping[str, str] = field(default_factory=dict)
    """Capability -> the kernel series ("6.6") since which every device of this driver shows it, by the
    driver's source.  One that is missing there makes its clauses inconclusive, and not "not applicable"."""
    appears: str = ""
    """What to do where an expected capability is missing, as a sentence."""
    pf_modules: tuple[str, ...] = ()
    """Modules of the PF's driver, whose warnings in the kernel log count against the device, too."""
    explanations: Mapping[str, str] = field(default_factory=dict)
    """Clause id -> the cause of a finding that was followed to the driver's source, for the report."""
    source: str = ""
    pci_ids: tuple[tuple[int, int], ...] = ()
    """(vendor, device) of devices it is for, some or all; `vfio_pci:` aliases lead from each to it."""
    engine: str = ""
    """Traffic engine (harness/engines) that its devices may have: those that do show it in a register."""
    stream_limit_bytes: int = 0
    """No stream of its devices is longer, by what the driver documents; 0: nothing is known to bound it."""
    op_limit_s: float = 60.0
    """How long one operation may take before it counts as hung, in seconds.  The default is the time that
    mlx5 gives its firmware for one command (MLX5_TO_CMD_MS, .../mellanox/mlx5/core/lib/tout.c)."""

    def expected(self, capability: str, kernel: str) -> str:
        """Since which series the capability is expected on a kernel of this release; '' where it is not.

        `kernel` is what `uname -r` says; a release that has no number in front expects nothing.
        """
        since = self.expects.get(capability, "")
        return since if since and _series(kernel) >= _series(since) else ""

    def present_state(self, region_sizes: Mapping[int, int]) -> tuple[StateRegion, ...]:
        """The state regions that a device with these region sizes (bytes, by index) has."""
        return tuple(s for s in self.state_regions if region_sizes.get(s.region, 0) >= s.offset + s.length)

    def present_mutations(self, region_sizes: Mapping[int, int]) -> tuple[Mutation, ...]:
        """The mutations whose every write falls inside a region of these sizes."""
        return tuple(
            m
            for m in self.mutate
            if all(region_sizes.get(w.region, 0) >= w.offset + len(w.data) for w in m.writes)
        )


def _series(release: str) -> tuple[int, int]:
    """`7.2.12-1-amd64` as (7, 2); (0, 0) for what is no release."""
    found = re.match(r"(\d{1,4})\.(\d{1,4})", release)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _check_access(what: str, region: int, offset: int, length: int, width: int) -> None:
    if width not in _WIDTHS or region < 0 or offset < 0 or length <= 0 or length % width:
        raise HarnessError(
            f"{what} ({region}, {offset}, {length}, {width}) is wrong: width is one of {_WIDTHS}, "
            "length a multiple of it, region and offset not negative"
        )


@cache
def profile_names() -> tuple[str, ...]:
    """Names of all profiles, sorted: the files beside this one."""
    return tuple(sorted(name for _, name, is_package in pkgutil.iter_modules(__path__) if not is_package))


@cache
def load_profile(name: str) -> Profile:
    """The profile called `name` (`-` counts as `_`); UsageError with the valid names where there is none."""
    wanted = name.replace("-", "_")
    if wanted not in profile_names():
        close = get_close_matches(wanted, profile_names(), n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise UsageError(f"profile='{name}' is not a profile: {', '.join(profile_names())}{hint}")
    found = getattr(importlib.import_module(f"{__name__}.{wanted}"), "PROFILE", None)
    if not isinstance(found, Profile):
        raise HarnessError(f"harness/profiles/{wanted}.py holds no PROFILE = Profile(...)")
    _check_profile(wanted, found)
    return found


def _check_profile(name: str, profile: Profile) -> None:
    if profile.module != name:
        raise HarnessError(f"harness/profiles/{name}.py: module='{profile.module}' is not the file's name")
    for what, names in (
        ("mutation", [m.name for m in profile.mutate]),
        ("error hook", [h.name for h in profile.error_hooks]),
    ):
        double = _first_double(names)
        if double is not None:
            raise HarnessError(f"harness/profiles/{name}.py: {what} '{double}' is there twice")


def _first_double(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
