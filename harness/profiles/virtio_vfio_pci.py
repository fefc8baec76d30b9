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
    pf_modules=("virtio_pci", "virtio"),
    expects={"migration": "6.13", "p2p": "6.13", "pre_copy": "6.13", "data_size": "6.13"},
    appears="bind the PF to virtio-pci; its admin queue must offer device parts (VIRTIO_F_ADMIN_VQ)",
    source="drivers/vfio/pci/virtio",
)
