# SPDX-License-Identifier: Apache-2.0
"""Probe what a device can do: asked of the device, never concluded from a version.

There are two programs.  The first opens, binds and attaches the device and asks for everything but regions
and interrupts, whose number it learns; the second asks for those.  The only change to the device is a reset.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from harness.engines import Engine, engine_for, load_engine
from harness.errors import LabError
from harness.probes.runner import Runner
from harness.uapi import vfio

__all__ = ["probe_capabilities", "probe_engine"]

_DEADLINE_MS = 20_000
# More than any driver has: a limit for the numbers that the device gives.
_MAX_INDEXES = 256

_MIGRATION = {
    "STOP_COPY": vfio.VFIO_MIGRATION_STOP_COPY,
    "P2P": vfio.VFIO_MIGRATION_P2P,
    "PRE_COPY": vfio.VFIO_MIGRATION_PRE_COPY,
}
_GET, _SET = vfio.VFIO_DEVICE_FEATURE_GET, vfio.VFIO_DEVICE_FEATURE_SET
# Capability -> (feature, GET or SET) to PROBE for.
_PROBES = {
    "migration_probed": (vfio.VFIO_DEVICE_FEATURE_MIGRATION, _GET),
    "mig_device_state_get": (vfio.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, _GET),
    "mig_device_state_set": (vfio.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE, _SET),
    "data_size": (vfio.VFIO_DEVICE_FEATURE_MIG_DATA_SIZE, _GET),
    "precopy_info_v2": (vfio.VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2, _SET),
    "dma_logging_start": (vfio.VFIO_DEVICE_FEATURE_DMA_LOGGING_START, _SET),
    "dma_logging_stop": (vfio.VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP, _SET),
    "dma_logging_report": (vfio.VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT, _GET),
    "low_power": (vfio.VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY, _SET),
    "bus_master": (vfio.VFIO_DEVICE_FEATURE_BUS_MASTER, _SET),
    "dma_buf": (vfio.VFIO_DEVICE_FEATURE_DMA_BUF, _GET),
    "pci_vf_token": (vfio.VFIO_DEVICE_FEATURE_PCI_VF_TOKEN, _SET),
}

Op = list[Any]
_OPENING: list[Op] = [
    ["open_iommufd", {"out": "i"}],
    ["ioas_alloc", {"fd": "i", "out": "ioas"}],
    ["open_cdev", {"dev": "dev0", "out": "d"}],
    ["bind", {"fd": "d", "iommufd": "i"}],
    ["attach", {"fd": "d", "pt": "ioas"}],
]


def probe_capabilities(agent: Runner, entry: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Capabilities of the device `entry` (as in a program's `devices`); LabError if it cannot be opened.

    They are listed in `harness/spec/capabilities.py`; `stream_bytes` is only set with `data_size`.
    """
    opening = _OPENING
    migration = vfio.VFIO_DEVICE_FEATURE_MIGRATION
    asking: list[Op] = [
        ["device_info", {"fd": "d"}],
        ["feature", {"fd": "d", "flags": _GET | migration, "payload": "00" * 8}],
        ["debugfs_state", {"dev": "dev0"}],
        ["data_size", {"fd": "d"}],
        ["reset", {"fd": "d"}],
    ]
    probes: list[Op] = [
        ["feature", {"fd": "d", "flags": vfio.VFIO_DEVICE_FEATURE_PROBE | way | feature}]
        for feature, way in _PROBES.values()
    ]
    records = _run(agent, entry, name, [*opening, *asking, *probes], len(opening))
    device, declared, debugfs, size, reset, *answers = records[len(opening) :]
    if device["errno"]:
        raise LabError(f"{name}: VFIO_DEVICE_GET_INFO failed with errno {device['errno']}")
    has = {key: not answer["errno"] for key, answer in zip(_PROBES, answers, strict=True)}
    features = struct.unpack("=Q", bytes.fromhex(declared["payload"]))[0] if not declared["errno"] else 0
    result: dict[str, Any] = {
        "cdev": True,
        "flags": device["flags"],
        "num_regions": device["num_regions"],
        "num_irqs": device["num_irqs"],
        "migration": [key for key, bit in _MIGRATION.items() if features & bit],
        "migration_flags": features,
        "dma_logging_any": any(has[key] for key in has if key.startswith("dma_logging")),
        "dma_logging": has["dma_logging_start"] and has["dma_logging_stop"] and has["dma_logging_report"],
        # Where a device says that it can, a failure here is for MIG-143 to judge.
        "reset": not reset["errno"] or bool(device["flags"] & vfio.VFIO_DEVICE_FLAGS_RESET),
        "reset_flag": bool(device["flags"] & vfio.VFIO_DEVICE_FLAGS_RESET),
        "debugfs_state": not debugfs["errno"],
        **has,
    }
    if has["data_size"] and not size["errno"]:
        result["stream_bytes"] = size["size"]
    result["regions"], result["irqs"] = _indexes(agent, entry, name, opening, device)
    return result


def probe_engine(
    agent: Runner, entry: Mapping[str, Any], name: str, hint: str, capabilities: Mapping[str, Any]
) -> dict[str, Any]:
    """Find the device's traffic engine: `engine` is its name ('' for none), `engine_GIFT` what it can do.

    `hint` is the engine that the profile names, or ''; see `harness.engines.engine_for`.
    """

    def read(region: int, offset: int) -> int | None:
        ops: list[Op] = [*_OPENING, ["region_read", {"fd": "d", "region": region, "off": offset, "n": 4}]]
        record = _run(agent, entry, name, ops, len(_OPENING))[-1]
        return int.from_bytes(bytes.fromhex(record["hex"]), "little") if record.get("n") == 4 else None

    is_pci = int(capabilities.get("flags", 0)) & vfio.VFIO_DEVICE_FLAGS_PCI
    pci_id = read(vfio.VFIO_PCI_CONFIG_REGION_INDEX, 0) if is_pci else None
    pci_class = read(vfio.VFIO_PCI_CONFIG_REGION_INDEX, 8) if is_pci else None
    found = engine_for(hint, None if pci_class is None else pci_class >> 8, pci_id, read)
    if found and not _wakes(agent, entry, name, load_engine(found)):
        return {
            "engine": "",
            "engine_why": f"{found}: the device has this engine, but it does not become ready",
        }
    gifts = sorted(load_engine(found).gifts) if found else []
    return {
        "engine": found,
        **{f"engine_{gift}".replace("-", "_"): True for gift in gifts},
        "engine_p2p": any(gift.startswith("p2p") for gift in gifts),
        "engine_quiesces": "begin" in gifts or "endless" in gifts,
    }


def _wakes(agent: Runner, entry: Mapping[str, Any], name: str, engine: Engine) -> bool:
    """Whether the engine becomes ready; True if it has no `wake` to tell."""
    wake = engine.wake
    if wake is None:
        return True
    parts = ([*wake.begin, wake.dead], [wake.alive], list(wake.end))
    ops: list[Op] = [
        *_OPENING,
        *(["dma", {"fd": "d", "steps": steps, "effect": {"do": "setup"}}] for steps in parts),
    ]
    dead, alive, _ = _run(agent, entry, name, ops, len(_OPENING))[len(_OPENING) :]
    return not dead.get("done") and bool(alive.get("done"))


def _indexes(
    agent: Runner, entry: Mapping[str, Any], name: str, opening: list[Op], device: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    regions, irqs = (min(int(device[key]), _MAX_INDEXES) for key in ("num_regions", "num_irqs"))
    # Some drivers (mtty) set the number of interrupts only when the device info is requested.
    ops: list[Op] = [*opening, ["device_info", {"fd": "d"}]]
    ops += [["region_info", {"fd": "d", "index": index}] for index in range(regions)]
    ops += [["irq_info", {"fd": "d", "index": index}] for index in range(irqs)]
    records = _run(agent, entry, name, ops, len(opening))[len(opening) + 1 :]
    wanted_region = ("index", "flags", "size", "offset", "caps_hex")
    wanted_irq = ("index", "flags", "count")
    return (
        [{key: r[key] for key in wanted_region} for r in records[:regions] if not r["errno"]],
        [{key: r[key] for key in wanted_irq} for r in records[regions:] if not r["errno"]],
    )


def _run(
    agent: Runner, entry: Mapping[str, Any], name: str, ops: Sequence[Op], must_succeed: int
) -> list[Mapping[str, Any]]:
    """Run `ops`, return their records in order; LabError if one of the first `must_succeed` failed."""
    result = agent.run(
        {
            "devices": {"dev0": dict(entry)},
            "session": "probe",
            "keep": [],
            "deadline_ms": _DEADLINE_MS,
            "threads": [{"name": "main", "ops": list(ops)}],
        }
    )
    if result.hung:
        raise LabError(f"{name}: {result.hung.get('op')} did not return within {_DEADLINE_MS // 1000} s")
    records: list[Mapping[str, Any]] = sorted(result.trace, key=lambda record: record["i"])
    if [record["i"] for record in records] != list(range(len(ops))):
        raise LabError(f"{name}: the trace has {len(records)} records for {len(ops)} operations")
    for record in records[:must_succeed]:
        if record["errno"] or record.get("skipped"):
            why = record.get("skipped") or f"errno {record['errno']} ({_errno_text(record['errno'])})"
            raise LabError(f"{name}: {record['op']} failed: {why}; the device cannot be opened")
    return records


def _errno_text(number: int) -> str:
    return os.strerror(number).lower()
