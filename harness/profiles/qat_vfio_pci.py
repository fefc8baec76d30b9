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
    pf_modules=("intel_qat", "qat_4xxx", "qat_420xx", "qat_6xxx"),
    expects={"migration": "6.10", "p2p": "6.10", "pre_copy": "6.10", "data_size": "6.10"},
    appears="bind the PF to its QAT driver (qat_4xxx or later) before the VF is bound",
    source="drivers/vfio/pci/qat",
)
