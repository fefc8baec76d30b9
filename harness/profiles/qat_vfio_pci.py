# SPDX-License-Identifier: Apache-2.0
"""Intel QuickAssist virtual functions (drivers/vfio/pci/qat).

The PF driver (intel_qat) saves and checks the state: PRE_COPY carries a preamble that lets an incompatible
destination refuse early.
"""

from __future__ import annotations

from harness.profiles import Profile

__all__ = ["PROFILE"]

PROFILE = Profile(
    module="qat_vfio_pci",
    driver="qat_vfio_pci",
    description="Intel QuickAssist virtual function",
    does_dma=True,
    pci_ids=((0x8086, 0x4941), (0x8086, 0x4943), (0x8086, 0x4945), (0x8086, 0x4947), (0x8086, 0x4949)),
    needs_pf=True,
    source="drivers/vfio/pci/qat",
)
