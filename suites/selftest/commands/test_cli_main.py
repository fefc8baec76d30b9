# SPDX-License-Identifier: Apache-2.0
"""The command line: lazy, helpful, and with the exit status that a caller may rely on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from harness import __version__
from harness.__main__ import load, main
from harness.commands import COMMANDS, Entry
from harness.errors import DeviceFinding, HarnessError, LabError, UsageError

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., object]], None]:
    """Makes a function the command `probe` for the time of a test."""
    module = types.ModuleType("harness.commands.probe_of_a_test")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(COMMANDS, "probe", Entry(f"{module.__name__}:probe", "a test's own command"))

    def use(body: Callable[..., object]) -> None:
        module.__dict__["probe"] = body

    return use


@pytest.fixture(autouse=True)
def kept_signal():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def raising(error: BaseException) -> Callable[[], None]:
    def body() -> None:
        raise error

    return body


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (DeviceFinding("broke MIG-001"), 1),
        (UsageError("lab='x' is not a lab: embedded"), 2),
        (LabError("host 'a' does not answer"), 3),
        (HarnessError("slot 'f' is made twice"), 4),
        (KeyboardInterrupt(), 130),
    ],
)
def test_an_error_is_one_line_and_its_status(command, capsys, error, status):
    command(raising(error))
    assert main(["probe"]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"vfiocert: {str(error) or 'interrupted'}\n"


def test_a_message_of_several_lines_becomes_one(command, capsys):
    command(raising(LabError("host 'a':\n  no answer\n")))
    main(["probe"])
    assert capsys.readouterr().err == "vfiocert: host 'a': no answer\n"


def test_an_unexpected_exception_is_a_bug_with_its_traceback_in_a_file(
    command, capsys, tmp_path, monkeypatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    command(raising(KeyError("nobody caught me")))
    assert main(["probe"]) == 4
    err = capsys.readouterr().err
    assert err.startswith("vfiocert: a bug in vfiocert, not a finding: KeyError: 'nobody caught me'")
    assert "Traceback" not in err
    (file,) = tmp_path.glob("vfiocert-traceback-*.txt")
    assert str(file) in err
    assert "KeyError: 'nobody caught me'" in file.read_text()


def test_a_traceback_is_shown_on_request(command, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("VFIOCERT_TRACEBACK", "1")
    command(raising(KeyError("nobody caught me")))
    assert main(["probe"]) == 4
    assert "Traceback (most recent call last)" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_pipe_that_broke_elsewhere_is_a_bug(command, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    command(raising(BrokenPipeError("to the lab")))
    assert main(["probe"]) == 4


def test_what_a_command_returns_is_the_status(command):
    command(lambda: 3)
    assert main(["probe"]) == 3
    command(lambda: None)
    assert main(["probe"]) == 0
    command(raising(typer.Exit(1)))
    assert main(["probe"]) == 1


def test_an_option_is_an_environment_variable_too(command, monkeypatch):
    seen = []

    def probe(budget_limit: int = 5) -> None:
        seen.append(budget_limit)

    command(probe)
    main(["probe"])
    monkeypatch.setenv("VFIOCERT_PROBE_BUDGET_LIMIT", "7")
    main(["probe"])
    main(["probe", "--budget-limit", "9"])
    assert seen == [5, 7, 9]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--frobnicate"], ["no such option", "vfiocert --help"]),
        (["frobnicate"], ["'frobnicate' is not a command", "certify", "clauses"]),
        (["cretify"], ["did you mean 'certify'?"]),
        (["clauses", "--frobnicate"], ["no such option", "vfiocert clauses --help"]),
        (["clauses", "ABC-001"], ["'ABC-001'", "MIG-*"]),
        (["new", "frobnicate"], ["frobnicate"]),
        (["new"], ["Usage: vfiocert new", "profile"]),
        (["check", "--only", "frobnicate"], ["--only='frobnicate'", "ruff", "unit"]),
    ],
)
def test_wrong_usage_is_status_2_and_says_what_is_allowed(capsys, arguments, words):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert [w for w in words if w not in err] == []
    assert "Traceback" not in err


def test_help_and_version(capsys):
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert [c for c in COMMANDS if f"  {c} " not in shown] == []
    assert main([]) == 0
    assert capsys.readouterr().out == shown
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"vfiocert {__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_loads_and_has_help(capsys, name):
    assert load(name) is not None
    assert main([name, "--help"]) == 0
    assert f"Usage: vfiocert {name}" in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_of_every_command_says_what_it_does(name):
    def options(command: Any, trail: str) -> list[str]:
        mine = [
            f"{trail} {p.opts[0]}"
            for p in command.params
            if not getattr(p, "hidden", False) and not (getattr(p, "help", None) or "").strip()
        ]
        return mine + [
            o for n, c in getattr(command, "commands", {}).items() for o in options(c, f"{trail} {n}")
        ]

    assert options(load(name), name) == []


def child(code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
    )


def test_help_imports_no_command_and_no_heavy_library():
    code = (
        "import sys; from harness.__main__ import main; main(['--help']);"
        "print([m for m in sys.modules if m.startswith('harness.commands.')"
        " or m.split('.')[0] in {'pydantic', 'paramiko', 'pytest', 'hypothesis', 'jinja2', 'rich'}])"
    )
    assert child(code).stdout.splitlines()[-1] == "[]"


def test_output_that_nobody_reads_is_quiet():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "harness", "clauses"],
        cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
    )  # fmt: skip
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_termination_goes_through_clean_up():
    code = (
        "import os, signal, sys, types\n"
        "from harness.__main__ import main\n"
        "from harness.commands import COMMANDS, Entry\n"
        "module = sys.modules['probe'] = types.ModuleType('probe')\n"
        "def probe() -> None:\n"
        "    try:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "        signal.pause()\n"
        "    finally:\n"
        "        print('undone')\n"
        "module.probe = probe\n"
        "COMMANDS['probe'] = Entry('probe:probe', '')\n"
        "sys.exit(main(['probe']))\n"
    )
    done = child(code)
    assert (done.returncode, done.stdout, done.stderr) == (143, "undone\n", "")
