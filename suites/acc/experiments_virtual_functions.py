# SPDX-License-Identifier: Apache-2.0
"""VF tokens, and virtual functions created by a PF that is itself a VFIO device."""

from __future__ import annotations

from typing import Any

from fixtures.experiment import experiment
from fixtures.rig import Rig
from harness.errors import LabError

_PROVISION_S = 60.0


@experiment("ACC-152", "ACC-153", "ACC-154", needs=("vf_token_pair",))
def a_vfio_pf_makes_virtual_functions(rig: Rig) -> None:
    """Steps: create a VF with vfio-pci, remove it, create it again; then without enable_sriov: refused."""
    connection: Any = rig.connection
    agent, vf = connection.agent, dict(connection.ready.wire)
    pf = {"pci": str(rig.capabilities["names"]["dev1"])}
    try:
        override = agent.call("describe_device", device=vf)["driver_override"]
        rig.observe("ACC-152", override == "vfio-pci", "driver_override vfio-pci", str(override))
        agent.call("sriov", deadline_s=_PROVISION_S, device=pf, numvfs=0)
        gone = not agent.call("describe_device", device=vf)["exists"]
        rig.observe("ACC-154", gone, "no VF", "it is still there")
        made = agent.call("sriov", deadline_s=_PROVISION_S, device=pf, numvfs=1)["vfs"]
        rig.observe("ACC-154", made == [vf["pci"]], vf["pci"], ", ".join(made) or "none")
        agent.call("sriov", deadline_s=_PROVISION_S, device=pf, numvfs=0)
        agent.call("set_parameter", module="vfio_pci", name="enable_sriov", value="N")
        rig.observe("ACC-153", _refused(agent, pf), "an error", "the VF was made")
        rig.read_log()
    finally:
        rig.drop()


def _refused(agent: Any, pf: dict[str, str]) -> bool:
    """Whether the PF's driver creates no VF; LabError if something else went wrong."""
    try:
        agent.call("sriov", deadline_s=_PROVISION_S, device=pf, numvfs=1)
    except LabError:
        if not agent.call("describe_device", device=pf)["exists"]:
            raise
        return not agent.call("describe_device", device=pf)["sriov_numvfs"]
    return False
