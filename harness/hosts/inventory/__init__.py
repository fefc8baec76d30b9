# SPDX-License-Identifier: Apache-2.0
"""Which labs, hosts and devices there are: `labs.yaml`, and the built-in lab `embedded`.

    inventory = load_inventory()
    target = select(inventory, "rack7", ["nic0"])[0]      # Target(lab, device, host)

The host of the built-in lab exists only while its machine runs, so `select` gives its targets with
`host=None` and the embedded lab fills it in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.errors import UsageError
from harness.hosts.inventory.load import (
    DEFAULT_FILE,
    EMBEDDED,
    embedded_devices,
    load_inventory,
    parse_inventory,
)
from harness.hosts.inventory.models import (
    DeviceSpec,
    HostSpec,
    Inventory,
    JumpSpec,
    LabSpec,
    MdevSpec,
    VfSpec,
)
from harness.hosts.inventory.variants import Variant, VariantSpec, embedded_variants

__all__ = [
    "DEFAULT_FILE",
    "EMBEDDED",
    "DeviceSpec",
    "HostSpec",
    "Inventory",
    "JumpSpec",
    "LabSpec",
    "MdevSpec",
    "Target",
    "Variant",
    "VariantSpec",
    "VfSpec",
    "embedded_devices",
    "embedded_variants",
    "jumps",
    "load_inventory",
    "parse_inventory",
    "schema",
    "select",
]


@dataclass(frozen=True)
class Target:
    """One device to certify and the way to it; `jumps` are the SSH servers to pass, the nearest first."""

    lab: str
    device: DeviceSpec
    host: HostSpec | None
    jumps: tuple[JumpSpec, ...] = ()


def select(inventory: Inventory, lab: str = EMBEDDED, devices: Sequence[str] = ()) -> tuple[Target, ...]:
    """The targets called `devices` in `lab`, in that order; none named: all of them.

    UsageError with the valid names where one does not exist.
    """
    if lab == EMBEDDED:
        known = (*embedded_devices(), *_variants(devices))
        wanted = list(devices) or [device.id for device in known]
    else:
        if lab not in inventory.labs:
            names = ", ".join([EMBEDDED, *inventory.labs])
            raise UsageError(f"lab='{lab}' is not a lab: {names}")
        known = inventory.labs[lab].devices
        wanted = list(devices) or [device.id for device in known]
        if not wanted:
            raise UsageError(f"lab '{lab}' has no devices; add one under labs.{lab}.devices in labs.yaml")
    by_id = {device.id: device for device in known}
    unknown = [name for name in wanted if name not in by_id]
    if unknown:
        raise UsageError(f"device='{unknown[0]}' is not a device of lab '{lab}': {', '.join(by_id)}")
    return tuple(_target(inventory, lab, by_id[name]) for name in dict.fromkeys(wanted))


def _variants(devices: Sequence[str]) -> tuple[DeviceSpec, ...]:
    """The variants among the names: nothing but its name selects one."""
    if not devices:
        return ()
    return tuple(v.device() for name, v in embedded_variants().items() if name in devices)


def _target(inventory: Inventory, lab: str, device: DeviceSpec) -> Target:
    if lab == EMBEDDED:
        return Target(lab, device, None)
    spec = inventory.labs[lab]
    return Target(lab, device, spec.hosts[device.host], jumps(spec, spec.hosts[device.host]))


def jumps(lab: LabSpec, host: HostSpec) -> tuple[JumpSpec, ...]:
    """The SSH servers to pass on the way to `host`, the nearest to the controller first."""
    way: list[JumpSpec] = []
    at: HostSpec | JumpSpec = host
    while isinstance(at, HostSpec) and at.jump is not None:
        at = lab.hosts[at.jump] if isinstance(at.jump, str) else at.jump
        way.insert(0, at)
    return tuple(way)


def schema() -> dict[str, object]:
    """The JSON schema of labs.yaml; `python -m harness.hosts.inventory` writes docs/labs.schema.json."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "labs.yaml of vfiocert",
        **{key: value for key, value in Inventory.model_json_schema().items() if key != "title"},
    }
