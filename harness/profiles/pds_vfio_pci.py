# SPDX-License-Identifier: Apache-2.0
"""AMD Pensando Ethernet virtual functions (drivers/vfio/pci/pds).

Firmware holds the state, and the PF's driver (pds_core) must be bound.  A failed command leaves the device in
the state it was in; only a recovery of the firmware puts it into ERROR (pci_drv.c, pds_vfio_recovery()).
The state is at most 64 KiB, and the driver gives firmware no word of how much of it was written.
"""

from __future__ import annotations

from harness.profiles import Profile

__all__ = ["PROFILE"]

_PART = (
    "pds_vfio_dirty_sync() rounds the place in the bitmap up to bytes and compares only the length with the "
    "bitmap: a report that does not begin at a multiple of 64 pages reads other bits than it was asked "
    "for, or is refused by the device"
)
_WORDS = (
    "pds_vfio_dirty_process_bitmaps() takes whole words of 64 pages: what lies behind the range in the last "
    "one is set and acknowledged, too"
)
_OVERLAP = (
    "pds_vfio_dirty_alloc_regions() takes the number of pages that the device has rounded up for the "
    "region's, and pds_vfio_get_region() the first region that has an address: ranges closer than that get "
    "into each other's way"
)
_STOPPED = (
    "pds_vfio_step_device_state_locked() calls pds_vfio_dirty_disable() on the way from STOP_COPY to STOP"
)

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
    explanations={
        "DIRTY-010": (
            "pds_vfio_dirty_enable() passes the hinted page size on, and gives it back, as it came; what the "
            "device does not support is refused, where the driver could choose"
        ),
        "DIRTY-030": f"{_PART}; {_OVERLAP}",
        "DIRTY-031": f"{_PART}; {_OVERLAP}",
        "DIRTY-032": f"{_PART}; {_WORDS}",
        "DIRTY-034": _WORDS,
        "DIRTY-043": _OVERLAP,
        "DIRTY-045": _STOPPED,
        "DIRTY-048": _STOPPED,
        "DIRTY-060": _OVERLAP,
        "DIRTY-061": f"{_PART}; {_OVERLAP}",
    },
    source="drivers/vfio/pci/pds",
)
