# SPDX-License-Identifier: Apache-2.0
"""ConnectX virtual functions (drivers/vfio/pci/mlx5).

State lives in firmware and travels in its own format: no region shows it, so fidelity is judged by the
re-saved stream's behaviour and by traffic.  The VF migrates only when its PF (mlx5_core) has enabled
migration for it (`devlink port function set ... migratable enable`).
"""

from __future__ import annotations

from harness.profiles import Profile

__all__ = ["PROFILE"]

PROFILE = Profile(
    module="mlx5_vfio_pci",
    driver="mlx5_vfio_pci",
    description="NVIDIA ConnectX virtual function",
    does_dma=True,
    pci_ids=((0x15B3, 0x101E),),
    needs_pf=True,
    source="drivers/vfio/pci/mlx5",
)
