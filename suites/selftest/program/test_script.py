# SPDX-License-Identifier: Apache-2.0
"""Claims are written as sentences; what they make is what the oracle reads and what identifies findings."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest

from harness.errors import HarnessError
from harness.oracle.judge import judge
from harness.program.script import Claim, Script, succeeded

SENTENCES: dict[str, tuple[Callable[[Script, int], Claim], list[Any]]] = {
    "succeeds": (lambda s, i: s.succeeds("MIG-001", i, "w"), ["errno", "==", 0]),
    "is refused": (lambda s, i: s.is_refused("MIG-001", i, expected="w"), ["errno", "!=", 0]),
    "is refused by one": (lambda s, i: s.is_refused("MIG-001", i, 22, expected="w"), ["errno", "==", 22]),
    "is refused by any": (
        lambda s, i: s.is_refused("MIG-001", i, 22, 95, expected="w"), ["errno", "in", [22, 95]]
    ),
    "equals": (lambda s, i: s.equals("MIG-001", i, "n", 5, "w"), ["n", "==", 5]),
    "differs": (lambda s, i: s.differs("MIG-001", i, "n", 5, "w"), ["n", "!=", 5]),
    "is one of": (lambda s, i: s.is_one_of("MIG-001", i, "n", [1, 5], "w"), ["n", "in", [1, 5]]),
    "contains": (lambda s, i: s.contains("MIG-001", i, "hex", "ab", "w"), ["hex", "contains", "ab"]),
    "lacks": (lambda s, i: s.lacks("MIG-001", i, "hex", "^ab", "w"), ["hex", "lacks", "^ab"]),
    "at least": (lambda s, i: s.at_least("MIG-001", i, "n", 5, "w"), ["n", ">=", 5]),
    "at most": (lambda s, i: s.at_most("MIG-001", i, "n", 5, "w"), ["n", "<=", 5]),
    "exceeds": (lambda s, i: s.exceeds("MIG-001", i, "n", 5, "w"), ["n", ">", 5]),
}  # fmt: skip
HOLDS = {"errno": 0, "n": 5, "hex": "xab"}
BROKEN: dict[str, dict[str, Any]] = {
    "succeeds": {"errno": errno.EINVAL}, "is refused": {"errno": 0}, "is refused by one": {"errno": 95},
    "is refused by any": {"errno": 1}, "equals": {"n": 6}, "differs": {"n": 5}, "is one of": {"n": 2},
    "contains": {"hex": "ba"}, "lacks": {"hex": "ab"}, "at least": {"n": 4}, "at most": {"n": 6},
    "exceeds": {"n": 5},
}  # fmt: skip


def made(name: str) -> dict[str, Any]:
    s = Script(fresh=False)
    SENTENCES[name][0](s, s.op("sleep", ms=0))
    return s.to_json()


@pytest.mark.parametrize("name", SENTENCES)
def test_a_sentence_is_a_comparison_of_a_field(name: str) -> None:
    field, compare, value = SENTENCES[name][1]
    assert made(name)["claims"] == [
        {
            "clause": "MIG-001",
            "test": [{"op": 0, "field": field}, compare, value],
            "expected": "w",
            "when": [],
        }
    ]


@pytest.mark.parametrize("name", SENTENCES)
def test_a_sentence_can_be_broken(name: str) -> None:
    record = {"t": "main", "i": 0, "op": "sleep", "ret": 0, "t0": 0, "dt": 0, **HOLDS, **BROKEN[name]}
    verdict = judge({}, made(name), [record])
    assert [v.clause for v in verdict.violations] == ["MIG-001"]


@pytest.mark.parametrize("errnos", [(0,), (22, 0)])
def test_success_is_no_way_to_be_refused(errnos: tuple[int, ...]) -> None:
    s = Script(fresh=False)
    with pytest.raises(HarnessError, match="MIG-001: is_refused with errno 0"):
        s.is_refused("MIG-001", s.op("sleep", ms=0), *errnos, expected="w")


def test_guards_are_added_and_a_claim_counts_only_under_them() -> None:
    s = Script(fresh=False)
    first, second = s.op("sleep", ms=0), s.op("sleep", ms=0)
    s.succeeds("MIG-001", second, "w").when(succeeded(first)).when((first, "n", ">", 1))
    (claim,) = s.to_json()["claims"]
    assert claim["when"] == [
        [{"op": 0, "field": "errno"}, "==", 0], [{"op": 0, "field": "n"}, ">", 1],
    ]  # fmt: skip
    for n, counted in ((1, 0), (2, 1)):
        trace = [
            {"t": "main", "i": i, "op": "sleep", "ret": 0, "errno": 0, "t0": 0, "dt": 0, "n": n}
            for i in (0, 1)
        ]
        assert judge({}, s.to_json(), trace).checked["MIG-001"] == counted
