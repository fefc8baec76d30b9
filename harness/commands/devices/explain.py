# SPDX-License-Identifier: Apache-2.0
"""`vfiocert devices --explain`: say which VFIO driver is the right one for a device, and why."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fixtures.reach import Reach
from harness.errors import LabError, UsageError
from harness.hosts.driver_choice import Alias, Choice, choose, ids_of, others, parse_aliases, read_aliases
from harness.hosts.host import Host
from harness.hosts.provision import describe, wire_device
from harness.profiles import load_profile

__all__ = ["explain", "host_aliases"]

_READ_S = 30.0


@dataclass(frozen=True)
class Explained:
    """A question about a device, the source of the answer, and the answer."""

    name: str
    source: str
    choice: Choice
    aliases: tuple[Alias, ...]
    driver: str = ""
    override: str = ""
    expected: str = ""
    """The module that the device's profile expects, "" for none."""


def explain(what: str, reached: Sequence[Reach], alias_file: Path | None, as_json: bool) -> None:
    """Print the choice for a modalias (`pci:...`) or a device of the inventory.

    The aliases are those of `alias_file`, of the device's host, or, for a modalias, of this machine's kernel.
    UsageError if `what` is neither; LabError if the host does not answer.
    """
    found = _of_modalias(what, alias_file) if ":" in what else _of_device(what, reached, alias_file)
    print(json.dumps(_as_json(found), indent=2) if as_json else _as_text(found))


def host_aliases(host: Host) -> tuple[Alias, ...]:
    """Read the PCI aliases of the kernel that runs on `host`; LabError if it has no modules.alias."""
    status, out, _ = host.exec(
        'grep -E "^alias (vfio_)?pci:" "/lib/modules/$(uname -r)/modules.alias"', _READ_S
    )
    if status != 0:
        raise LabError(
            f"{host.name}: no PCI alias in /lib/modules/$(uname -r)/modules.alias; run 'depmod' there"
        )
    return parse_aliases(out.decode("utf-8", "replace"), f"{host.name}: modules.alias")


def _of_modalias(modalias: str, alias_file: Path | None) -> Explained:
    ids_of(modalias)
    file = alias_file or Path("/lib/modules") / os.uname().release / "modules.alias"
    if alias_file is None and not file.exists():
        raise UsageError(f"this machine has no {file}; name one with --alias-file, or a device of a lab")
    aliases = read_aliases(file)
    return Explained(modalias, str(file), choose(modalias, aliases), aliases)


def _of_device(device: str, reached: Sequence[Reach], alias_file: Path | None) -> Explained:
    known = [(reach, spec) for reach in reached for spec in reach.devices]
    found = [(reach, spec) for reach, spec in known if spec.id == device]
    if not found:
        names = ", ".join(dict.fromkeys(spec.id for _, spec in known)) or "none"
        raise UsageError(f"--explain {device}: no such device: {names}; or give a modalias, pci:v...")
    reach, spec = found[0]
    if spec.pci is None:
        raise UsageError(f"--explain {device}: only PCI devices have variant drivers, and this is not one")
    if reach.spec is None:
        raise LabError(f"{reach.lab}: lab is not running: {reach.why}")
    with Host.connect(reach.spec, reach.name, reach.jumps, require_vfio=False) as host:
        described = describe(host, spec, wire_device(reach.name, spec))
        if not described.get("exists"):
            raise LabError(f"{host.name}: device '{device}' is absent: no {spec.pci} on the host")
        aliases = read_aliases(alias_file) if alias_file else host_aliases(host)
    profile = load_profile(spec.profile)
    return Explained(
        device,
        str(alias_file or f"modules.alias of {host.name}"),
        choose(str(described["modalias"]), aliases),
        aliases,
        str(described.get("driver") or ""),
        str(described.get("driver_override") or ""),
        profile.module if profile.pci_ids else "",
    )


def _as_json(found: Explained) -> dict[str, Any]:
    choice = found.choice
    return {
        "schema": 1,
        "device": found.name,
        "modalias": choice.modalias,
        "aliases": found.source,
        "module": choice.module,
        "tied": list(choice.tied),
        "candidates": [
            {"module": a.module, "wildcards": a.wildcards, "pattern": a.pattern, "line": a.line}
            for a in choice.candidates
        ],
        "not_vfio": list(others(choice.modalias, found.aliases)),
        "bound": found.driver,
        "driver_override": found.override,
        "profile": found.expected,
    }


def _as_text(found: Explained) -> str:
    choice = found.choice
    lines = [f"{found.name}: {choice.module or 'no VFIO driver'}"]
    if choice.modalias != found.name:
        lines.append(f"  modalias  {choice.modalias}")
    lines.append(f"  aliases   {found.source}")
    width = max((len(a.module) for a in choice.candidates), default=0)
    for alias in choice.candidates:
        mark = "chosen" if alias == choice.candidates[0] else "tied" if alias.module in choice.tied else ""
        text = f"  candidate {alias.module:{width}}  {alias.wildcards} wildcards  {alias.pattern}  {mark}"
        lines.append(text.rstrip())
    if choice.tied:
        lines.append(
            f"  tie       as specific: {', '.join(choice.tied)}; no text says which: set driver_override"
        )
    lines.append(f"  not VFIO  {', '.join(others(choice.modalias, found.aliases)) or 'none'}")
    if found.driver or found.override:
        lines.append(f"  bound     {found.driver or 'none'} (driver_override: {found.override or 'unset'})")
    if found.expected:
        agrees = "agrees" if found.expected == choice.module else "DIFFERS"
        lines.append(f"  profile   {found.expected}: {agrees}")
    return "\n".join(lines)
