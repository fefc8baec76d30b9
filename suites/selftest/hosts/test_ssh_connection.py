# SPDX-License-Identifier: Apache-2.0
"""harness/hosts/ssh.py with a real SSH server in this process: what works, and the message on failure."""

from __future__ import annotations

import re
import socket
import subprocess
from pathlib import Path

import paramiko
import pytest

from harness.errors import LabError
from harness.hosts.inventory import HostSpec
from harness.hosts.ssh import SshHost, fingerprint
from suites.selftest.hosts.loopback_sshd import make_key, running_sshd

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def sshd(tmp_path):
    with running_sshd(tmp_path / "server") as server:
        yield server


def refusal(spec, **arguments) -> str:
    with pytest.raises(LabError) as caught:
        SshHost(deadline_s=5).connect(spec, **arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert not message.endswith(".")
    return message


def test_exec_gives_status_and_both_outputs(sshd):
    with SshHost().connect(sshd.spec()) as connection:
        assert connection.exec("echo out; echo err >&2; exit 7", 10) == (7, b"out\n", b"err\n")
        assert connection.alive


def test_exec_gives_all_of_a_large_output(sshd):
    with SshHost().connect(sshd.spec()) as connection:
        status, out, err = connection.exec("head -c 3000000 /dev/zero; head -c 200000 /dev/zero >&2", 30)
    assert (status, len(out), len(err)) == (0, 3_000_000, 200_000)


def test_exec_stops_at_its_deadline(sshd):
    with SshHost().connect(sshd.spec()) as connection:
        with pytest.raises(LabError, match=r"'sleep 30' was not done within 0.3 s"):
            connection.exec("sleep 30", 0.3)
        assert connection.exec("true", 10)[0] == 0


def test_exec_stops_at_its_size_limit(sshd):
    with (
        SshHost().connect(sshd.spec()) as connection,
        pytest.raises(LabError, match="wrote more than 1000 bytes"),
    ):
        connection.exec("head -c 100000 /dev/zero", 10, limit_bytes=1000)


def test_transport_carries_bytes_both_ways(sshd):
    payload = bytes(range(256)) * 3000
    with SshHost().connect(sshd.spec()) as connection:
        transport = connection.transport("cat; echo done >&2; exit 5")
        transport.send(payload)
        assert transport.recv_exact(1, 10) == payload[:1]
        assert transport.recv_exact(len(payload) - 1, 20) == payload[1:]
        transport.close()


def test_transport_keeps_what_came_before_a_deadline(sshd):
    with SshHost().connect(sshd.spec()) as connection:
        transport = connection.transport("printf abc; exec cat")
        with pytest.raises(TimeoutError, match="no answer within"):
            transport.recv_exact(5, 1)
        transport.send(b"de")
        assert transport.recv_exact(5, 10) == b"abcde"
        transport.close()


def test_transport_says_that_and_how_the_command_ended(sshd):
    with SshHost().connect(sshd.spec()) as connection:
        transport = connection.transport("echo broken >&2; exit 3")
        assert transport.recv_exact(4, 10) == b""
        assert transport.exit_status(10) == 3
        assert transport.stderr_tail() == "broken\n"


def test_transport_keeps_the_tail_of_standard_error(sshd):
    with SshHost().connect(sshd.spec()) as connection:
        transport = connection.transport("head -c 300000 /dev/zero | tr '\\0' x >&2; echo end >&2; echo ok")
        assert transport.recv_exact(3, 20) == b"ok\n"
        assert transport.exit_status(10) == 0
        tail = transport.stderr_tail()
    assert len(tail) == 65536
    assert tail.endswith("xend\n")


def test_connection_notices_that_the_server_went_away(sshd):
    with SshHost().connect(sshd.spec()) as connection:
        transport = connection.transport("exec cat")
        sshd.stop()
        assert transport.recv_exact(1, 20) == b""
        with pytest.raises(LabError, match="the connection broke"):
            transport.send(b"x")
        with pytest.raises(LabError, match="the connection broke"):
            connection.exec("true", 5)
        assert not connection.alive


def test_nagle_is_off(sshd, monkeypatch):
    options = []
    original = socket.socket.setsockopt

    def record(self, *arguments):
        options.append(arguments[:2])
        return original(self, *arguments)

    monkeypatch.setattr(socket.socket, "setsockopt", record)
    SshHost().connect(sshd.spec()).close()
    assert (socket.IPPROTO_TCP, socket.TCP_NODELAY) in options


def test_jump_host_carries_the_connection(sshd, tmp_path):
    with running_sshd(tmp_path / "jump") as jump:
        spec = sshd.spec(
            jump=jump.spec().model_dump(include={"address", "port", "user", "key", "known_hosts"})
        )
        with SshHost().connect(spec) as connection:
            assert connection.exec("echo through", 10) == (0, b"through\n", b"")
        assert jump.forwarded == [("127.0.0.1", sshd.port)]


def test_jump_host_that_cannot_reach_the_host_says_so(tmp_path):
    with running_sshd(tmp_path / "jump") as jump:
        message = refusal(jump.spec(port=closed_port()), jumps=[jump.spec()])
    assert "is unreachable from jump host" in message


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def test_unreachable_host_is_a_lab_error(sshd):
    message = refusal(sshd.spec(port=closed_port()), name="rack7.node1")
    assert re.match(
        r"rack7\.node1 \(127\.0\.0\.1:\d+\) is unreachable \(connection refused\); check ", message
    )


def test_silent_server_is_unreachable_within_the_deadline(sshd):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        message = refusal(sshd.spec(port=listener.getsockname()[1]))
    assert "is unreachable" in message


def test_unknown_host_key_shows_fingerprint_and_the_command(sshd):
    sshd.known_hosts.unlink()
    message = refusal(sshd.spec())
    assert f"ssh-ed25519 {fingerprint(sshd.host_key)} is unknown" in message
    command = message.split("run: ")[1]
    subprocess.run(["/bin/sh", "-c", command], check=True)
    SshHost().connect(sshd.spec()).close()


def test_changed_host_key_shows_both_fingerprints(sshd, tmp_path):
    other = make_key(tmp_path / "other")
    sshd.pin(other)
    message = refusal(sshd.spec())
    assert f"is now {fingerprint(sshd.host_key)}" in message
    assert f"has {fingerprint(other)}" in message
    assert f"ssh-keygen -R '[127.0.0.1]:{sshd.port}' -f '{sshd.known_hosts}'" in message


def test_host_key_is_verified_before_the_user_key_is_shown(sshd, tmp_path, monkeypatch):
    asked = []

    def record(self, username, key):
        asked.append(username)
        return paramiko.common.AUTH_FAILED

    monkeypatch.setattr("suites.selftest.hosts.loopback_sshd._Server.check_auth_publickey", record)
    sshd.pin(make_key(tmp_path / "other"))
    refusal(sshd.spec())
    assert asked == []


def test_fingerprint_is_what_ssh_keygen_prints(sshd):
    line = f"{sshd.host_key.get_name()} {sshd.host_key.get_base64()}\n"
    printed = subprocess.run(
        ["ssh-keygen", "-lf", "-"], input=line, capture_output=True, text=True, check=True
    )
    assert fingerprint(sshd.host_key) in printed.stdout


def test_refused_key_names_user_key_and_the_command(sshd, tmp_path):
    make_key(tmp_path / "stranger")
    message = refusal(sshd.spec(key=str(tmp_path / "stranger")))
    assert f"refused key '{tmp_path / 'stranger'}' for user 'root'" in message
    assert f"ssh-copy-id -i {tmp_path / 'stranger'}.pub -p {sshd.port} root@127.0.0.1" in message


def test_missing_key_file_is_named(sshd, tmp_path):
    assert "nowhere' cannot be read (no such file" in refusal(sshd.spec(key=str(tmp_path / "nowhere")))


def test_key_with_passphrase_points_to_the_agent(sshd, tmp_path):
    make_key(tmp_path / "locked", b"a passphrase")
    assert "has a passphrase; run: ssh-add" in refusal(sshd.spec(key=str(tmp_path / "locked")))


def test_key_file_that_is_no_key_is_named(sshd, tmp_path):
    (tmp_path / "junk").write_text("not a key\n")
    assert "is not a private key that can be read" in refusal(sshd.spec(key=str(tmp_path / "junk")))


def test_unset_key_variable_is_named(sshd, monkeypatch):
    monkeypatch.delenv("VFIOCERT_TEST_KEY", raising=False)
    assert "key='env:VFIOCERT_TEST_KEY': the variable is not set" in refusal(
        sshd.spec(key="env:VFIOCERT_TEST_KEY")
    )


@pytest.mark.parametrize("as_text", [True, False], ids=["text", "path"])
def test_key_comes_from_a_variable(sshd, monkeypatch, as_text):
    file = sshd.folder / "user_key"
    monkeypatch.setenv("VFIOCERT_TEST_KEY", file.read_text() if as_text else str(file))
    SshHost().connect(sshd.spec(key="env:VFIOCERT_TEST_KEY")).close()


def test_no_secret_is_in_a_message_or_a_log(sshd, tmp_path, monkeypatch, caplog):
    make_key(tmp_path / "stranger")
    text = (tmp_path / "stranger").read_text()
    monkeypatch.setenv("VFIOCERT_TEST_KEY", text)
    with caplog.at_level("DEBUG"):
        message = refusal(sshd.spec(key="env:VFIOCERT_TEST_KEY"))
    for line in text.splitlines()[1:-1]:
        assert line not in message
        assert line not in caplog.text


def test_host_without_key_uses_the_agent_only(sshd, monkeypatch):
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    spec = HostSpec.model_validate(sshd.spec().model_dump(exclude={"key"}))
    assert "no key to offer: the SSH agent has none; run ssh-add KEY" in refusal(spec)


def test_known_hosts_that_is_a_folder_is_named(sshd, tmp_path: Path):
    assert "cannot be read" in refusal(sshd.spec(known_hosts=str(tmp_path)))
