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
    explanations={
        "MIG-078": "qat_vf_save_read() returns 0 where all of the setup was read, in PRE_COPY, too",
        "MIG-105": (
            "RESUMING -> STOP calls qat_vfmig_load_state(), which gets no length: nobody looks at "
            "filled_size, and what was not written is what an earlier session left in the buffer"
        ),
        "MIG-106": (
            "RESUMING -> STOP loads the buffer as it is: what an earlier session of this binding left there"
        ),
        "MIG-107": (
            "a write() that fails leaves the buffer as it was or as it came; RESUMING -> STOP loads it, and "
            "adf_gen4_vfmig_load_setup() takes a setup for checked that it has just refused"
        ),
    },
    source="drivers/vfio/pci/qat",
)
