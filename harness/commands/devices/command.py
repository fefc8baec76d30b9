# SPDX-License-Identifier: Apache-2.0
"""`vfiocert devices`: the current state of each device of the inventory, and why one cannot be certified."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from fixtures.reach import Reach, gone, reaches
from harness.commands.devices.explain import explain
from harness.errors import LabError, UsageError, VfiocertError
from harness.hosts.host import Host, holder_name
from harness.hosts.inventory import DeviceSpec, load_inventory
from harness.hosts.lease import current_leases, lease_of
from harness.hosts.provision import describe, provisioned, wire_device
from harness.profiles import load_profile
from harness.progress import open_progress
from reports.models import Run
from reports.writer import read_run

__all__ = ["DeviceRow", "devices"]

_HOSTS_AT_ONCE = 16
_MAX_RUNS = 200
_COLUMNS = ("lab", "host", "id", "device", "driver", "group", "state", "capabilities", "last", "why")


@dataclass(frozen=True)
class DeviceRow:
    """The current state of one device.

    `state`: ready, absent, in-use, protected, leased, no-vfio, unusable (--probe failed), unreachable, or
    not-running (the embedded lab).
    """

    lab: str
    host: str
    id: str
    device: str
    profile: str
    state: str
    why: str = ""
    driver: str = ""
    group: str = ""
    lease: str = ""
    capabilities: dict[str, Any] = field(default_factory=dict)
    last_verdict: str = ""
    last_run: str = ""


def devices(
    lab: Annotated[list[str] | None, typer.Option(help="only this lab; may be repeated")] = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="bind each free device and ask what it can do")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON document instead of a table")] = False,
    labs_file: Annotated[Path | None, typer.Option(help="inventory [default: labs.yaml]")] = None,
    runs: Annotated[Path, typer.Option(help="folder of earlier runs, for the last verdicts")] = Path("runs"),
    explain_: Annotated[
        str | None,
        typer.Option(
            "--explain", metavar="DEVICE|MODALIAS", help="which VFIO driver is the right one, and why"
        ),
    ] = None,
    alias_file: Annotated[
        Path | None, typer.Option(help="with --explain: a modules.alias [default: the host's]")
    ] = None,
) -> None:
    """List the devices of the labs with their live state; nothing is changed without --probe.

    \b
    Examples:
      vfiocert devices
      vfiocert devices --lab rack7 --probe
      vfiocert devices --json
      vfiocert devices --explain edu-ref
      vfiocert devices --explain pci:v000015B3d0000101Esv000015B3sd00000023bc02sc00i00

    A host that cannot be reached is shown as unreachable, and the others are still listed.
    """
    reached = reaches(load_inventory(labs_file), lab or [])
    if alias_file is not None and explain_ is None:
        raise UsageError("--alias-file is for --explain; add --explain DEVICE or MODALIAS")
    if explain_ is not None:
        explain(explain_, reached, alias_file, as_json)
        return
    with open_progress() as progress:
        progress.step(f"asking {len(reached)} hosts")
        with ThreadPoolExecutor(_HOSTS_AT_ONCE) as pool:
            rows = [row for found in pool.map(lambda reach: _ask(reach, probe), reached) for row in found]
    rows = _with_last_runs(rows, runs)
    if as_json:
        print(json.dumps({"schema": 1, "devices": [asdict(row) for row in rows]}, indent=2))
    elif not rows:
        print("no devices; docs/your-own-device.md says how to add one to labs.yaml")
    else:
        _table(rows)


def _ask(reach: Reach, probe: bool) -> list[DeviceRow]:
    """The rows of one host; a failure there is shown as the state of its devices."""
    if reach.spec is None:
        return [_row(reach, device, "not-running", reach.why) for device in reach.devices]
    try:
        with Host.connect(reach.spec, reach.name, reach.jumps, require_vfio=False) as host:
            leases = current_leases(host)
            return [_look(reach, host, device, leases, probe) for device in reach.devices]
    except VfiocertError as error:
        if gone(reach):
            return []
        return [_row(reach, device, "unreachable", str(error)) for device in reach.devices]


def _look(reach: Reach, host: Host, device: DeviceSpec, leases: dict[str, str], probe: bool) -> DeviceRow:
    wire = wire_device(reach.name, device)
    try:
        described = describe(host, device, wire)
    except VfiocertError as error:
        return _row(reach, device, "unreachable", str(error))
    row = replace(
        _row(reach, device, "ready"),
        driver=str(described.get("driver") or ""),
        group=str(described.get("iommu_group") or ""),
        lease=lease_of(leases, wire, described),
    )
    made = device.mdev is not None or device.vf_of is not None
    used = described.get("in_use")
    if described.get("protected_because"):
        return replace(row, state="protected", why=str(described["protected_because"]))
    if row.lease:
        return replace(row, state="leased", why=row.lease)
    if used:
        return replace(
            row, state="in-use", why=", ".join(map(str, used)) if isinstance(used, list) else str(used)
        )
    if not described.get("exists") and not made:
        return replace(row, state="absent", why="no such device on the host")
    if not (host.info.has_vfio and host.info.has_iommufd):
        missing = "iommufd" if host.info.has_vfio else "VFIO"
        return replace(row, state="no-vfio", why=f"kernel {host.info.kernel} has no {missing}")
    if not probe:
        return row
    try:
        with provisioned(host, device, holder=holder_name("devices --probe")) as ready:
            return replace(row, driver=ready.driver, capabilities=dict(ready.capabilities))
    except LabError as error:
        return replace(row, state="unusable", why=" ".join(str(error).split()))


def _row(reach: Reach, device: DeviceSpec, state: str, why: str = "") -> DeviceRow:
    what = device.pci or (f"{device.mdev.parent}/{device.mdev.type}" if device.mdev else "mock")
    profile = load_profile(device.profile).module
    return DeviceRow(reach.lab, reach.host_id, device.id, what, profile, state, " ".join(why.split()))


def _with_last_runs(rows: Sequence[DeviceRow], folder: Path) -> list[DeviceRow]:
    """Add the verdict, and capabilities not probed now, from the newest run that has the device."""
    files = sorted(folder.glob("*/run.json"), key=lambda f: f.stat().st_mtime, reverse=True)[:_MAX_RUNS]
    found: list[tuple[Path, Run]] = []
    for file in files:
        try:
            found.append((file.parent, read_run(file.parent)))
        except UsageError:
            # An unfinished or foreign folder says nothing about a device.
            continue
    result = []
    for row in rows:
        for place, run in found:
            device = next((d for d in run.devices if d.id == row.id), None) if run.lab == row.lab else None
            if device is not None:
                row = replace(
                    row,
                    last_verdict=device.verdict,
                    last_run=str(place),
                    capabilities=row.capabilities or device.capabilities,
                )
                break
        result.append(row)
    return result


def _summary(capabilities: dict[str, Any]) -> str:
    """The capabilities, short enough for a table: migration features, then the rest by name."""
    if not capabilities:
        return ""
    words = ["+".join(capabilities.get("migration") or []) or "no migration"]
    words += [
        name for name in ("data_size", "dma_logging", "precopy_info_v2", "reset") if capabilities.get(name)
    ]
    return " ".join(words)


def _cells(row: DeviceRow) -> tuple[str, ...]:
    values = asdict(row) | {"capabilities": _summary(row.capabilities), "last": row.last_verdict}
    return tuple(str(values[name]) for name in _COLUMNS)


def _table(rows: Sequence[DeviceRow]) -> None:
    cells = [_cells(row) for row in rows]
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(*_COLUMNS, box=None, header_style="bold")
        for line in cells:
            # Text, so that what a host sent is not read as markup.
            table.add_row(*(Text(cell) for cell in line))
        Console().print(table)
        return
    widths = [max(len(line[i]) for line in [_COLUMNS, *cells]) for i in range(len(_COLUMNS))]
    for line in [_COLUMNS, *cells]:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
