# SPDX-License-Identifier: Apache-2.0
"""Intel graphics virtual functions (drivers/vfio/pci/xe).

The PF driver (xe) saves and restores the state.  The PCI driver is called with dashes: its name is not the
module's.
"""

from __future__ import annotations

from harness.profiles import Profile

__all__ = ["PROFILE"]

# include/drm/intel/pciids.h, INTEL_PTL_IDS, INTEL_WCL_IDS and INTEL_BMG_IDS: what the driver's table names
_PTL = (*range(0xB080, 0xB088), 0xB08F, 0xB090, 0xB0A0, 0xB0B0)
_WCL = (0xFD80, 0xFD81)
_BMG = (0xE202, 0xE209, *range(0xE20B, 0xE20E), *range(0xE210, 0xE213), 0xE216, *range(0xE220, 0xE224))

_STOPPED = (
    "xe_vfio_pci_set_device_state() calls xe_sriov_vfio_error() where a SET is refused for its argument: "
    "the PF stops the VF for good, and GET goes on to say what it said"
)

PROFILE = Profile(
    module="xe_vfio_pci",
    driver="xe-vfio-pci",
    description="Intel graphics virtual function",
    does_dma=True,
    pci_ids=tuple((0x8086, device) for device in (*_PTL, *_WCL, *_BMG)),
    needs_pf=True,
    pf_modules=("xe",),
    expects={"migration": "6.19", "p2p": "6.19", "data_size": "6.19"},
    appears="bind the PF to xe in SR-IOV PF mode; its GuC firmware must support migration of VFs",
    explanations={
        "MIG-044": _STOPPED,
        "MIG-045": _STOPPED,
        "MIG-102": "the packets of both GTs come in the order in which the PF's worker has them ready",
        "MIG-107": (
            "xe_sriov_pf_migration_write() answers with the error of the bytes behind the trailer although "
            "the stream before it was taken and loaded"
        ),
        "MIG-166": "pkt_init() hands any 64-bit size that a user wrote to kvzalloc(), which warns",
    },
    source="drivers/vfio/pci/xe",
)
