# SPDX-License-Identifier: Apache-2.0
"""The keeper of a lab, with a shell in place of QEMU: it ends a lab that is no longer used."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
import time
from pathlib import Path

import pytest

from harness.errors import LabError
from harness.lab.instance import Instance, free_port
from harness.lab.keeper import connected, owned, start_time

# A QEMU as far as the keeper and `start` care: a control socket that greets, a console, and it stays.
FAKE = (
    "import os,socket,sys,time\n"
    "s=socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen()\n"
    "sys.stdout.write('console line\\n'*int(sys.argv[2])); sys.stdout.flush()\n"
    "while True:\n"
    "    c,_=s.accept(); c.sendall(b'{\"QMP\": {}}\\n'); c.recv(4096); c.sendall(b'{\"return\": {}}\\n')\n"
)


@pytest.fixture
def instance():
    folder = Path(tempfile.mkdtemp(prefix="v"))  # short, for the sake of the unix socket
    made = Instance(folder)
    yield made
    made.stop()
    shutil.rmtree(folder, ignore_errors=True)


def begin(instance, *, idle_limit_s=600.0, lines=1):
    argv = ["/usr/bin/python3", "-c", FAKE, str(instance.folder / "qmp"), str(lines)]
    return instance.start(lambda port: argv, port=None, idle_limit_s=idle_limit_s)


def wait_until(condition):
    deadline = time.monotonic() + 30
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def test_stop_ends_both(instance):
    begin(instance)
    assert instance.alive()
    pids = [instance.qemu_pid(), instance.keeper_pid()]
    instance.stop()
    assert [start_time(pid) for pid in pids] == [0, 0]
    assert instance.folder.is_dir()


def test_qemu_dies_with_a_killed_keeper(instance):
    begin(instance)
    pid = instance.qemu_pid()
    os.kill(instance.keeper_pid(), signal.SIGKILL)
    assert wait_until(lambda: start_time(pid) == 0)


def test_unwanted_lab_goes_with_its_folder(instance):
    begin(instance, idle_limit_s=0.5)
    pid = instance.qemu_pid()
    assert wait_until(lambda: start_time(pid) == 0 and not instance.folder.exists())


def test_living_owner_keeps_the_lab(instance):
    (instance.folder / "owners").mkdir()
    owner = instance.folder / "owners" / f"{os.getpid()}.{start_time(os.getpid())}"
    owner.touch()
    begin(instance, idle_limit_s=0.5)
    time.sleep(3.5)  # longer than the limit and a check of it
    assert instance.alive()
    owner.unlink()
    assert wait_until(lambda: not instance.folder.exists())


def test_owner_is_known_by_its_start_time_too(tmp_path):
    (tmp_path / "owners").mkdir()
    (tmp_path / "owners" / f"{os.getpid()}.1").touch()
    (tmp_path / "owners" / "rubbish").touch()
    (tmp_path / "owners" / "999999999.0").touch()
    assert not owned(tmp_path)
    (tmp_path / "owners" / f"{os.getpid()}.{start_time(os.getpid())}").touch()
    assert owned(tmp_path)


def test_open_connection_counts_as_use():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not connected(port)
        with socket.create_connection(("127.0.0.1", port)):
            assert connected(port)


def test_console_is_kept_bounded(instance):
    begin(instance, lines=200_000)
    assert wait_until(lambda: (instance.folder / "console.log.1").exists())
    assert wait_until(lambda: "console line" in instance.console_tail())
    instance.stop()
    total = sum((instance.folder / name).stat().st_size for name in ("console.log", "console.log.1"))
    assert 0 < total <= 2 << 19


def test_qemu_that_ends_at_once_is_shown_with_its_words(instance):
    argv = ["/bin/sh", "-c", "echo no such machine >&2; exit 1"]
    with pytest.raises(LabError, match="no such machine"):
        instance.start(lambda port: argv, port=None, idle_limit_s=60)


def test_port_taken_meanwhile_is_replaced(instance):
    seen = []

    def argv(port):
        seen.append(port)
        if len(seen) == 1:
            return ["/bin/sh", "-c", "echo 'Could not set up host forwarding rule' >&2; exit 1"]
        return ["/usr/bin/python3", "-c", FAKE, str(instance.folder / "qmp"), "1"]

    port = instance.start(argv, port=None, idle_limit_s=60)
    assert len(seen) == 2
    assert port == seen[1]


def test_ended_process_has_no_start_time():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    assert wait_until(lambda: start_time(pid) == 0)
    os.waitpid(pid, 0)


def test_free_port_can_be_bound():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", free_port()))
