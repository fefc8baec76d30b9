# SPDX-License-Identifier: Apache-2.0
"""Chapter SEL: how the VFIO driver of a PCI device is chosen and bound.

The kernel's part is `driver_override`, and id tables that only match with it; user space's part is the choice
by modules.alias, which `harness/hosts/driver_choice.py` implements.
"""

from __future__ import annotations

from harness.spec.clause import Clause, Level

__all__ = ["CLAUSES"]

_OVERRIDE = "Documentation/ABI/testing/sysfs-bus-pci, driver_override"
_ALIAS = "scripts/mod/file2alias.c, do_pci_entry()"
_ONLY = "drivers/pci/pci-driver.c, pci_match_device(); include/linux/mod_devicetable.h, override_only"
_CHOICE = (
    "commit cc6711b0bf36 (\"PCI / VFIO: Add 'override_only' support for VFIO PCI sub system\"); "
    'libvirt commit 82e2fac29710 ("qemu: automatically bind to a vfio variant driver, if available")'
)


def _c(id: str, level: Level, statement: str, source: str, *needs: str) -> Clause:
    return Clause(id, level, statement, source, ("pci", *needs), "v5.16")


CLAUSES: tuple[Clause, ...] = (
    # -- what modules.alias says of the device
    _c(
        "SEL-001",
        "MUST",
        "the device's modalias names the ids and the class that its sysfs files give",
        "drivers/pci/pci-sysfs.c, modalias_show()",
    ),
    _c("SEL-002", "MUST", "some vfio_pci: alias of the running kernel matches the device", _ALIAS),
    _c("SEL-003", "SHOULD", "the matching vfio_pci: aliases are written as the build writes them", _ALIAS),
    _c("SEL-004", "SHOULD", "one module alone matches the device with the fewest wildcards", _CHOICE),
    _c(
        "SEL-005",
        "SHOULD",
        "the fewest wildcards lead to the driver that the device's profile is written for",
        _CHOICE,
        "variant_profile",
    ),
    # -- what the kernel then binds
    _c("SEL-010", "MUST", "the module that the aliases choose registers a PCI driver when loaded", _CHOICE),
    _c("SEL-011", "MUST", "with driver_override naming that driver, a probe binds it", _OVERRIDE),
    _c("SEL-012", "MUST", "a device bound to the chosen driver has a VFIO node", _CHOICE),
    _c("SEL-013", "MUST", "writing driver_override leaves the bound driver bound", _OVERRIDE),
    _c(
        "SEL-014",
        "MUST",
        "after unbind the device has no driver and no VFIO node",
        "drivers/vfio/pci/vfio_pci_core.c, vfio_pci_core_unregister_device()",
    ),
    _c(
        "SEL-015",
        "MUST",
        "a driver_override that names no driver keeps the device unbound, and reads back as written",
        _OVERRIDE,
    ),
    _c("SEL-016", "MUST", "an empty driver_override clears it", _OVERRIDE),
    _c(
        "SEL-017",
        "MUST",
        "without driver_override a probe binds no VFIO driver by an id that is for override only",
        _ONLY,
    ),
    _c(
        "SEL-018",
        "MUST",
        "vfio-pci takes the device when driver_override names it, whatever variant driver there is",
        "drivers/vfio/pci/vfio_pci.c, vfio_pci_table[]",
    ),
    _c(
        "SEL-019",
        "MUST",
        "after any sequence of overrides, unbinds and probes the bound driver is what they say",
        _OVERRIDE,
    ),
    _c(
        "SEL-020",
        "MUST",
        "binding and unbinding a virtual function leaves the driver of its physical function",
        "Documentation/PCI/pci-iov-howto.rst",
        "virtual_function",
    ),
)
