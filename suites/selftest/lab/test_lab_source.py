# SPDX-License-Identifier: Apache-2.0
"""Where the lab's kernel comes from: what `--kernel` may be, Debian's versions, the cache."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import pytest

from harness.errors import LabError, UsageError
from harness.lab.debian import choose_version, offered_versions, pick_mirror
from harness.lab.places import cache_dir, locked, made_once, run_dir
from harness.lab.source import Origin, obtain_source, parse_origin
from harness.lab.watched import watched
from harness.progress import NoProgress

QUIET = NoProgress()


def source_tree(place):
    place.mkdir(parents=True)
    (place / "Makefile").touch()
    (place / "Kconfig").touch()
    return place


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/vfiocert"


def test_origin_is_told_by_what_is_there(tmp_path):
    tree = source_tree(tmp_path / "src")
    assert parse_origin(str(tree)) == Origin("source", str(tree))
    (tree / "arch/x86/boot").mkdir(parents=True)
    (tree / "arch/x86/boot/bzImage").touch()
    (tree / ".config").touch()
    assert parse_origin(str(tree)) == Origin("built", str(tree))
    tarball = tmp_path / "linux.tar.xz"
    tarball.touch()
    assert parse_origin(str(tarball)) == Origin("tarball", str(tarball))
    assert parse_origin("6.12") == Origin("series", "6.12")
    assert parse_origin(None) == parse_origin("7.2")


@pytest.mark.parametrize("text", ["7", "7.2; rm", "seven", "/no/such/place", "7.2/../.."])
def test_unknown_origin_prints_the_allowed_ones(text):
    with pytest.raises(UsageError, match="a series of Debian's linux-source"):
        parse_origin(text)


def test_configured_but_unbuilt_tree_is_explained(tmp_path):
    tree = source_tree(tmp_path / "src")
    (tree / ".config").touch()
    with pytest.raises(UsageError, match="make bzImage modules"):
        parse_origin(str(tree))


def test_tarball_is_extracted_once(tmp_path, cache):
    tree = source_tree(tmp_path / "linux-9.9")
    with tarfile.open(tmp_path / "l.tar", "w") as tar:
        tar.add(tree, "linux-9.9")
    origin = parse_origin(str(tmp_path / "l.tar"))
    first = obtain_source(origin, QUIET)
    (first.tree / "mark").touch()
    assert obtain_source(origin, QUIET) == first
    assert (first.tree / "mark").exists()


def test_tarball_without_a_kernel_leaves_nothing_in_the_cache(tmp_path, cache):
    (tmp_path / "other").mkdir()
    with tarfile.open(tmp_path / "l.tar", "w") as tar:
        tar.add(tmp_path / "other", "other")
    with pytest.raises(UsageError, match="no Makefile and Kconfig"):
        obtain_source(parse_origin(str(tmp_path / "l.tar")), QUIET)
    assert [path for path in (cache / "source").iterdir() if path.is_dir()] == []


def test_changed_source_tree_is_another_version(tmp_path):
    tree = source_tree(tmp_path / "src")
    before = obtain_source(parse_origin(str(tree)), QUIET).version
    assert obtain_source(parse_origin(str(tree)), QUIET).version == before
    (tree / "Makefile").write_text("changed")
    assert obtain_source(parse_origin(str(tree)), QUIET).version != before


@pytest.mark.parametrize(
    ("series", "offered", "chosen"),
    [
        ("7.2", ["7.2.14-1", "7.2.12-1"], "7.2.12-1"),
        ("7.2", ["7.2.9-1", "7.2.14-1", "7.2.13-2"], "7.2.14-1"),
        ("7.2", ["7.2~rc3-1~exp1", "7.2.1-1"], "7.2.1-1"),
        ("6.12", ["6.12.48-1", "6.12.57-1~bpo12+1"], "6.12.57-1~bpo12+1"),
        ("7.2.9", ["7.2.9-1", "7.2.14-1", "7.2.9-2"], "7.2.9-2"),
    ],
)
def test_version_is_the_known_one_or_the_newest(series, offered, chosen):
    assert choose_version(series, offered) == chosen
    assert choose_version(series, offered[::-1]) == chosen


def test_version_not_on_offer_lists_the_offer():
    with pytest.raises(UsageError, match=r"on offer: 7\.25\.1-1"):
        choose_version("7.2", ["7.25.1-1"])


def test_madison_lines_are_read_and_rubbish_is_not():
    text = " linux-source-7.2 | 7.2.12-1 | http://m/debian sid/main amd64 Packages\n x | $(rm) | y\nrubbish\n"
    assert list(offered_versions(text)) == ["7.2.12-1"]


def test_mirror_is_the_machines_own_for_debian():
    lines = "http://m.example/debian-security/ bookworm-security\nhttp://m.example/debian/ bookworm\n"
    assert pick_mirror(lines) == "http://m.example/debian/"


@pytest.mark.parametrize(
    "lines", ["", "http://m.example/ubuntu/ jammy", "http://a b/debian bookworm", "$(x)/debian sid"]
)
def test_machine_without_debian_mirror_is_told_what_else_works(lines):
    with pytest.raises(UsageError, match="built tree"):
        pick_mirror(lines)


def test_cache_entry_is_made_once_and_not_half(tmp_path):
    final = tmp_path / "entry"

    def interrupted():
        with made_once(final, timeout_s=5, what="x", progress=QUIET) as part:
            assert part is not None
            (part / "file").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [path.name for path in tmp_path.iterdir()] == ["entry.lock"]
    with made_once(final, timeout_s=5, what="x", progress=QUIET) as part:
        assert part is not None
        (part / "file").touch()
    with made_once(final, timeout_s=5, what="x", progress=QUIET) as part:
        assert part is None
    assert (final / "file").exists()


def test_what_a_killed_run_left_is_removed(tmp_path):
    (tmp_path / ".entry.abc.part").mkdir()
    with made_once(tmp_path / "entry", timeout_s=5, what="x", progress=QUIET):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["entry", "entry.lock"]


def test_two_processes_make_one_entry(tmp_path):
    code = (
        "import sys,time; from pathlib import Path; from harness.lab.places import made_once;"
        "from harness.progress import NoProgress\n"
        "with made_once(Path(sys.argv[1]), timeout_s=60, what='x', progress=NoProgress()) as part:\n"
        "    if part is not None:\n        time.sleep(0.5); print('made')\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "entry")]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert sorted(run.communicate(timeout=60)[0] for run in runs) == ["", "", "made\n"]


def test_lock_held_too_long_names_what_waits(tmp_path):
    with (
        locked(tmp_path / "l", timeout_s=1, what="first"),
        pytest.raises(LabError, match=r"second.*held"),
        locked(tmp_path / "l", timeout_s=0.3, what="second"),
    ):
        pass


def test_removed_lock_file_does_not_let_two_in(tmp_path):
    """Steps: five processes add to a number under a lock that each removes.  Verify: no addition is lost."""
    (tmp_path / "number").write_text("0")
    code = (
        "import sys; from pathlib import Path; from harness.lab.places import locked\n"
        "folder = Path(sys.argv[1])\n"
        "for _ in range(40):\n"
        "    with locked(folder / 'l', timeout_s=60, what='x', remove=True):\n"
        "        number = int((folder / 'number').read_text())\n"
        "        (folder / 'number').write_text(str(number + 1))\n"
    )
    runs = [subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) for _ in range(5)]
    assert [run.wait(90) for run in runs] == [0] * 5
    assert (tmp_path / "number").read_text() == "200"
    assert not (tmp_path / "l").exists()


@pytest.fixture
def runtime(monkeypatch):
    """A runtime folder with a short path, for the sake of unix sockets."""
    with tempfile.TemporaryDirectory(prefix="v") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder)


def test_run_folder_is_private(runtime):
    assert run_dir() == runtime / "vfiocert"
    assert run_dir().stat().st_mode & 0o777 == 0o700


def test_run_folder_open_to_others_is_refused(runtime):
    run_dir().chmod(0o755)
    with pytest.raises(UsageError, match="not a private folder"):
        run_dir()


def test_run_folder_that_is_a_link_is_refused(runtime):
    (runtime / "real").mkdir(mode=0o700)
    (runtime / "vfiocert").symlink_to(runtime / "real")
    with pytest.raises(UsageError, match="not a private folder"):
        run_dir()


def test_run_folder_too_long_for_sockets_is_refused(tmp_path, monkeypatch):
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    with pytest.raises(UsageError, match="too long for a unix socket"):
        run_dir()


def test_unwritable_cache_names_the_variable(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(UsageError, match="XDG_CACHE_HOME"):
        cache_dir("x")


def test_failed_command_shows_its_last_lines_and_keeps_the_log(tmp_path):
    with pytest.raises(LabError, match=r"status 3.*the reason"):
        watched(["sh", "-c", "echo the reason; exit 3"], tmp_path / "log", 30, QUIET, lambda: None)
    assert (tmp_path / "log").read_text() == "the reason\n"


def test_command_past_its_deadline_is_killed_with_its_children(tmp_path):
    with pytest.raises(LabError, match="did not end within"):
        watched(["sh", "-c", f"sleep 300 & echo $! > {tmp_path}/pid; wait"], None, 1, QUIET, lambda: None)
    child = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/stat")
    deadline = time.monotonic() + 10
    while (
        child.exists()
        and child.read_text().rpartition(")")[2].split()[0] != "Z"
        and time.monotonic() < deadline
    ):
        time.sleep(0.05)
    assert not child.exists() or child.read_text().rpartition(")")[2].split()[0] == "Z"


def test_missing_program_is_an_error_of_the_user():
    with pytest.raises(UsageError, match=r"packages\.txt"):
        watched([f"no-such-program-{os.getpid()}"], None, 5, QUIET, lambda: None)
