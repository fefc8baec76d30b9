# SPDX-License-Identifier: Apache-2.0
"""No answer of a device is a bug of ours: every experiment and judge, on a device that answers nonsense."""

from __future__ import annotations

import importlib
import pkgutil
import random
from types import ModuleType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import suites
from fixtures.experiment import experiment_of, experiments_in
from fixtures.fakes.migration import CAPABILITIES
from fixtures.fakes.nonsense import NonsenseAgent, nonsense_capabilities
from fixtures.subject import Subject
from harness.oracle.judge import judge
from harness.profiles import load_profile, profile_names

CHAPTERS = ("dirty", "iom", "leg", "mig")


def modules(chapter: str) -> list[ModuleType]:
    """The modules of a chapter's experiments."""
    package = importlib.import_module(f"{suites.__name__}.{chapter}")
    names = [name for _, name, _ in pkgutil.iter_modules(package.__path__) if name.startswith("experiments_")]
    return [importlib.import_module(f"{package.__name__}.{name}") for name in names]


@pytest.mark.parametrize("chapter", CHAPTERS)
@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 1 << 32))
def test_an_experiment_and_its_judge_survive_any_answer(chapter: str, seed: int) -> None:
    """Steps: build every program for a device of any capabilities, answer nonsense.  Verify: a judgement."""
    rng = random.Random(seed)
    profile = load_profile(rng.choice(profile_names()))
    capabilities = nonsense_capabilities(rng, CAPABILITIES)
    if chapter in ("iom", "leg"):
        capabilities["mock"] = "the kernel's mock stands in for one"
    subject = Subject.of(capabilities, profile, seed)
    agent = NonsenseAgent(rng)
    for experiment in experiments_in(*modules(chapter)):
        about = experiment_of(experiment)
        assert about is not None
        if about.idle(capabilities) or about.search:
            continue
        made = experiment(subject)
        program = next(made, None)
        for _ in range(12):
            if program is None:
                break
            data = program if isinstance(program, dict) else program.to_json()
            verdict = judge(capabilities, {**data, "keep": ["d", "i", "ioas"]}, agent.run(data))
            try:
                program = made.send(verdict)
            except StopIteration:
                break
