# SPDX-License-Identifier: Apache-2.0
"""ConnectX virtual functions (drivers/vfio/pci/mlx5).

State is kept in firmware and is migrated in the firmware's own format.  No region shows it and there is no
traffic engine for this driver, so fidelity of the state is not exercised.  The VF migrates only if migration
is enabled for it on its PF (mlx5_core).  PRE_COPY and the log of DMA depend on the firmware
(mlx5vf_cmd_set_migratable(), cmd.c): PROBE tells, and nothing is expected.
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
    pf_modules=("mlx5_core",),
    expects={"migration": "5.18", "p2p": "5.18", "data_size": "6.2"},
    appears=(
        "bind the PF to mlx5_core, unbind the VF, run 'devlink port function set PORT migratable enable' on "
        "its port, and bind it again; the firmware must support migration"
    ),
    source="drivers/vfio/pci/mlx5",
)
