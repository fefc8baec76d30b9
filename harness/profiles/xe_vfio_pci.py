# SPDX-License-Identifier: Apache-2.0
"""Intel graphics virtual functions (drivers/vfio/pci/xe).

The PF driver (xe) saves and restores the state.  The PCI driver is called with dashes: its name is not the
module's.
"""

from __future__ import annotations

from harness.profiles import Profile

__all__ = ["PROFILE"]

PROFILE = Profile(
    module="xe_vfio_pci",
    driver="xe-vfio-pci",
    description="Intel graphics virtual function",
    does_dma=True,
    pci_ids=((0x8086, 0xB080), (0x8086, 0xFD80), (0x8086, 0xE202)),
    needs_pf=True,
    pf_modules=("xe",),
    expects={"migration": "6.19", "p2p": "6.19", "data_size": "6.19"},
    appears="bind the PF to xe in SR-IOV PF mode; its GuC firmware must support migration of VFs",
    source="drivers/vfio/pci/xe",
)
