# SPDX-License-Identifier: Apache-2.0
"""Virtio virtual functions whose PF has the admin queue (drivers/vfio/pci/virtio).

With device-parts support it migrates; with legacy support it emulates an I/O BAR0 through the PF; a device
with neither is plain vfio-pci.
"""

from __future__ import annotations

from harness.profiles import Profile

__all__ = ["PROFILE"]

PROFILE = Profile(
    module="virtio_vfio_pci",
    driver="virtio_vfio_pci",
    description="virtio virtual function",
    does_dma=True,
    pci_ids=((0x1AF4, 0x1041), (0x1AF4, 0x1042)),
    needs_pf=True,
    source="drivers/vfio/pci/virtio",
)
