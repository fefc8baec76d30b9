# SPDX-License-Identifier: Apache-2.0
"""The variants of the reference device: what is read, what is refused; the project's own fit their driver."""

from __future__ import annotations

import re

import pytest

from fixtures.budget import parse_budget
from fixtures.controller import chapters
from harness import PROJECT
from harness.agent.provision import _PARAMETERS
from harness.errors import HarnessError
from harness.hosts.inventory import Inventory, VariantSpec, embedded_devices, embedded_variants, select
from harness.hosts.inventory.variants import parse_variants
from harness.profiles import load_profile
from harness.spec.clause import by_id, matching

MDEV = PROJECT / "fixtures" / "reference" / "mdev"
ONE = """
- name: ref-slow
  text: a device that takes its time
  parameters: {arc_ms: 7, reset_aborts: true}
  op_limit_s: 90
"""


def test_a_variant_is_its_base_with_parameters_and_limits():
    (variant,) = parse_variants(ONE)
    device = variant.device()
    base = next(d for d in embedded_devices() if d.id == "ref")
    assert (device.id, device.mdev, device.profile) == ("ref-slow", base.mdev, base.profile)
    assert device.parameters == {"arc_ms": "7", "reset_aborts": "Y"}
    profile = load_profile("vfiocert_ref")
    tuned = device.full_profile
    assert tuned.op_limit_s == 90.0 != profile.op_limit_s
    assert tuned.stream_limit_bytes == profile.stream_limit_bytes
    assert base.full_profile is profile


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("name: ref-slow", "name: ref"), "ref: is the name of another device"),
        (("  op_limit_s", "  base: nobody\n  op_limit_s"), "base 'nobody' is no embedded device"),
        (("  op_limit_s", "  limits_s"), "ref-slow: limits_s: Extra inputs"),
        (("parameters: {arc_ms: 7, reset_aborts: true}", "parameters: {}"), "ref-slow: parameters"),
        (("a device that takes its time", "slow"), "ref-slow: text"),
    ],
)
def test_what_is_wrong_with_a_variant_is_named(change, words):
    with pytest.raises(HarnessError, match=re.escape(words)):
        parse_variants(ONE.replace(*change))


def test_what_is_no_list_of_variants_is_refused():
    with pytest.raises(HarnessError, match="is not a list of variants"):
        parse_variants("name: ref-slow")


def test_only_its_name_selects_a_variant():
    every = {t.device.id for t in select(Inventory())}
    assert not every & set(embedded_variants())
    name = next(iter(embedded_variants()))
    (target,) = select(Inventory(), devices=[name])
    assert isinstance(target.device, VariantSpec)
    assert target.device.id == name


@pytest.mark.parametrize("name", list(embedded_variants()))
def test_each_of_our_variants_is_sound(name):
    """Verify: parameters that agent and driver know; clauses, chapters and a budget that there are."""
    variant = embedded_variants()[name]
    device = variant.device()
    for parameter, value in device.parameters.items():
        assert _PARAMETERS[load_profile(device.profile).module, parameter].match(value)
    known = by_id()
    assert not {c for c in (*variant.findings, *variant.undecided) if c not in known}
    assert all(known[c].level == "SHOULD" for c in variant.findings), "no golden device breaks a MUST"
    assert set(variant.chapters) <= {c.name for c in chapters()}
    assert all(matching((pattern,)) for pattern in variant.clauses)
    assert variant.budget is None or parse_budget(variant.budget) <= variant.limit_s


def test_agent_driver_and_readme_have_the_same_parameters():
    source = (MDEV / "nature.c").read_text()
    driver = {
        name: kind == "bool" for name, kind in re.findall(r"^NATURE\((\w+), (\w+), ", source, re.MULTILINE)
    }
    agent = {
        name: bool(form.match("Y"))
        for (module, name), form in _PARAMETERS.items()
        if module == "vfiocert_ref"
    }
    readme = set(re.findall(r"^\| `(\w+)` \|", (MDEV / "README.md").read_text(), re.MULTILINE))
    assert driver == agent
    assert set(driver) <= readme
