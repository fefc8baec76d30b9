# SPDX-License-Identifier: Apache-2.0
"""The launcher in a folder of its own, with a stand-in for Python and apt-get: nothing is downloaded."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = re.split(
    r"\s+", "sh cat chmod cmp cp cut dirname env flock head id ln mkdir mv readlink rm sha256sum sleep touch"
)

# Plays the machine's Python (asked for its version and for venv) and the one of the environment it makes.
PYTHON = """#!/bin/sh
echo "$*" | head -n 1 >>"$LOG"
case "$*" in
*version_info\\ \\<*) [ "${FAKE_OLD:-}" ] && exit 1; echo "$0"; exit 0 ;;
*version_info*) echo 3.11; exit 0 ;;
*ensurepip*) [ -e "$BIN/has-ensurepip" ]; exit ;;
"-m venv "*) [ -z "${FAKE_SLOW:-}" ] || sleep 1; mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; exit 0 ;;
"-m pip "*) [ -z "${FAKE_PIP_FAILS:-}" ]; exit ;;
"-P -m harness"*) shift 3; echo "ran in $PWD with $PYTHONPATH by $0:$*"; exit "${FAKE_STATUS:-0}" ;;
esac
"""

# Brings a package by making a command of its name, once it was told to update.
APT_GET = """#!/bin/sh
echo "apt-get $*" >>"$LOG"
case "$*" in
*update*) touch "$BIN/.updated" ;;
*install*)
    [ -e "$BIN/.updated" ] || exit 100
    for last; do :; done
    [ "$last" = python3.11-venv ] && touch "$BIN/has-ensurepip"
    case $last in *-pkg) echo '#!/bin/sh' >"$BIN/${last%-pkg}"; chmod +x "$BIN/${last%-pkg}" ;; esac
    exit 0 ;;
esac
"""


@dataclass
class Clone:
    """A project folder with the launcher in it, and a PATH that holds only what a test puts there."""

    home: Path
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def root(self) -> Path:
        return self.home / "clone with a space"

    @property
    def bin(self) -> Path:
        return self.home / "bin"

    def put(self, name: str, text: str) -> None:
        path = self.bin / name
        # Replaced, never written through: it may be a symlink to the system's own tool.
        path.unlink(missing_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def start(self, *arguments: str, **more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(self.root / "vfiocert"), *arguments],
            cwd=self.home,
            env={**self.environment, **more},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, **more: str) -> tuple[int, str, str]:
        process = self.start(*arguments, **more)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def asked(self, what: str) -> int:
        """How often a line with `what` was asked of the stand-ins."""
        log = self.home / "log"
        return sum(what in line for line in log.read_text().splitlines()) if log.exists() else 0


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    made = Clone(tmp_path)
    (made.root / "harness" / "lab").mkdir(parents=True)
    made.bin.mkdir()
    shutil.copy(ROOT / "vfiocert", made.root)
    (made.root / "requirements.lock").write_text("x==1\n")
    (made.root / "harness" / "lab" / "packages.txt").write_text(
        "# what, package\nsh dash\n/usr/*/env  coreutils\n"
    )
    for tool in TOOLS:
        (made.bin / tool).symlink_to(shutil.which(tool) or "/bin/false")
    made.put("python3", PYTHON)
    made.put("has-ensurepip", "")
    made.environment = {"PATH": str(made.bin), "BIN": str(made.bin), "LOG": str(tmp_path / "log")}
    return made


def test_first_start_makes_the_environment_and_runs(clone):
    status, out, err = clone.run("clauses", "two words", FAKE_STATUS="3")
    assert status == 3
    assert f"ran in {clone.home} with {clone.root} by {clone.root}/.venvs/" in out
    assert out.rstrip().endswith(":clauses two words")
    assert "making .venv" in err
    assert (clone.root / ".venv" / "bin" / "python").is_file()
    assert clone.asked("--require-hashes") == 1


def test_second_start_makes_nothing_and_says_nothing(clone):
    clone.run("clauses")
    before = clone.asked("")
    status, _, err = clone.run("clauses")
    assert (status, err) == (0, "")
    assert clone.asked("") == before + 1


def test_a_start_through_a_symlink_finds_the_project(clone):
    (clone.bin / "vfiocert").symlink_to(clone.root / "vfiocert")
    out = subprocess.run(
        ["vfiocert", "x"], env=clone.environment, capture_output=True, text=True, timeout=60
    ).stdout
    assert f"with {clone.root} by" in out


def test_a_changed_lock_makes_it_again_and_keeps_the_one_in_use(clone):
    clone.run("clauses")
    first = os.readlink(clone.root / ".venv")
    (clone.root / "requirements.lock").write_text("x==2\n")
    clone.run("clauses")
    second = os.readlink(clone.root / ".venv")
    assert first != second
    assert (clone.root / first).is_dir(), "a run under way still uses it"
    (clone.root / "requirements.lock").write_text("x==3\n")
    clone.run("clauses")
    assert not (clone.root / first).exists(), "nobody is left who could use the oldest"
    assert clone.asked("--require-hashes") == 3


def test_a_failed_install_leaves_nothing_that_looks_complete(clone):
    status, out, err = clone.run("clauses", FAKE_PIP_FAILS="1")
    assert (status, out) == (3, "")
    assert "could not install requirements.lock" in err
    assert not (clone.root / ".venv").exists()
    assert clone.run("clauses")[0] == 0


def test_two_starts_at_once_make_it_once(clone):
    starts = [clone.start("clauses", FAKE_SLOW="1") for _ in range(3)]
    ends = [(p.communicate(timeout=60)[0], p.returncode) for p in starts]
    assert all(status == 0 and "ran in" in out for out, status in ends)
    assert clone.asked("-m venv") == 1


def test_an_environment_made_by_hand_is_moved_aside(clone):
    (clone.root / ".venv").mkdir()
    (clone.root / ".venv" / "mine").write_text("kept")
    status, _, err = clone.run("clauses")
    assert status == 0
    assert "moved to" in err
    assert [p.read_text() for p in (clone.root / ".venvs").glob("replaced.*/mine")] == ["kept"]


def test_an_old_python_is_refused(clone):
    status, out, err = clone.run("clauses", FAKE_OLD="1", VFIOCERT_PYTHON=str(clone.bin / "python3"))
    assert (status, out) == (3, "")
    assert "is not a Python of 3.11 or newer" in err


def test_a_python_without_ensurepip_gets_debians_package(clone):
    (clone.bin / "has-ensurepip").unlink()
    clone.put("apt-get", APT_GET)
    clone.put("id", "#!/bin/sh\necho 0\n")
    assert clone.run("clauses")[0] == 0
    assert clone.asked("python3.11-venv") >= 1


def needs(clone: Clone, *lines: str) -> None:
    (clone.root / "harness" / "lab" / "packages.txt").write_text("\n".join(lines) + "\n")


def test_missing_packages_without_root_print_the_command_and_stop(clone):
    needs(clone, "flexi flexi-pkg", "bisoni bisoni-pkg", "/no/such/*.h flexi-pkg")
    clone.put("apt-get", APT_GET)
    clone.put("id", "#!/bin/sh\necho 1000\n")
    status, out, err = clone.run("certify")
    assert (status, out) == (3, "")
    assert "needs flexi, bisoni, /no/such/*.h" in err
    assert "sudo apt-get install -y --no-install-recommends flexi-pkg bisoni-pkg\n" in err
    assert clone.asked("apt-get") == 0


def test_missing_packages_without_apt_name_them(clone):
    needs(clone, "flexi flexi-pkg")
    status, _, err = clone.run("certify")
    assert status == 3
    assert "flexi-pkg (Debian's names)" in err


def test_missing_packages_are_installed_by_root_after_an_update(clone):
    needs(clone, "flexi flexi-pkg")
    clone.put("apt-get", APT_GET)
    clone.put("id", "#!/bin/sh\necho 0\n")
    status, out, _ = clone.run("certify")
    assert status == 0
    assert "ran in" in out
    assert clone.asked("update") == 1
    assert clone.asked("install -y") == 2
    clone.run("certify")
    assert clone.asked("install -y") == 2, "the second start finds it in place"


def test_missing_packages_are_installed_by_sudo_without_a_password(clone):
    needs(clone, "flexi flexi-pkg")
    clone.put("apt-get", APT_GET)
    clone.put("id", "#!/bin/sh\necho 1000\n")
    clone.put("true", "#!/bin/sh\n")
    clone.put("sudo", '#!/bin/sh\necho "sudo $*" >>"$LOG"\nshift\nexec "$@"\n')
    assert clone.run("certify")[0] == 0
    assert clone.asked("sudo -n env DEBIAN_FRONTEND=noninteractive apt-get") == 3


def test_an_install_that_brings_nothing_stops(clone):
    needs(clone, "flexi other")
    clone.put("apt-get", APT_GET)
    clone.put("id", "#!/bin/sh\necho 0\n")
    status, out, err = clone.run("certify")
    assert (status, out) == (3, "")
    assert "still missing: flexi" in err


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ("certify", True),
        ("certify --budget 1m", True),
        ("certify --lab embedded", True),
        ("certify --lab=embedded", True),
        ("certify --lab rack7", False),
        ("certify --lab=rack7", False),
        ("certify --help", False),
        ("check", True),
        ("check --fast", False),
        ("check --only ruff", False),
        ("check --only lab", True),
        ("lab up", True),
        ("lab down", False),
        ("lab status", False),
        ("bench", True),
        ("replay finding.json", True),
        ("replay --lab rack7 finding.json", False),
        ("clauses", False),
        ("devices --lab rack7", False),
        ("report certify", False),
        ("", False),
        ("--help", False),
    ],
)
def test_packages_are_asked_for_only_where_the_embedded_lab_is_used(clone, arguments, wanted):
    needs(clone, "flexi flexi-pkg")
    status, _, err = clone.run(*arguments.split())
    assert status == (3 if wanted else 0)
    assert ("the embedded lab needs flexi" in err) is wanted


def test_a_lab_named_by_the_environment_counts(clone):
    needs(clone, "flexi flexi-pkg")
    assert clone.run("certify", VFIOCERT_CERTIFY_LAB="rack7")[0] == 0
    assert clone.run("certify", "--lab", "embedded", VFIOCERT_CERTIFY_LAB="rack7")[0] == 3


@pytest.mark.skipif(shutil.which("dash") is None, reason="no dash on this machine")
def test_the_launcher_is_plain_sh():
    for shell in ("dash", "bash"):
        if shutil.which(shell):
            subprocess.run([shell, "-n", str(ROOT / "vfiocert")], check=True, timeout=30)
    assert os.access(ROOT / "vfiocert", os.X_OK)
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
