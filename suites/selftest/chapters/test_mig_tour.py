# SPDX-License-Identifier: Apache-2.0
"""The transition tour: what it promises, counted by brute force; its length; and devices that surprise it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures.fakes.migration import CAPABILITIES, DEFECTS, ModelAgent
from harness.oracle.judge import judge
from harness.oracle.judgement import Judgement
from harness.spec.arcs import Mig, S, State, path, states
from suites.mig.sweep import sweep_programs
from suites.mig.tour import Tour
from suites.selftest.chapters.test_mig_model import FEATURES

RESET = 255
ALL = Mig(7)
Step = tuple[int, int, int]
"""State before, target, state after."""
Walk = list[Step]
Device = Callable[[int, int], int]
"""What state it is in after a target in a state."""


def by_the_rules(flags: Mig) -> Device:
    def after(state: int, target: int) -> int:
        if target == RESET:
            return int(S.RUNNING)
        way = path(State(state), target, flags)
        return int(way[-1] if way else state)

    return cache(after)


def letters(flags: Mig) -> list[int]:
    return [int(s) for s in sorted(states(flags)) if s != S.ERROR]


def drive(tour: Tour, device: Device, chunk: int, most: int = 1 << 30) -> Iterator[Walk]:
    """The walks of a tour on a device that is brought to RUNNING before each, by a SET: their first step."""
    walked = 0
    while True:
        tour.restart()
        targets = tour.next_targets(chunk)
        if not targets:
            return
        state, walk = int(S.RUNNING), [(int(S.RUNNING), int(S.RUNNING), int(S.RUNNING))]
        for target in targets:
            after = device(state, target)
            walk.append((state, target, after))
            state = after
        tour.walked(targets, bytes(after for _, _, after in walk[1:]))
        yield walk
        walked += len(targets)
        assert walked < most, "it goes on and on"


def runs(walks: list[Walk], length: int) -> set[tuple[int, ...]]:
    """(state before, targets) for all SETs in a row of this length; a reset is in none of them."""
    return {
        (walk[n][0], *(target for _, target, _ in walk[n : n + length]))
        for walk in walks
        for n in range(len(walk) - length + 1)
        if all(target != RESET for _, target, _ in walk[n : n + length])
    }


def histories(flags: Mig, length: int) -> set[tuple[int, ...]]:
    """(state now, last `length` targets), all that SETs can lead to from any state."""
    device, found = by_the_rules(flags), set()
    for state, *targets in itertools.product(letters(flags), repeat=length + 1):
        now = state
        for target in targets:
            now = device(now, target)
        found.add((now, *targets))
    return found


def cost(walks: list[Walk], flags: Mig) -> int:
    """Arcs, as many as the path of each SET has, without those of the SET before each walk."""
    steps = [step for walk in walks for step in walk[1:] if step[1] != RESET]
    return sum(len(path(State(s), t, flags) or (0,)) - 1 for s, t, _ in steps)


@cache
def least(flags: Mig, k: int) -> tuple[int, int]:
    """SETs and arcs of each target once after each (state, last k - 1 targets) that begin in RUNNING."""
    device = by_the_rules(flags)
    start: tuple[int, tuple[int, ...]] = (int(S.RUNNING), ())
    seen, todo, sets, arcs = {start}, [start], 0, 0
    while todo:
        state, last = todo.pop()
        for target in letters(flags):
            sets += 1
            arcs += len(path(State(state), target, flags) or (0,)) - 1
            context = (device(state, target), (*last, target)[-(k - 1) :] if k > 1 else ())
            if context not in seen:
                seen.add(context)
                todo.append(context)
    return sets, arcs


@pytest.mark.parametrize("chunk", [7, 100_000])
@pytest.mark.parametrize("flags", range(8))
@pytest.mark.parametrize("k", [1, 2, 3])
def test_every_window_from_every_state_is_walked(flags: int, k: int, chunk: int) -> None:
    have, tour = letters(Mig(flags)), Tour(Mig(flags), k)
    walks = list(drive(tour, by_the_rules(Mig(flags)), chunk))
    # Every sequence of k - 1 targets from every state; of one target where k is 1.
    assert runs(walks, max(1, k - 1)) == set(itertools.product(have, repeat=max(2, k)))
    # Every sequence of k targets, whatever happened before it.
    assert {run[1:] for run in runs(walks, k)} == set(itertools.product(have, repeat=k))
    # Every target after each (state, last k - 1 targets).
    device = by_the_rules(Mig(flags))
    seen = set()
    for state, *targets in runs(walks, k):
        for target in targets[:-1]:
            state = device(state, target)
        seen.add((state, *targets))
    wanted = {(*h, t) for h in histories(Mig(flags), k - 1) for t in have}
    assert seen == wanted
    assert (tour.remaining, tour.complete, tour.dropped, tour.surprises) == (0, k, [], 0)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_each_state_is_reset_and_each_target_follows_a_reset(k: int) -> None:
    walks = list(drive(Tour(ALL, k), by_the_rules(ALL), 50))
    pairs = {(a[1], b[1]) for walk in walks for a, b in itertools.pairwise(walk)}
    assert {s for walk in walks for s, target, _ in walk if target == RESET} == set(letters(ALL))
    if k > 1:
        assert {(RESET, target) for target in letters(ALL)} <= pairs


def test_a_device_that_cannot_be_reset_is_not() -> None:
    tour = Tour(ALL, 3, reset_cost=None)
    walks = list(drive(tour, by_the_rules(ALL), 1000))
    assert not any(target == RESET for walk in walks for _, target, _ in walk)
    assert (tour.remaining, tour.resets_walked) == (0, 0)


@pytest.mark.parametrize("flags", [1, 3, 5, 7])
def test_windows_of_four_targets(flags: int) -> None:
    walks = list(drive(Tour(Mig(flags), 4), by_the_rules(Mig(flags)), 100_000))
    have = letters(Mig(flags))
    assert runs(walks, 3) == set(itertools.product(have, repeat=4))
    assert {run[1:] for run in runs(walks, 4)} == set(itertools.product(have, repeat=4))


def test_the_bound_is_the_one_that_was_measured() -> None:
    assert [least(ALL, k) for k in (2, 3, 4, 5)] == [(70, 105), (427, 653), (2856, 4395), (19719, 30401)]


@pytest.mark.parametrize("k", [3, 4, 5])
def test_the_tour_is_as_short_as_that(k: int) -> None:
    """Shorter windows and resets, two arcs each, are in it."""
    tour = Tour(ALL, k)
    walks = list(drive(tour, by_the_rules(ALL), 1_000_000))
    assert len(walks) == 1
    assert tour.arcs_walked == tour.arcs_planned == cost(walks, ALL)
    assert tour.arcs_walked + 2 * tour.resets_walked <= 1.05 * least(ALL, k)[1]
    assert tour.sets_walked <= 1.09 * least(ALL, k)[0]


def test_short_windows_come_first_and_cost_nothing_more() -> None:
    steps, levels = 0, []
    for length in range(1, 4):
        tour = Tour(ALL, 4)
        for _ in drive(tour, by_the_rules(ALL), 40):
            if tour.complete >= length:
                break
        steps = tour.sets_walked + tour.resets_walked
        levels.append(steps)
    assert levels[0] <= 56 + 40
    assert levels[1] <= 126 + 80
    assert levels[2] <= 600


def test_the_same_is_given_again_until_it_was_walked() -> None:
    tour = Tour(ALL, 3)
    assert tour.next_targets(20) == tour.next_targets(20)
    assert tour.remaining == tour.total
    assert tour.next_targets(300)[:20] == tour.next_targets(20)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=30), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=25)
def test_walks_of_any_length_that_are_cut_anywhere_cover_it_all(chunks: list[int], rng: object) -> None:
    tour, device, walks = Tour(ALL, 3), by_the_rules(ALL), []
    for chunk in itertools.chain(chunks, itertools.repeat(60)):
        tour.restart()
        targets = tour.next_targets(chunk)
        if not targets:
            break
        done = rng.randint(0, len(targets)) if chunk < 60 else len(targets)  # type: ignore[attr-defined]
        state, walk = int(S.RUNNING), [(2, 2, 2)]
        for target in targets[:done]:
            walk.append((state, target, device(state, target)))
            state = walk[-1][2]
        tour.walked(targets, bytes(after for _, _, after in walk[1:]))
        walks.append(walk)
    assert runs(walks, 2) == set(itertools.product(letters(ALL), repeat=3))
    assert (tour.remaining, tour.surprises) == (0, 0)


def test_a_walk_that_nobody_asked_for_counts_and_the_tour_goes_on() -> None:
    tour, device = Tour(ALL, 2), by_the_rules(ALL)
    tour.next_targets(30)
    mine = [6, 3, 1, 4, 2, RESET, 7]
    reported = itertools.accumulate(mine, device, initial=2)
    before = tour.remaining
    tour.walked(bytes(mine), bytes(reported)[1:])
    # Windows of one and of two targets, for the start was a SET, too; but none has a reset as its second.
    assert before - tour.remaining == 2 * len(mine) - 1
    assert list(drive(tour, device, 30))
    assert tour.remaining == 0


# -- surprises
cells = st.tuples(st.sampled_from([*letters(ALL)]), st.sampled_from([*letters(ALL), RESET]))


def bound(tour: Tour) -> int:
    """More steps than any surprises can cost: two tries for each window, each with a way there."""
    return 40 * tour.total + 20_000


@given(st.dictionaries(cells, st.sampled_from([0, *letters(ALL), 0xFF]), max_size=6), st.integers(1, 200))
@settings(deadline=None, max_examples=60)
def test_what_always_goes_wrong_is_dropped_and_the_rest_is_walked(
    wrong: dict[tuple[int, int], int], chunk: int
) -> None:
    model = by_the_rules(ALL)

    def device(state: int, target: int) -> int:
        if state in (0, 0xFF):
            return int(S.RUNNING) if target == RESET and len(wrong) % 2 else state
        return wrong.get((state, target), model(state, target))

    wrong = {cell: state for cell, state in wrong.items() if state != model(*cell)}
    tour = Tour(ALL, 3)
    walks = list(drive(tour, device, chunk, bound(tour)))
    assert tour.remaining == 0
    # The states that it can be brought to without what goes wrong, and all that can be done from there.
    good, todo = {int(S.RUNNING)}, [int(S.RUNNING)]
    while todo:
        state = todo.pop()
        for target in letters(ALL):
            after = model(state, target)
            if (state, target) not in wrong and after not in good:
                good.add(after)
                todo.append(after)
    wanted = {
        (state, one, two)
        for state, one, two in itertools.product(sorted(good), letters(ALL), letters(ALL))
        if (state, one) not in wrong and (model(state, one), two) not in wrong
    }
    assert wanted <= runs(walks, 2)
    # Nothing is dropped that goes well, and what is dropped says so.
    for window in tour.dropped:
        state = window.state
        for target in window.targets[window.targets[0] == RESET :][:-1]:
            state = model(state, target)
        assert (state, window.targets[-1]) in wrong
        assert set(window.reported) == {wrong[state, window.targets[-1]]}
        assert len(window.reported) >= 2
    assert len(tour.dropped) <= len(wrong)


@given(st.randoms(use_true_random=False), st.sampled_from([0.01, 0.1, 0.5, 1.0]), st.sampled_from([9, 300]))
@settings(deadline=None, max_examples=25)
def test_a_device_that_is_wrong_at_random_ends_the_tour(rng: object, share: float, chunk: int) -> None:
    model = by_the_rules(Mig(3))

    def device(state: int, target: int) -> int:
        if rng.random() < share:  # type: ignore[attr-defined]
            return int(rng.choice([0, 0xFF, *letters(Mig(3))]))  # type: ignore[attr-defined]
        return model(state, target) if state not in (0, 0xFF) else state

    tour = Tour(Mig(3), 3)
    walks = list(drive(tour, device, chunk, bound(tour)))
    assert tour.remaining == 0
    assert tour.surprises > 0 or share < 0.05
    # What neither went wrong twice nor needs what did was walked: the tour is no way to call a window walked.
    right = {
        (walk[n][0], walk[n][1])
        for walk in walks
        for n in range(1, len(walk))
        if walk[n][0] in letters(Mig(3)) and walk[n][2] == model(walk[n][0], walk[n][1])
    }
    cells_left = {(s, t) for s in letters(Mig(3)) for t in [*letters(Mig(3)), RESET]} - right
    assert bool(cells_left) <= bool(tour.given_up)


def test_a_window_that_surprised_once_is_walked_again() -> None:
    model, times = by_the_rules(ALL), itertools.count()

    def device(state: int, target: int) -> int:
        if state == S.ERROR:
            return int(S.RUNNING) if target == RESET else state
        return int(S.ERROR) if (state, target) == (2, 6) and next(times) == 0 else model(state, target)

    tour = Tour(ALL, 3)
    walks = list(drive(tour, device, 30))
    assert (tour.surprises, tour.dropped, tour.given_up, tour.remaining) == (1, [], 0, 0)
    bad = next(walk for walk in walks if (2, 6, 0) in walk)
    at = bad.index((2, 6, 0))
    right = [walk for walk in walks if walk is not bad] + [bad[:at], bad[at + 1 :]]
    assert {run for run in runs(right, 2) if run[0]} == set(itertools.product(letters(ALL), repeat=3))


def test_what_goes_wrong_after_two_targets_costs_that_window_alone() -> None:
    """STOP_COPY, STOP, then RUNNING fails: other ways to STOP, and from there to RUNNING, are walked."""
    model, last = by_the_rules(ALL), [0, 0]

    def device(state: int, target: int) -> int:
        bad = last == [3, 1] and target == 2
        last[:] = [last[1], target]
        return 1 if bad else model(state, target)

    tour = Tour(ALL, 3)
    list(drive(tour, device, 500))
    assert [(w.state, w.targets, set(w.reported)) for w in tour.dropped] == [(3, (1, 2), {1})]
    assert str(tour.dropped[0]).startswith("STOP RUNNING from STOP_COPY: then STOP, STOP")
    assert tour.given_up == 1


def test_in_error_a_reset_is_asked_for_and_twice_at_most() -> None:
    tour = Tour(ALL, 2)
    first = tour.next_targets(1)
    tour.walked(first[:1], bytes([S.ERROR]))
    for _ in range(2):
        assert tour.next_targets(100) == bytes([RESET])
        tour.walked(bytes([RESET]), bytes([S.ERROR]))
    assert tour.next_targets(100) == b""
    tour.restart()
    assert len(tour.next_targets(100)) > 1


def test_a_device_that_cannot_be_brought_to_running_any_more_ends_the_tour() -> None:
    """Each program ends where it began, in RESUMING, though all that is tried went well before."""
    model, steps = by_the_rules(ALL), itertools.count()

    def device(state: int, target: int) -> int:
        return model(state, target) if next(steps) < 150 else int(S.RESUMING)

    tour = Tour(ALL, 3)
    list(drive(tour, device, 3, bound(tour)))
    assert tour.remaining == 0
    assert tour.given_up > 0


def test_after_a_walk_that_ended_in_error_the_next_are_short() -> None:
    tour = Tour(ALL, 4)
    targets = tour.next_targets(2000)
    tour.walked(targets, bytes(len(targets)))
    tour.restart()
    assert len(tour.next_targets(2000)) <= 64


# -- as programs
def judged(agent: ModelAgent, depth: int, chunk: int = 100) -> tuple[Judgement, Judgement]:
    """What the judge says of the sweep: of its walks, and of all."""
    capabilities = {**CAPABILITIES, "migration": FEATURES[int(agent.flags)]}
    walks, total = Judgement(), Judgement()
    programs = sweep_programs(agent.flags, depth, chunk)
    program = next(programs, None)
    while program is not None:
        verdict = judge(capabilities, program, agent.run(program))
        total.merge(verdict)
        walks.violations += [v for v in verdict.violations if v.step >= 0]
        try:
            program = programs.send(verdict)
        except StopIteration:
            break
    return walks, total


@pytest.mark.parametrize("flags", FEATURES)
def test_a_device_that_keeps_every_rule_has_no_finding(flags: int) -> None:
    _, total = judged(ModelAgent(flags=Mig(flags)), 3)
    assert total.violations == []
    have = set(letters(Mig(flags)))
    assert {(c, n) for c, n, _ in total.cells if c and n in have} == set(itertools.product(have, repeat=2))


# defect -> clauses that walks of every two targets from RUNNING break, each followed by SET(RUNNING)
CAUGHT = {
    **{d: {c} for d, c in DEFECTS.items() if d.startswith("arc-")},
    "async-stop": {"MIG-022"},
    "dead-fd-eof": {"MIG-067"},
    "extra-fd": {"MIG-056", "MIG-067"},
    "failed-set-strays": {"MIG-044", "MIG-051"},
    "fd-within-group": {"MIG-057", "MIG-061"},
    "get-stale": {"MIG-022"},
    "no-cloexec": {"MIG-058"},
    "no-fd": {"MIG-055"},
    "old-fd-serves-new": {"MIG-060", "MIG-061", "MIG-062"},
    "own-stream-refused": {"MIG-032", "MIG-045"},
    "p2p-fd-lives": {"MIG-062"},
    "pre-copy-fd-lives": {"MIG-061"},
    "resuming-fd-readable": {"MIG-063"},
    "same-state-refused": {"MIG-024"},
    "state-not-executed": {"MIG-023"},
    "stop-copy-fd-lives": {"MIG-060"},
    "stop-copy-to-pre-copy": {"MIG-046"},
}
RESETS = {
    "reset-group-keeps": {"MIG-142"},
    "reset-keeps-resuming-state": {"MIG-113"},
    "reset-keeps-saving": {"MIG-064"},
    "reset-refused": {"MIG-143"},
    "reset-running-stops": {"MIG-141"},
    "reset-stop-keeps": {"MIG-140"},
}


@pytest.mark.parametrize("defect", sorted(CAUGHT))
def test_its_walks_alone_catch_what_sequences_from_running_caught(defect: str) -> None:
    walks, _ = judged(ModelAgent(defect), 2)
    assert CAUGHT[defect] <= {v.clause for v in walks.violations}


@pytest.mark.parametrize("defect", sorted(RESETS))
def test_its_walks_catch_resets_that_go_wrong(defect: str) -> None:
    walks, _ = judged(ModelAgent(defect), 2)
    assert RESETS[defect] <= {v.clause for v in walks.violations}


def test_walks_that_never_come_to_anything_new_end_the_sweep() -> None:
    programs = sweep_programs(ALL, 2)
    next(programs)
    programs.send(Judgement())
    with pytest.raises(StopIteration):
        programs.send(Judgement())


def test_a_chunk_of_none_ends_the_sweep() -> None:
    sizes = iter([10, 20, 0])
    assert len(list(sweep_programs(ALL, 3, lambda: next(sizes)))) == 2
