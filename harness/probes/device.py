# SPDX-License-Identifier: Apache-2.0
"""Probe what a PCI device shows beyond its infos: configuration space and known registers.

`harness/spec/capabilities.py` lists the capabilities found here, with their sources.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from harness.errors import LabError
from harness.probes.runner import Runner
from harness.uapi import vfio

__all__ = ["capability_offsets", "probe_device"]

_DEADLINE_MS = 20_000
_CONFIG = vfio.VFIO_PCI_CONFIG_REGION_INDEX
_INTX, _MSI, _MSIX = 0, 1, 2
_STATUS_CAP_LIST = 0x10
_CAP_PM, _CAP_MSI, _CAP_EXP, _CAP_MSIX = 0x01, 0x05, 0x10, 0x11
_DEVCAP_FLR = 1 << 28
_SET_EVENTFD_TRIGGER, _SET_EVENTFD_UNMASK = 0x24, 0x14
# Registers by the first 32 bits of the configuration space: QEMU's edu (docs/specs/edu.rst).
_EDU = 0x11E81234
# An NVMe controller (class 01 08 02): AQA keeps its value while the controller is not enabled.
# The display of Bochs (QEMU's docs/specs/standard-vga.rst): its registers are words from 0x500 of BAR 2 on.
_BOCHS = 0x11111234
_BOCHS_ON: Mapping[str, Any] = {
    "region": 2, "width": 640, "height": 480, "off": [[0x508, 0]],
    "writes": [[0x502, 640], [0x504, 480], [0x506, 32], [0x50C, 640], [0x510, 0], [0x512, 0], [0x508, 0x41]],
}  # fmt: skip
_PRIMARY_PLANE = 1
_PLANES = (
    vfio.VFIO_GFX_PLANE_TYPE_PROBE | vfio.VFIO_GFX_PLANE_TYPE_REGION,
    vfio.VFIO_GFX_PLANE_TYPE_PROBE | vfio.VFIO_GFX_PLANE_TYPE_DMABUF,
    vfio.VFIO_GFX_PLANE_TYPE_REGION,
)
_NVME_CLASS, _UART_CLASSES = 0x010802, (0x070000, 0x070001, 0x070002)


def probe_device(
    agent: Runner, entry: Mapping[str, Any], name: str, known: Mapping[str, Any]
) -> dict[str, Any]:
    """Capabilities of the device `entry`; `known` are those that earlier probes found, `engine` included."""
    regions = {int(r["index"]): r for r in known.get("regions") or ()}
    irqs = {int(i["index"]): int(i["count"]) for i in known.get("irqs") or ()}
    pci = bool(int(known.get("flags") or 0) & vfio.VFIO_DEVICE_FLAGS_PCI)
    result: dict[str, Any] = {
        "pci_api": pci,
        "vfio_pci": pci and bool(known.get("physical_iommu")),
        "physical_function": pci and bool(known.get("physical_iommu")) and not known.get("virtual_function"),
        "irq_intx": irqs.get(_INTX, 0) if pci else 0,
        "irq_msi": irqs.get(_MSI, 0) if pci else 0,
        "irq_msix": irqs.get(_MSIX, 0) if pci else 0,
        "any_irq": next((index + 1 for index in (_INTX, _MSI, _MSIX) if pci and irqs.get(index)), 0),
        "info_caps": next((n + 1 for n, r in sorted(regions.items()) if r.get("caps_hex")), 0),
        "sparse_mmap": next((n + 1 for n, r in sorted(regions.items()) if _is_sparse(r)), 0),
        "read_only_region": next(
            (n + 1 for n, r in sorted(regions.items()) if r["size"] and r["flags"] & 3 == 1), 0
        ),
    }
    if not pci or _CONFIG not in regions:
        return result
    size = min(int(regions[_CONFIG]["size"]), 4096)
    records = _run(agent, entry, name, [
        ["region_read", {"fd": "d", "region": _CONFIG, "off": 0, "n": size}],
        ["ioctl", {"fd": "d", "nr": vfio.VFIO_DEVICE_IOEVENTFD, "buf": _ioeventfd(regions)}],
        ["eventfd", {"out": "e"}],
        ["set_irqs", {"fd": "d", "index": _INTX, "start": 0, "count": 1, "flags": _SET_EVENTFD_TRIGGER,
                      "fds": ["e"]}],
        ["set_irqs", {"fd": "d", "index": _INTX, "start": 0, "count": 1, "flags": _SET_EVENTFD_UNMASK,
                      "fds": ["e"]}],
        *(["gfx_plane", {"fd": "d", "flags": flags, "plane": _PRIMARY_PLANE}] for flags in _PLANES),
    ])  # fmt: skip
    config, ioeventfd, _, trigger, unmask, *planes = records
    if config["errno"] or int(config["n"]) != size:
        raise LabError(f"{name}: the configuration space cannot be read (errno {config['errno']})")
    data = bytes.fromhex(config["hex"])
    result |= {
        "config": data.hex(),
        "pci_extended": size > 256,
        "ioeventfd": ioeventfd["errno"] == errno.ENODEV,
        "unmask_eventfd": not trigger["errno"] and not unmask["errno"],
    }
    at = capability_offsets(data)
    exp = at.get(_CAP_EXP, 0)
    flr = exp and struct.unpack_from("<I", data, exp + 4)[0] & _DEVCAP_FLR
    result |= {"pci_pm": at.get(_CAP_PM, 0), "pci_msi": at.get(_CAP_MSI, 0), "pci_msix": at.get(_CAP_MSIX, 0),
               "pci_exp": exp, "pci_flr": exp if flr else 0}  # fmt: skip
    result |= _registers(data, regions, result, str(known.get("engine") or ""))
    result |= _display(data, planes) | _edid(agent, entry, name, regions)
    if known.get("dma_buf"):
        result["dma_buf_region"] = next(
            (n + 1 for n, r in sorted(regions.items()) if n < 6 and r["flags"] & 4 and r["size"] >= 4096), 0
        )
    return result


def capability_offsets(config: bytes) -> dict[int, int]:
    """Capability id -> offset of the first capability with it; stops where the list is broken."""
    found: dict[int, int] = {}
    if len(config) < 64 or not config[6] & _STATUS_CAP_LIST:
        return found
    at = config[0x34] & 0xFC
    for _ in range(48):
        if at < 0x40 or at > 0xFC:
            break
        found.setdefault(config[at], at)
        at = config[at + 1] & 0xFC
    return found


def _is_sparse(region: Mapping[str, Any]) -> bool:
    caps = bytes.fromhex(region.get("caps_hex") or "")
    return len(caps) >= 16 and struct.unpack_from("=H", caps)[0] == vfio.VFIO_REGION_INFO_CAP_SPARSE_MMAP


def _ioeventfd(regions: Mapping[int, Mapping[str, Any]]) -> str:
    """A request to remove an ioeventfd that was never set: ENODEV if ioeventfds are supported."""
    offset = next((int(r["offset"]) for n, r in sorted(regions.items()) if n < 6 and r["size"] >= 4), 0)
    return struct.pack("=IIQQiI", 32, vfio.VFIO_DEVICE_IOEVENTFD_32, offset, 0, -1, 0).hex()


def _registers(
    config: bytes, regions: Mapping[int, Mapping[str, Any]], found: Mapping[str, Any], engine: str
) -> dict[str, Any]:
    """Capabilities from known registers; the device is recognised by its ids, class or engine."""
    ids, revision_class = struct.unpack_from("<I", config)[0], struct.unpack_from("<I", config, 8)[0]
    code = revision_class >> 8
    result: dict[str, Any] = {}
    source: dict[str, Any] | None = None
    if engine == "vfiocert_ref":
        result["scratch"] = {"region": 0, "off": 0x10, "inverted": False}
        source = {"region": 0, "raise": [0x80, "00000000"], "ack": [0x88, "01000000"]}
    elif ids == _EDU and found["vfio_pci"] and regions.get(0, {}).get("size", 0) >= 0x100:
        result["scratch"] = {"region": 0, "off": 0x04, "inverted": True}
        source = {"region": 0, "raise": [0x60, "01000000"], "ack": [0x64, "01000000"]}
    elif code == _NVME_CLASS and found["physical_function"]:
        result["scratch"] = {"region": 0, "off": 0x24, "inverted": False, "mask": 0x0FFF0FFF}
    result["uart"] = code in _UART_CLASSES and regions.get(0, {}).get("size") == 8
    if source:
        result["irq_source"] = source
        result["intx_source"] = source if found["irq_intx"] else None
        result["msi_source"] = source if found["irq_msi"] else None
    return result


def _display(config: bytes, planes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Capabilities of a display, from the ids and the answers to `_PLANES`."""
    in_region, in_dmabuf, plane = planes
    result: dict[str, Any] = {"gfx_region": not in_region["errno"], "gfx_dmabuf": not in_dmabuf["errno"]}
    result["gfx"] = result["gfx_region"] or result["gfx_dmabuf"]
    if result["gfx_region"] and not plane["errno"] and plane["drm_format"]:
        result["plane_region"] = result["frame_buffer"] = int(plane["region_index"]) + 1
    elif result["gfx_dmabuf"] and struct.unpack_from("<I", config)[0] == _BOCHS:
        result |= {"plane_on": dict(_BOCHS_ON), "frame_buffer": 1}
    return result


def _edid(
    agent: Runner, entry: Mapping[str, Any], name: str, regions: Mapping[int, Mapping[str, Any]]
) -> dict[str, Any]:
    """Capabilities of the EDID region, if there is one; LabError if it cannot be read."""
    for index, region in sorted(regions.items()):
        caps = bytes.fromhex(region.get("caps_hex") or "")
        if len(caps) < 16 or struct.unpack_from("=H", caps)[0] != vfio.VFIO_REGION_INFO_CAP_TYPE:
            continue
        if struct.unpack_from("=II", caps, 8) != (
            vfio.VFIO_REGION_TYPE_GFX,
            vfio.VFIO_REGION_SUBTYPE_GFX_EDID,
        ):
            continue
        [head] = _run(agent, entry, name, [["region_read", {"fd": "d", "region": index, "off": 0, "n": 8}]])
        if head["errno"] or int(head["n"]) != 8:
            raise LabError(f"{name}: the EDID's region cannot be read (errno {head['errno']})")
        offset, most = struct.unpack("<II", bytes.fromhex(head["hex"]))
        return {"gfx_edid": index + 1, "edid_offset": offset, "edid_max_size": most}
    return {}


def _run(agent: Runner, entry: Mapping[str, Any], name: str, ops: Sequence[list[Any]]) -> list[Any]:
    opening: list[list[Any]] = [
        ["open_iommufd", {"out": "i"}],
        ["open_cdev", {"dev": "dev0", "out": "d"}],
        ["bind", {"fd": "d", "iommufd": "i"}],
        ["device_info", {"fd": "d"}],
    ]
    result = agent.run(
        {
            "devices": {"dev0": dict(entry)}, "session": "probe-device", "keep": [],
            "deadline_ms": _DEADLINE_MS, "threads": [{"name": "main", "ops": [*opening, *ops]}],
        }
    )  # fmt: skip
    if result.hung or len(result.trace) != len(opening) + len(ops):
        raise LabError(f"{name}: reading the configuration space did not return within 20 s")
    return sorted(result.trace, key=lambda record: record["i"])[len(opening) :]
