# SPDX-License-Identifier: Apache-2.0
"""The tables of seeded defects: what is read and what is refused; the project's own are correct."""

from __future__ import annotations

import pytest

from harness.commands.prove.defects import (
    Defect,
    catalogue,
    check_defects,
    parse_patch,
    parse_table,
    select_defects,
    variant_defects,
)
from harness.errors import HarnessError, UsageError
from harness.hosts.inventory import embedded_variants
from harness.hosts.inventory.variants import parse_variants

TABLE = """\
// SPDX-License-Identifier: GPL-2.0-only
/* DEFECT(commented_out, "MIG-001", "no") */
#define DEFECT(name, clause, text) BROKEN_##name,
DEFECT(one, "MIG-055", "returns \\"two\\" fds")
DEFECT_ON(two, "MIG-049", "a sentence "
          "in two parts", "ref-minimal")
DEFECT_DEBUG(three, "MIG-166", "uses what it freed")
"""
VARIANT = """
- name: ref-slow
  text: each arc takes its time
  parameters: {arc_ms: 7}
  catches: [one]
"""
PATCH = """\
Defect: some_rule
Breaks: MIG-058
Device: ref

Why an author would
do it.

--- a/drivers/vfio/vfio_main.c
+++ b/drivers/vfio/vfio_main.c
@@ -1,1 +1,1 @@
-a
+b
"""


def test_a_table_is_read_line_by_line():
    one, two, three = parse_table(TABLE, "vfiocert_ref", "ref", "mdev/defects.h")
    assert (one.name, one.clause, one.device, one.flavour) == ("one", "MIG-055", "ref", "plain")
    assert one.text == 'returns "two" fds'
    assert (two.device, two.text) == ("ref-minimal", "a sentence in two parts")
    assert (three.flavour, three.module) == ("debug", "vfiocert_ref")


@pytest.mark.parametrize(
    "line",
    ['DEFECT(Name, "MIG-055", "text")', 'DEFECT(name, MIG-055, "text")', 'DEFECT_OFF(name, "MIG-055", "x")'],
)
def test_a_line_that_cannot_be_read_is_named(line):
    with pytest.raises(HarnessError, match=r"1 of 4 DEFECT lines cannot be read"):
        parse_table(TABLE + line + "\n", "m", "ref", "mdev/defects.h")


def test_a_patch_says_what_it_breaks(tmp_path):
    found = parse_patch(PATCH, tmp_path / "some_rule.patch")
    assert found == Defect(
        "some_rule", "core", "MIG-058", "Why an author would do it.", "ref", "plain", "vfio_main.c",
        tmp_path / "some_rule.patch",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        (PATCH.replace("Breaks:", "Brakes:"), "some_rule", "no 'Breaks:' line"),
        (PATCH.partition("---")[0], "some_rule", "no unified diff"),
        (PATCH, "other_rule", "is not the name of the file"),
    ],
)
def test_a_patch_that_lacks_something_is_refused(tmp_path, text, name, words):
    with pytest.raises(HarnessError, match=words):
        parse_patch(text, tmp_path / f"{name}.patch")


def test_a_name_is_used_once(tmp_path):
    for kind in ("mdev", "edu"):
        (tmp_path / "reference" / kind).mkdir(parents=True)
        (tmp_path / "reference" / kind / "defects.h").write_text(TABLE)
    with pytest.raises(HarnessError, match="defect name used twice: one, three, two"):
        catalogue(tmp_path)


def test_the_projects_own_defects_are_sound():
    """Steps: read all tables and patches. Verify: each names a clause and a device, and says what."""
    found = catalogue()
    check_defects(found)
    assert sum(d.module == "core" for d in found) >= 40
    assert not [d.name for d in found if len(d.text) < 10]


DEFECTS = [Defect("log_lost", "a", "DIRTY-030", "", "ref"), Defect("mig_lost", "core", "MIG-058", "", "ref")]


def test_patterns_match_names_modules_and_clauses():
    assert select_defects(DEFECTS, []) == tuple(DEFECTS)
    assert [d.name for d in select_defects(DEFECTS, ["log_*"])] == ["log_lost"]
    assert [d.name for d in select_defects(DEFECTS, ["core:*", "DIRTY-030"])] == ["log_lost", "mig_lost"]


def test_an_unknown_name_lists_the_close_ones():
    with pytest.raises(UsageError, match=r"--defect='log_lots' is not a defect; close: log_lost"):
        select_defects(DEFECTS, ["log_lots"])
    with pytest.raises(UsageError, match="there are log_lost, mig_lost"):
        select_defects(DEFECTS, ["xyzzy"])


@pytest.mark.parametrize(
    "defect",
    [
        Defect("a", "core", "MIG-999", "", "ref"),
        Defect("a", "core", "MIG-058", "", "nothing"),
        Defect("a", "core", "MIG-058", "", "ref", "spicy"),
    ],
)
def test_a_defect_of_what_there_is_not_is_refused(defect):
    with pytest.raises(HarnessError, match="defect a: "):
        check_defects([defect])


def test_a_variant_has_defects_of_its_own():
    """Verify: the module's name of the defect stays, and the device is the variant."""
    variants = {v.name: v for v in parse_variants(VARIANT)}
    (pair,) = variant_defects(parse_table(TABLE, "vfiocert_ref", "ref", "mdev/defects.h"), variants)
    assert (pair.name, pair.knob, pair.device, pair.clause) == (
        "one-on-ref-slow",
        "one",
        "ref-slow",
        "MIG-055",
    )
    assert "takes its time" in pair.text


@pytest.mark.parametrize("name", ["nothing", "three", "some_rule"])
def test_a_variant_catches_what_its_module_can_break(name, tmp_path):
    """Verify: no unknown defect, none of the debug kernel, none of the core."""
    known = [
        *parse_table(TABLE, "vfiocert_ref", "ref", "w"),
        parse_patch(PATCH, tmp_path / "some_rule.patch"),
    ]
    variants = {v.name: v for v in parse_variants(VARIANT.replace("one", name))}
    with pytest.raises(HarnessError, match=f"ref-slow: catches '{name}'"):
        variant_defects(known, variants)


def test_the_variants_have_pairs_enough():
    pairs = variant_defects(catalogue(), embedded_variants())
    check_defects(pairs)
    assert len(pairs) >= 6
    assert len({p.device for p in pairs}) >= 6
