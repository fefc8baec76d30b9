# SPDX-License-Identifier: Apache-2.0
"""ConnectX virtual functions (drivers/vfio/pci/mlx5).

State is kept in firmware and is migrated in the firmware's own format.  No region shows it, so fidelity is
judged by the behaviour of the re-saved stream and by traffic.  The VF migrates only if migration is enabled
for it on its PF (mlx5_core): `devlink port function set ... migratable enable`.
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
