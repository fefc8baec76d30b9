# SPDX-License-Identifier: Apache-2.0
"""NVIDIA Grace Hopper and Blackwell GPUs (drivers/vfio/pci/nvgrace-gpu).

No migration.  BAR2 and BAR4 are emulated on the coherent device memory that firmware describes, so their
sizes differ from those of the hardware's BARs.
"""

from __future__ import annotations

from harness.profiles import Profile

__all__ = ["PROFILE"]

PROFILE = Profile(
    module="nvgrace_gpu_vfio_pci",
    driver="nvgrace_gpu_vfio_pci",
    description="NVIDIA Grace GPU with device memory as BARs",
    does_dma=True,
    pci_ids=((0x10DE, 0x2342), (0x10DE, 0x2345), (0x10DE, 0x2348), (0x10DE, 0x2941), (0x10DE, 0x31C2)),
    source="drivers/vfio/pci/nvgrace-gpu",
)
