# SPDX-License-Identifier: Apache-2.0
"""Probe whether BIND takes a VF token, on a VF whose PF is a VFIO device too.

Capability: `bind_token`, BIND with VFIO_DEVICE_BIND_FLAG_TOKEN works.  Older kernels check tokens only when a
group gives the device.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.errors import LabError
from harness.probes.runner import Runner
from harness.uapi import vfio

__all__ = ["TOKEN", "probe_token"]

TOKEN = "2f9e5a1c4b7d48e6a3c0d1e2f3a4b5c6"
_SET_TOKEN = vfio.VFIO_DEVICE_FEATURE_SET | vfio.VFIO_DEVICE_FEATURE_PCI_VF_TOKEN
_DEADLINE_MS = 20_000


def probe_token(agent: Runner, devices: Mapping[str, Any], name: str) -> dict[str, bool]:
    """Capabilities of the VF `dev0` and its PF `dev1`; LabError if the PF cannot be used at all."""
    ops = [
        ["open_iommufd", {"out": "i"}],
        ["open_cdev", {"dev": "dev1", "out": "p"}],
        ["bind", {"fd": "p", "iommufd": "i"}],
        ["feature", {"fd": "p", "flags": _SET_TOKEN, "payload": TOKEN}],
        ["open_cdev", {"dev": "dev0", "out": "d"}],
        ["bind", {"fd": "d", "iommufd": "i", "token": TOKEN}],
    ]
    result = agent.run(
        {"devices": dict(devices), "session": "probe-token", "keep": [], "deadline_ms": _DEADLINE_MS,
         "threads": [{"name": "main", "ops": ops}]}
    )  # fmt: skip
    records = sorted(result.trace, key=lambda record: record["i"])
    if result.hung or len(records) != len(ops):
        what = (result.hung or {}).get("op", "the program")
        raise LabError(f"{name}: {what} of a VF and its PF did not return within {_DEADLINE_MS // 1000} s")
    failed = next((r for r in records[:4] if r["errno"] or r.get("skipped")), None)
    if failed is not None:
        raise LabError(f"{name}: {failed['op']} of the PF failed with errno {failed['errno']}: no verdict")
    return {"bind_token": not records[-1]["errno"]}
