# SPDX-License-Identifier: Apache-2.0
"""Experiments on the driver that modules.alias selects for the device, and what the kernel binds."""

from __future__ import annotations

import hashlib
import random
from typing import Any

from fixtures.experiment import experiment
from fixtures.rig import Rig
from harness.errors import LabError
from harness.hosts.driver_choice import Alias, Choice, choose, ids_of, is_modalias, others, parse_aliases
from suites.sel.matching import NO_DRIVER, Matching, Move, random_moves

_READ_S = 30.0
_MOVES = 6
_INTEL = 0x8086
_ID_FILES = ("vendor", "device", "subsystem_vendor", "subsystem_device", "class")
_NOTHING: dict[str, Any] = {"threads": [{"name": "main", "ops": []}]}


@experiment("SEL-001", "SEL-002", "SEL-003", "SEL-004", "SEL-005", needs=("pci",))
def the_fewest_wildcards_choose_one_driver(rig: Rig) -> None:
    """Verify: the running kernel's modules.alias has one best vfio_pci: alias for the device's modalias."""
    device = _described(rig)
    modalias = str(device["modalias"])
    shown = _read(rig, "cat " + " ".join(f"{device['path']}/{name}" for name in _ID_FILES)).split()
    ids = [int(word, 16) for word in shown]
    ids = [*ids[:4], ids[4] >> 16, ids[4] >> 8 & 0xFF, ids[4] & 0xFF]
    named = list(ids_of(modalias)) if is_modalias(modalias) else None
    rig.observe("SEL-001", named == ids, f"the ids {_hex(ids)}", modalias)
    if named is None:
        return
    aliases = _aliases(rig)
    choice = choose(modalias, aliases)
    if not choice.module and not any(alias.vfio and alias.wildcards == 7 for alias in aliases):
        rig.undecided["SEL-002"] = "vfio_pci is built in or absent: modules.alias has no line for it"
        return
    rig.observe("SEL-002", bool(choice.module), "a vfio_pci: alias that matches", "none")
    odd = [alias.pattern for alias in choice.candidates if not alias.regular]
    rig.observe("SEL-003", not odd, "each field a value or one *", ", ".join(odd))
    rig.observe("SEL-004", not choice.tied, "one module", ", ".join((choice.module, *choice.tied)))
    if rig.capabilities.get("variant_profile"):
        wanted = rig.profile.module
        rig.observe("SEL-005", choice.module == wanted, wanted, choice.module or "none")


@experiment(
    "SEL-010", "SEL-011", "SEL-012", "SEL-013", "SEL-014", "SEL-015", "SEL-016", "SEL-017", "SEL-018",
    "SEL-019", "SEL-020",
    needs=("pci",),
)  # fmt: skip
def the_kernel_binds_what_driver_override_names(rig: Rig) -> None:
    """Steps: override, unbind and probe, first one by one, then in random order; the host is restored."""
    rig.release()
    aliases = _aliases(rig)
    try:
        choice = choose(str(_described(rig)["modalias"]), aliases)
        if not choice.module:
            raise LabError(f"{rig.device_id}: no vfio_pci: alias of the host matches the device")
        _bindings(rig, choice, aliases)
        rig.read_log(_NOTHING, [])
    finally:
        # Whatever is bound now, the agent's undo and the next test's provisioning restore it.
        rig.drop()


def _bindings(rig: Rig, choice: Choice, aliases: tuple[Alias, ...]) -> None:
    agent = rig.connection.agent
    before = _described(rig)
    parent = _parent_driver(rig, before)
    drivers = list(agent.call("load_module", name=choice.module)["drivers"])
    rig.observe("SEL-010", bool(drivers), f"a PCI driver of {choice.module}", "none")
    generic = list(agent.call("load_module", name="vfio_pci")["drivers"])
    if not drivers:
        return
    chosen = drivers[0]

    free = _move(rig, Move(NO_DRIVER, ("unbind", "probe")))
    rig.observe(
        "SEL-013", free[0]["driver"] == before["driver"], str(before["driver"]), str(free[0]["driver"])
    )
    gone = free[1]["driver"] is None and free[1]["vfio_name"] is None
    rig.observe("SEL-014", gone, "no driver, no vfio-dev", f"{free[1]['driver']}, {free[1]['vfio_name']}")
    kept = free[2]["driver"] is None and free[2]["override"] == NO_DRIVER
    rig.observe("SEL-015", kept, f"none, {NO_DRIVER}", f"{free[2]['driver']}, {free[2]['override']}")

    bound = _move(rig, Move(chosen, ("probe",)))[-1]
    right = bound["driver"] == chosen and bound["module"] == choice.module
    rig.observe("SEL-011", right, f"{chosen} of {choice.module}", f"{bound['driver']} of {bound['module']}")
    rig.observe("SEL-012", bound["vfio_name"] is not None, "a vfio-dev", "none")

    bare = _move(rig, Move("", ("unbind", "probe")))[-1]
    rig.observe("SEL-016", bare["override"] is None, "no override", str(bare["override"]))
    # Only a driver's own plain ids are evidence: an id that was added by new_id may bind.
    plain = bare["module"] in others(choice.modalias, aliases)
    if bare["vfio_name"] is None or plain:
        rig.observe(
            "SEL-017", bare["vfio_name"] is None, "no VFIO driver", f"{bare['driver']} by a pci: alias"
        )
    else:
        rig.undecided["SEL-017"] = f"{bare['driver']} was given the device's id by new_id on this host"

    if generic and generic[0] != chosen:
        taken = _move(rig, Move(generic[0], ("unbind", "probe")))[-1]
        ok = taken["driver"] == generic[0] and taken["vfio_name"] is not None
        if not ok and ids_of(choice.modalias)[0] == _INTEL:
            rig.undecided["SEL-018"] = "vfio-pci may refuse this device by its denylist (vfio_pci.c)"
        else:
            rig.observe("SEL-018", ok, f"{generic[0]} with a VFIO node", str(taken["driver"]))
    elif generic:
        rig.observe("SEL-018", bound["driver"] == chosen, chosen, str(bound["driver"]))

    current = str(_described(rig)["driver"] or "") or None
    model = Matching(current, frozenset([chosen, *generic[:1]]), bare["driver"])
    for move in random_moves(_rng(rig), sorted(model.loaded), _MOVES):
        wrong = model.differences(move, _move(rig, move))
        words = f"override {move.override or 'cleared'}, {', '.join(move.steps) or 'nothing more'}"
        rig.observe("SEL-019", not wrong, f"{words}: what it says", "; ".join(wrong))
    if rig.capabilities.get("virtual_function"):
        after = _parent_driver(rig, before)
        rig.observe("SEL-020", after == parent, f"PF on {parent}", f"PF on {after}")


def _move(rig: Rig, move: Move) -> list[dict[str, Any]]:
    connection: Any = rig.connection
    answer = connection.agent.call(
        "rebind", device=dict(connection.ready.wire), override=move.override, steps=list(move.steps)
    )
    return list(answer["seen"])


def _rng(rig: Rig) -> random.Random:
    """A generator seeded by seed and name alone; unlike `rig.subject`, it does not open the device."""
    digest = hashlib.sha256(f"{rig.seed}:sel".encode()).digest()
    return random.Random(int.from_bytes(digest[:8], "big"))


def _described(rig: Rig) -> dict[str, Any]:
    connection: Any = rig.connection
    return dict(connection.agent.call("describe_device", device=dict(connection.ready.wire)))


def _parent_driver(rig: Rig, described: dict[str, Any]) -> str:
    if not described.get("physfn"):
        return ""
    parent = rig.connection.agent.call("describe_device", device={"pci": described["physfn"]})
    return str(parent.get("driver") or "none")


def _aliases(rig: Rig) -> tuple[Alias, ...]:
    text = _read(rig, 'grep -E "^alias (vfio_)?pci:" "/lib/modules/$(uname -r)/modules.alias"')
    return parse_aliases(text, f"{rig.device_id}: modules.alias of the host")


def _read(rig: Rig, command: str) -> str:
    connection: Any = rig.connection
    status, out, err = connection.exec(command, _READ_S)
    if status != 0:
        raise LabError(
            f"{rig.device_id}: {command[:60]!r} failed on the host: {err.decode(errors='replace')[:120]}"
        )
    return str(out.decode("utf-8", "replace"))


def _hex(values: list[int]) -> str:
    return " ".join(f"{value:x}" for value in values)
