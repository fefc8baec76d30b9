# SPDX-License-Identifier: Apache-2.0
"""IBM Internal Shared Memory devices of s390 (drivers/vfio/pci/ism).

No migration.  The BARs cannot be mapped: the driver reads and writes them with instructions of its own; the
offset of a region has its index from bit 48 on, where vfio-pci has it from bit 40.
"""

from __future__ import annotations

from harness.profiles import Profile

__all__ = ["PROFILE"]

PROFILE = Profile(
    module="ism_vfio_pci",
    driver="ism_vfio_pci",
    description="IBM Internal Shared Memory device (s390)",
    does_dma=True,
    pci_ids=((0x1014, 0x04ED),),
    source="drivers/vfio/pci/ism",
)
