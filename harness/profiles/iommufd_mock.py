# SPDX-License-Identifier: Apache-2.0
"""iommufd's own mock: no VFIO device, but page tables, devices and faults made of software.

It exists in kernels with CONFIG_IOMMUFD_TEST, and stands in where no hardware has dirty tracking, nesting,
PASID or a vIOMMU.  What it shows is how iommufd's core behaves, not how any IOMMU does.
"""

from __future__ import annotations

from harness.profiles import Profile

__all__ = ["PROFILE"]

PROFILE = Profile(
    module="iommufd_mock",
    driver="",
    description="iommufd's own mock stands in for the hardware (CONFIG_IOMMUFD_TEST)",
    source="drivers/iommu/iommufd/selftest.c",
    does_dma=False,
)
