# SPDX-License-Identifier: Apache-2.0
"""The state machine derived from the text against the one in the kernel of the lab."""

from __future__ import annotations

import itertools
import re

import pytest

from harness.lab.embedded import EmbeddedLab
from harness.spec.arcs import Mig, S, State, path, states

pytestmark = pytest.mark.lab


def kernel_table(source: str) -> dict[tuple[State, State], State]:
    """`vfio_from_fsm_table` as written in drivers/vfio/vfio_main.c."""
    body = re.search(r"vfio_from_fsm_table\[.*?= \{(.*?)\n\t\};", source, re.S)
    assert body
    table = {}
    for row in re.finditer(r"\[VFIO_DEVICE_STATE_(\w+)\] = \{(.*?)\n\t\t\},", body[1], re.S):
        for cell in re.finditer(r"\[VFIO_DEVICE_STATE_(\w+)\] = VFIO_DEVICE_STATE_(\w+)", row[2]):
            table[State[row[1]], State[cell[1]]] = State[cell[2]]
    return table


def test_the_derived_machine_is_the_kernels(embedded_lab: EmbeddedLab) -> None:
    """Steps: walk vfio_from_fsm_table for each feature set, skipping undeclared states as the kernel does."""
    source = embedded_lab.kernel.source_tree
    if source is None:
        pytest.skip("the lab's kernel came without its source")
    table = kernel_table((source / "drivers/vfio/vfio_main.c").read_text())
    assert len(table) == 64
    for flags in (Mig(1), Mig(3), Mig(5), Mig(7)):
        has = states(flags)
        for cur, new in itertools.product(has - {S.ERROR}, has - {S.ERROR}):
            walked = [cur]
            while walked[-1] not in (new, S.ERROR):
                step = table[walked[-1], new]
                while step != S.ERROR and step not in has:
                    step = table[step, new]
                walked.append(step)
            expected = None if walked[-1] == S.ERROR else tuple(walked)
            assert path(cur, new, flags) == expected, (flags, cur, new)
