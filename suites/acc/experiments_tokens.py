# SPDX-License-Identifier: Apache-2.0
"""Experiments on VF tokens: `dev0` is a VF, `dev1` its PF, and both are bound to VFIO."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

from fixtures.experiment import experiment
from fixtures.subject import Subject
from harness.program.script import FEATURE_GET, FEATURE_SET, Script, succeeded
from harness.uapi import vfio

When = list[tuple[int, str, str, object]]

_FEATURE = vfio.VFIO_DEVICE_FEATURE_PCI_VF_TOKEN
_TYPE1 = vfio.VFIO_TYPE1_IOMMU


class _Pair(Script):
    """A program with an iommufd that opens VF and PF when told; tokens are drawn from the seed."""

    def __init__(self, subject: Subject) -> None:
        super().__init__(fresh=False)
        self.tokens = [bytes(subject.rng.randrange(256) for _ in range(16)).hex() for _ in range(3)]
        self.op("open_iommufd", out="i")

    def bound(self, dev: str, token: str | None = None) -> tuple[int, str]:
        """Open the cdev of `dev` and try to bind it; returns the index of BIND and the slot."""
        slot = self.slot(dev)
        self.op("open_cdev", dev=dev, out=slot)
        return self.op("bind", fd=slot, iommufd="i", token=token), slot

    def set_token(self, pf: str, token: str) -> int:
        """Set the PF's token with VFIO_DEVICE_FEATURE."""
        return self.op("feature", fd=pf, flags=FEATURE_SET | _FEATURE, payload=token)

    def refused(self, clause: str, index: int, words: str, when: When) -> None:
        """Claim that an attempt failed."""
        self.is_refused(clause, index, expected=words).when(*when)

    def works(self, clause: str, index: int, slot: str, words: str, when: When) -> None:
        """Claim that a BIND succeeded and that the device then answers."""
        self.succeeds(clause, index, words).when(*when)
        info = self.op("device_info", fd=slot)
        self.succeeds(clause, info, "the device answers").when(*when, succeeded(index))


@experiment("ACC-140", "ACC-141", "ACC-142", "ACC-146", "ACC-147", "ACC-149", own_open=True)
def a_vf_opens_for_the_token_of_its_pf(subject: Subject) -> Iterator[Script]:
    script = _Pair(subject)
    one, other, _ = script.tokens
    pf, owner = script.bound("dev1")
    there: When = [(pf, "errno", "==", 0)]
    asked = script.op("feature", fd=owner, flags=FEATURE_GET | _FEATURE, payload="00" * 16)
    script.refused("ACC-146", asked, "the token cannot be read", there)
    was_set = script.set_token(owner, one)
    script.succeeds("ACC-146", was_set, "the token is set").when(*there)
    if not subject.has("bind_token"):  # older kernels ask for tokens only where a group gives the device
        yield script
        return
    known: When = [*there, (was_set, "errno", "==", 0)]
    script.refused("ACC-140", script.bound("dev0")[0], "BIND without a token is refused", known)
    script.refused("ACC-141", script.bound("dev0", other)[0], "BIND with another token is refused", known)
    right, vf = script.bound("dev0", one)
    script.works("ACC-142", right, vf, "BIND with the token succeeds", known)
    held: When = [*known, (right, "errno", "==", 0)]
    own = script.op("feature", fd=vf, flags=FEATURE_SET | _FEATURE, payload=one)
    script.refused("ACC-147", own, "the VF has no such feature", held)
    script.op("close", fd=vf)
    again = script.set_token(owner, other)
    changed: When = [*known, (again, "errno", "==", 0)]
    script.refused("ACC-149", script.bound("dev0", one)[0], "the old token is refused", changed)
    now, vf = script.bound("dev0", other)
    script.works("ACC-149", now, vf, "the new token opens it", changed)
    yield script


@experiment("ACC-143", "ACC-144", own_open=True)
def a_pf_with_vfs_in_use_opens_for_the_token(subject: Subject) -> Iterator[Script]:
    if not subject.has("bind_token"):
        return
    script = _Pair(subject)
    one, other, _ = script.tokens
    pf, owner = script.bound("dev1")
    was_set = script.set_token(owner, one)
    taken, vf = script.bound("dev0", one)
    script.op("close", fd=owner)
    used: When = [(index, "errno", "==", 0) for index in (pf, was_set, taken)]
    script.refused("ACC-143", script.bound("dev1")[0], "BIND of the PF without the token is refused", used)
    script.refused("ACC-143", script.bound("dev1", other)[0], "BIND of the PF with another is refused", used)
    back, owner = script.bound("dev1", one)
    script.works("ACC-144", back, owner, "BIND of the PF with the token succeeds", used)
    script.op("close", fd=owner)
    script.op("close", fd=vf)
    free, owner = script.bound("dev1")
    script.works("ACC-144", free, owner, "BIND of the PF, its VF free again, needs no token", used)
    yield script


@experiment("ACC-145", own_open=True)
def a_token_given_with_an_idle_pf_becomes_the_token(subject: Subject) -> Iterator[Script]:
    if not subject.has("bind_token"):
        return
    script = _Pair(subject)
    one, other, third = script.tokens
    pf, owner = script.bound("dev1")
    script.set_token(owner, one)
    script.op("close", fd=owner)
    given, owner = script.bound("dev1", other)
    there: When = [(pf, "errno", "==", 0)]
    script.works("ACC-145", given, owner, "BIND of the idle PF with a token succeeds", there)
    taken: When = [*there, (given, "errno", "==", 0)]
    for wrong in (one, third):
        script.refused("ACC-145", script.bound("dev0", wrong)[0], "another token is refused", taken)
    right, vf = script.bound("dev0", other)
    script.works("ACC-145", right, vf, "the given token opens the VF", taken)
    yield script


@experiment("ACC-150", "ACC-151", own_open=True)
def a_group_gives_a_vf_for_the_token_behind_its_name(subject: Subject) -> Iterator[Script]:
    if not subject.has("group_pair"):
        return
    script = _Pair(subject)
    one, other, _ = script.tokens
    pf, owner = script.bound("dev1")
    was_set = script.set_token(owner, one)
    script.op("open_group", dev="dev0", out="g")
    script.op("open_container", out="c")
    script.op("group_set_container", fd="g", container="c")
    ready = script.op("container_set_iommu", fd="c", type=_TYPE1)
    there: When = [(index, "errno", "==", 0) for index in (pf, was_set, ready)]
    name = str(subject.capabilities["names"]["dev0"])

    def given(text: str) -> int:
        return script.op("group_get_device_fd", fd="g", name=text, out="d")

    script.refused("ACC-150", given(name), "no token, no device", there)
    script.refused("ACC-150", given(f"{name} vf_token={UUID(other)}"), "the wrong token is refused", there)
    for odd in ("vf_token=", "vf_token=nonsense", f"vf_token={str(UUID(one))[:-1]}", f"token={UUID(one)}",
                f"vf_token={UUID(one)} more"):  # fmt: skip
        script.refused("ACC-151", given(f"{name} {odd}"), f"{odd!r} is refused", there)
    right = given(f"{name} vf_token={UUID(one)}")
    script.works("ACC-150", right, "d", "with the token the group gives the VF", there)
    yield script


@experiment("ACC-148", own_open=True)
def a_token_nobody_needs_is_refused(subject: Subject) -> Iterator[Script]:
    if not subject.has("no_vf_token"):
        return
    script = _Pair(subject)
    index, _ = script.bound("dev0", script.tokens[0])
    script.refused("ACC-148", index, "BIND with a token that nothing is to be compared with is refused", [])
    yield script
