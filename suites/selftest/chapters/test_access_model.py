# SPDX-License-Identifier: Apache-2.0
"""Chapter ACC against its model: clean where the model keeps the rules, caught where it breaks one."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from fixtures.experiment import experiments_in
from fixtures.fakes.access import BROKEN, Model
from fixtures.subject import Subject
from harness.oracle.judge import judge
from harness.oracle.judgement import Judgement
from harness.profiles import load_profile
from suites.acc import experiments_cdev, experiments_group, experiments_references
from suites.acc.program import History
from suites.acc.random_histories import contest, history, turmoil

EXPERIMENTS = experiments_in(experiments_cdev, experiments_group, experiments_references)
REGION = {"index": 0, "flags": 7, "size": 4096, "offset": 0, "caps_hex": ""}
ONE: Mapping[str, Any] = {
    "groups": {"dev0": 3}, "group": True, "legacy": True, "mmap_region": 1, "physical_iommu": False,
    "regions": [REGION],
}  # fmt: skip
PAIR = {**ONE, "groups": {"dev0": 5, "dev1": 5}, "shared_group": True, "physical_iommu": True}


def subject(capabilities: Mapping[str, Any], seed: int = 1) -> Subject:
    return Subject.of(capabilities, load_profile("generic"), seed)


def judged(h: History, broken: tuple[str, ...] = (), seed: int = 0) -> Judgement:
    program, rng = h.to_json(), random.Random(seed)
    trace = Model(h.groups, broken).run(program, lambda n: rng.randrange(n))
    return judge(h.subject.capabilities, program, trace)


def programs(capabilities: Mapping[str, Any], seed: int, histories: int) -> Iterator[History]:
    what = subject(capabilities, seed)
    for experiment in EXPERIMENTS:
        yield from experiment(what)
    for _ in range(histories):
        yield history(what)


@pytest.mark.parametrize("capabilities", [ONE, PAIR], ids=["one", "pair"])
def test_the_model_keeps_every_rule(capabilities: Mapping[str, Any]) -> None:
    for number, h in enumerate(programs(capabilities, 7, 300)):
        wrong = [v for v in judged(h).violations if v.clause < "ACC-099"]
        assert not wrong, (number, wrong[:2], h.to_json()["threads"])


@pytest.mark.parametrize("rule", BROKEN)
def test_a_broken_rule_is_caught_by_its_clause(rule: str) -> None:
    caught = {v.clause for h in programs(PAIR, 1, 0) for v in judged(h, (rule,)).violations}
    assert BROKEN[rule] in caught, sorted(caught)


RANDOMLY = ("group_beside_cdev", "cdev_beside_group", "second_fd_binds", "close_leaks", "fork_uncounted",
            "kill_leaks", "scm_uncounted", "group_close_frees")  # fmt: skip


@pytest.mark.parametrize("rule", RANDOMLY)
def test_random_histories_catch_it_too(rule: str) -> None:
    what = subject(ONE, 3)
    assert any(judged(history(what), (rule,)).violations for _ in range(120))


@pytest.mark.parametrize("make", [contest, turmoil])
@pytest.mark.parametrize("capabilities", [ONE, PAIR], ids=["one", "pair"])
def test_a_race_is_explained_in_whatever_order_it_went(make: Any, capabilities: Mapping[str, Any]) -> None:
    what = subject(capabilities, 5)
    for seed in range(60):
        verdict = judged(make(what), seed=seed)
        assert not verdict.violations, verdict.violations[:2]
        assert verdict.checked["ACC-071"] == 1


@pytest.mark.parametrize("make", [contest, turmoil])
@pytest.mark.parametrize("rule", ["group_beside_cdev", "cdev_beside_group", "second_fd_binds", "group_twice"])
def test_a_race_with_two_winners_is_caught(make: Any, rule: str) -> None:
    what = subject(ONE, 5)
    caught = {v.clause for seed in range(60) for v in judged(make(what), (rule,), seed).violations}
    assert "ACC-071" in caught


def test_a_race_without_winner_is_caught() -> None:
    what = subject(ONE, 5)
    broken = ("bind_refused", "idle_cdev_blocks")
    caught = {v.clause for seed in range(60) for v in judged(contest(what), broken, seed).violations}
    assert {"ACC-071", "ACC-072"} <= caught
