# SPDX-License-Identifier: Apache-2.0
"""HiSilicon accelerator virtual functions: SEC, HPRE, ZIP (drivers/vfio/pci/hisilicon).

No P2P: the states RUNNING_P2P and PRE_COPY_P2P must be refused.  Where the migration interface is in the
VF's BAR2 (older hardware), user space sees only the first half of that BAR.
"""

from __future__ import annotations

from harness.profiles import Profile

__all__ = ["PROFILE"]

PROFILE = Profile(
    module="hisi_acc_vfio_pci",
    driver="hisi_acc_vfio_pci",
    description="HiSilicon accelerator virtual function",
    does_dma=True,
    pci_ids=((0x19E5, 0xA251), (0x19E5, 0xA256), (0x19E5, 0xA259)),
    needs_pf=True,
    pf_modules=("hisi_qm", "hisi_sec2", "hisi_hpre", "hisi_zip"),
    expects={"migration": "5.18", "pre_copy": "6.2", "data_size": "6.2"},
    appears="bind the PF to hisi_sec2, hisi_hpre or hisi_zip (QM version 3 or later) before the VF is bound",
    source="drivers/vfio/pci/hisilicon",
)
