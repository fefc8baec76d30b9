# SPDX-License-Identifier: Apache-2.0
"""Virtio virtual functions whose PF has the admin queue (drivers/vfio/pci/virtio).

With device-parts support it migrates; with legacy support it emulates an I/O BAR0 through the PF; a device
with neither is plain vfio-pci.  Dirty tracking is the IOMMU's.

Up to 7.2 leaving RESUMING succeeds whatever was written, and a write() to the data fd of an ended RESUMING
session is a NULL dereference in the kernel (docs/mainline.md): its clauses take the task, or the host, down.
"""

from __future__ import annotations

from harness.profiles import Profile

__all__ = ["PROFILE"]

_ALWAYS_LEFT = (
    "migrate.c: virtiovf_pci_step_device_state_locked() leaves RESUMING without a look at what was written, "
    "or refused"
)
_NULL_BUFFER = (
    "migrate.c: virtiovf_resume_write() reads migf->buf, which is NULL when the session has ended, before it "
    "looks at migf->state"
)

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
    explanations={
        **dict.fromkeys(("MIG-105", "MIG-106", "MIG-107", "MIG-109", "MIG-110"), _ALWAYS_LEFT),
        **dict.fromkeys(("MIG-063", "MIG-065", "MIG-164", "MIG-166", "MIG-167"), _NULL_BUFFER),
    },
)
