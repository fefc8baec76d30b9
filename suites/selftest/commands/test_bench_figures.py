# SPDX-License-Identifier: Apache-2.0
"""`vfiocert bench`: the C program compiles and behaves, its answers are read, figures judge themselves."""

from __future__ import annotations

import base64
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from harness.commands.bench.figures import Figure, own_memory, sweep_targets_of
from harness.commands.bench.yardstick import compiled, parse_sweep
from harness.errors import LabError, UsageError
from harness.spec.arcs import Mig
from harness.uapi import iommufd, vfio
from suites.mig.sweep import sweep_programs

_SOURCE = Path(__file__).parents[3] / "harness" / "commands" / "bench" / "walk.c"


@pytest.mark.parametrize(
    ("measured", "at_least", "met"),
    [(2.0, True, True), (0.5, True, False), (2.0, False, False), (0.5, False, True)],
)
def test_a_figure_knows_its_good_side(measured: float, at_least: bool, met: bool) -> None:
    figure = Figure("f", measured, 1.0, "s", at_least=at_least)
    assert figure.met is met
    assert figure.as_dict()["met"] is met
    assert figure.line().endswith(": met") is met


def test_a_line_names_figure_measured_and_wanted() -> None:
    line = Figure("sweep to C loop", 0.1234, 0.15, detail="why").line()
    assert line == "sweep to C loop: 0.1234, wanted at least 0.15: NOT met (why)"


def test_the_answer_of_the_program_is_read() -> None:
    assert parse_sweep(b"4000 2000000 77\n") == (4000, 2000000)


@pytest.mark.parametrize(
    "text", [b"", b"1 2", b"1 0 3", b"a b c", b"-1 2 3", b"1 2 3 4", b"1 " + b"9" * 40 + b" 3"]
)
def test_another_answer_is_the_labs_fault(text: bytes) -> None:
    with pytest.raises(LabError, match="the yardstick printed"):
        parse_sweep(text)


def test_a_compiler_that_is_missing_is_said() -> None:
    with pytest.raises(UsageError, match="no-such-compiler is not installed"):
        compiled("no-such-compiler")


def test_a_compiler_that_refuses_is_said() -> None:
    with pytest.raises(UsageError, match=r"false refuses walk\.c"):
        compiled("false")


def test_targets_are_those_of_the_sweep() -> None:
    programs = list(sweep_programs(Mig.STOP_COPY, 2, chunk=10))
    assert len(programs) > 1
    targets = sweep_targets_of(programs)
    walks = [op[1]["targets"] for p in programs for op in p["threads"][0]["ops"] if op[0] == "walk"]
    assert targets == b"".join(base64.b64decode(w) for w in walks)
    assert set(targets) == {1, 2, 3, 4, 255}  # the states of such a device, and resets


def test_own_memory_is_something() -> None:
    assert own_memory().measured > 1


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    path = tmp_path_factory.mktemp("bench") / "walk"
    path.write_bytes(compiled())
    path.chmod(0o700)
    return str(path)


def _run(*argv: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [str(a) for a in argv], stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False
    )


def test_the_program_is_static_and_says_how_it_is_used(program: str) -> None:
    done = _run(program)
    assert done.returncode == 2
    assert done.stderr.startswith(b"usage: walk sweep CDEV REPEAT")
    assert b"/ld-linux-x86-64.so.2\0" not in Path(program).read_bytes()[:4096]  # its interpreter's place


def test_a_device_that_cannot_be_opened_is_one_line(program: str) -> None:
    done = _run(program, "set", "/nonexistent", 1)
    assert done.returncode == 1
    assert done.stderr == b"walk: /nonexistent: No such file or directory\n"


def test_numbers_of_the_program_are_those_of_the_headers() -> None:
    text = _SOURCE.read_text("utf-8")
    assert "#define FEATURE VFIO(17)" in text
    assert vfio.VFIO_DEVICE_FEATURE == 0x3B00 | 117
    assert "#define RESET VFIO(11)" in text
    assert vfio.VFIO_DEVICE_RESET == 0x3B00 | 111
    assert "#define BIND VFIO(18)" in text
    assert vfio.VFIO_DEVICE_BIND_IOMMUFD == 0x3B00 | 118
    assert "#define IOAS_ALLOC (0x3b00 | 0x81)" in text
    assert iommufd.IOMMU_IOAS_ALLOC == 0x3B00 | 0x81
    get = vfio.VFIO_DEVICE_FEATURE_GET | vfio.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE
    assert "#define GET_STATE (1u << 16 | 2)" in text
    assert get == 1 << 16 | 2
