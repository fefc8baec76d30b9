# SPDX-License-Identifier: Apache-2.0
"""AMD Pensando Ethernet virtual functions (drivers/vfio/pci/pds).

Firmware holds the state, and the PF's driver (pds_core) must be bound.  A failed command leaves the device in
the state it was in; only a recovery of the firmware puts it into ERROR (pci_drv.c, pds_vfio_recovery()).
The state is at most 64 KiB, and the driver gives firmware no word of how much of it was written.
"""

from __future__ import annotations

from harness.profiles import Profile

__all__ = ["PROFILE"]

PROFILE = Profile(
    module="pds_vfio_pci",
    driver="pds_vfio_pci",
    description="AMD Pensando DSC virtual function",
    does_dma=True,
    pci_ids=((0x1DD8, 0x1003),),
    needs_pf=True,
    pf_modules=("pds_core",),
    expects={"migration": "6.6", "p2p": "6.6", "data_size": "6.6", "dma_logging": "6.6"},
    appears="bind the PF to pds_core before the VF is bound; its firmware must support live migration",
    source="drivers/vfio/pci/pds",
)
