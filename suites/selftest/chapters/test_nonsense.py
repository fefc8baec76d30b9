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
from fixtures.experiment import experiments_in
from fixtures.fakes.migration import CAPABILITIES
from fixtures.fakes.nonsense import NonsenseAgent, nonsense_capabilities
from fixtures.subject import Subject
from harness.oracle.judge import judge
from harness.profiles import load_profile, profile_names
from harness.spec.capabilities import CAPABILITIES as NAMES

CHAPTERS = ("acc", "dev", "dirty", "emu", "iom", "leg", "mig", "sel")


def modules(chapter: str) -> list[ModuleType]:
    """The modules of a chapter's experiments."""
    package = importlib.import_module(f"{suites.__name__}.{chapter}")
    names = [name for _, name, _ in pkgutil.iter_modules(package.__path__) if name.startswith("experiments_")]
    return [importlib.import_module(f"{package.__name__}.{name}") for name in names]


def everything() -> dict[str, object]:
    """Capabilities of a device that has all there is, so that every experiment has something to try."""
    of_type = {"bool": True, "int": 4096, "str": "reference", "strs": [], "list": []}
    return {**{n: of_type.get(c.type, True) for n, c in NAMES.items() if c.type == "bool"}, **CAPABILITIES}


@pytest.mark.parametrize("chapter", CHAPTERS)
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 1 << 32))
def test_an_experiment_and_its_judge_survive_any_answer(chapter: str, seed: int) -> None:
    """Steps: build every program for a device of any capabilities, answer nonsense.  Verify: a judgement."""
    rng = random.Random(seed)
    profile = load_profile(rng.choice(profile_names()))
    capabilities = nonsense_capabilities(rng, everything())
    subject = Subject.of(capabilities, profile, seed)
    agent = NonsenseAgent(rng)
    for experiment in experiments_in(*modules(chapter)):
        made = experiment(subject)
        program = next(made, None)
        for _ in range(40):
            if program is None:
                break
            data = program if isinstance(program, dict) else program.to_json()
            verdict = judge(capabilities, {**data, "keep": ["d", "i", "ioas"]}, agent.run(data))
            try:
                program = made.send(verdict)
            except StopIteration:
                break
