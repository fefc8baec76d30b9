# SPDX-License-Identifier: Apache-2.0
"""Chapter ACC, virtual functions: who may make them, and the token that a VF and its PF's user share.

The rules are in a comment in vfio_pci_core.c: only a user who knows the token may use a VF whose PF is a VFIO
device; the same holds for the PF while its VFs are in use.
"""

from __future__ import annotations

from harness.spec.clause import Clause, Level

__all__ = ["CLAUSES"]

_TOKEN = "drivers/vfio/pci/vfio_pci_core.c, vfio_pci_core_match_token_uuid(), comment"
_BIND = "vfio.h, struct vfio_device_bind_iommufd, @token_uuid_ptr"
_FEATURE = "vfio.h, VFIO_DEVICE_FEATURE_PCI_VF_TOKEN"
_SRIOV = "drivers/vfio/pci/vfio_pci.c, enable_sriov"


def _c(
    id: str, statement: str, source: str, *needs: str, level: Level = "MUST", since: str = "v5.7"
) -> Clause:
    return Clause(id, level, statement, source, needs, since)


_CDEV = ("vf_token_pair", "bind_token")
# fmt: off
CLAUSES: tuple[Clause, ...] = (
    _c("ACC-140", "without a token a VF of a VFIO PF cannot be bound", _BIND, *_CDEV, since="v6.17"),
    _c("ACC-141", "with a wrong token a VF of a VFIO PF cannot be bound", _BIND, *_CDEV, since="v6.17"),
    _c("ACC-142", "with the token that the PF's user set, the VF can be bound and is accessible", _BIND, *_CDEV,
       since="v6.17"),
    _c("ACC-143", "while a VF is in use its PF cannot be bound without the token, nor with a wrong one", _TOKEN,
       *_CDEV, since="v6.17"),
    _c("ACC-144", "while a VF is in use its PF can be bound with the token", _TOKEN, *_CDEV, since="v6.17"),
    _c("ACC-145", "while no VF is in use, a token given with the PF becomes the token", _TOKEN, *_CDEV,
       since="v6.17"),
    _c("ACC-146", "the token of a PF can be set as a feature, and cannot be read", _FEATURE, "vf_token_pair"),
    _c("ACC-147", "a VF has no token of its own: the feature is refused", _FEATURE, *_CDEV),
    _c("ACC-148", "a token for a device that needs none is refused", _TOKEN, "pci", "no_vf_token", level="SHOULD"),
    _c("ACC-149", "a token set anew as a feature holds for the next who asks: the old one opens nothing", _FEATURE,
       *_CDEV),
    _c("ACC-150", "a group gives a VF of a VFIO PF only with 'vf_token=' and the token behind its name", _TOKEN,
       "vf_token_pair", "group_pair"),
    _c("ACC-151", "a vf_token that is no UUID, or what is no option, is refused behind a device's name",
       "drivers/vfio/pci/vfio_pci_core.c, vfio_pci_core_match()", "vf_token_pair", "group_pair"),
    _c("ACC-152", "VFs made while vfio-pci has the PF have its name as driver_override",
       "drivers/vfio/pci/vfio_pci_core.c, vfio_pci_bus_notifier()", "vf_token_pair"),
    _c("ACC-153", "without enable_sriov, vfio-pci makes no VFs", _SRIOV, "vf_token_pair"),
    _c("ACC-154", "when the number of VFs is set to zero they are gone, and can be made again",
       "Documentation/ABI/testing/sysfs-bus-pci, sriov_numvfs", "vf_token_pair"),
)
# fmt: on
