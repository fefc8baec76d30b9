# SPDX-License-Identifier: Apache-2.0
"""harness/hosts/host.py: what a host must have, the message when it lacks it, and reconnecting."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

import harness.hosts.host
from harness.errors import LabError, UsageError
from harness.hosts.host import Host, holder_name
from suites.selftest.hosts.loopback_sshd import running_sshd

pytestmark = pytest.mark.timeout(60)

HEALTHY = {"kernel": "7.2.12", "boot_id": "b1", "has_vfio": True, "has_iommufd": True}


@dataclasses.dataclass
class FakeAgent:
    hello: dict
    info: dict
    closed: bool = False

    def call(self, method, **params):
        assert method == "host_info"
        return self.info

    def close(self):
        self.closed = True


@pytest.fixture
def sshd(tmp_path):
    with running_sshd(tmp_path / "server") as server:
        yield server


@pytest.fixture
def agents(monkeypatch):
    """Agents to start, in order; the last one is used again and again."""
    waiting = [FakeAgent({"uid": 0, "kernel": "7.2.12", "boot_id": "b1"}, dict(HEALTHY))]

    def start(transport, *, name, deadline_s):
        agent = waiting.pop(0) if len(waiting) > 1 else waiting[0]
        if isinstance(agent, Exception):
            raise agent
        return agent

    monkeypatch.setattr(harness.hosts.host, "start_agent", start)
    return waiting


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def refusal(spec) -> str:
    with pytest.raises(LabError) as caught:
        Host.connect(spec, name="rack7.node1")
    message = str(caught.value)
    assert message.startswith("rack7.node1: ")
    assert "\n" not in message
    return message


def test_healthy_host_is_connected(sshd, agents):
    with Host.connect(sshd.spec()) as host:
        assert host.alive
        assert host.agent is agents[0]
        assert host.info.kernel == "7.2.12"
        assert host.exec("echo beside", 10) == (0, b"beside\n", b"")
    assert not host.alive
    with pytest.raises(LabError, match="not connected"):
        _ = host.agent


def test_host_without_python_says_so(sshd):
    assert "has no python3-that-is-not" in refusal(sshd.spec(python="python3-that-is-not"))


def test_python_that_cannot_be_run_says_so(sshd, tmp_path):
    (tmp_path / "python3").write_text("not a program")
    assert "install Python 3.8 or newer" in refusal(sshd.spec(python=str(tmp_path / "python3")))


def test_python_too_old_names_the_version(sshd, tmp_path):
    old = script(
        tmp_path / "python3",
        f"exec {sys.executable} -c 'import sys; sys.version_info=(3, 6, 9); exec(sys.argv[1])' \"$2\"",
    )
    message = refusal(sshd.spec(python=old))
    assert "python3 here is 3.6, and 3.8 or newer is needed; set `python` to a newer one" in message


def test_user_that_is_not_root_is_refused(sshd, agents):
    agents[0].hello["uid"] = 1000
    assert "user 'root' is not root; set user: root, or become: sudo" in refusal(sshd.spec())
    assert agents[0].closed


def test_sudo_that_wants_a_password_is_no_root(sshd, tmp_path, monkeypatch):
    script(tmp_path / "sudo", "echo 'sudo: a password is required' >&2; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    message = refusal(sshd.spec(become="sudo"))
    assert "is not root: sudo says 'sudo: a password is required'; allow `sudo -n`" in message


@pytest.mark.parametrize(
    "missing, text",
    [
        ("has_vfio", "kernel 7.2.12 has no VFIO: no verdict; boot one with CONFIG_VFIO"),
        ("has_iommufd", "kernel 7.2.12 has no iommufd: no verdict; boot one with CONFIG_IOMMUFD"),
    ],
)
def test_kernel_without_what_is_needed_gives_no_verdict(sshd, agents, missing, text):
    agents[0].info[missing] = False
    assert text in refusal(sshd.spec())
    assert agents[0].closed


def test_kernel_is_not_asked_where_nothing_is_required(sshd, agents):
    agents[0].info["has_iommufd"] = False
    with Host.connect(sshd.spec(), require_vfio=False) as host:
        assert not host.info.has_iommufd


@pytest.mark.parametrize("answer", [None, {}, {"has_vfio": 1, "has_iommufd": True}])
def test_answer_that_says_nothing_is_a_lab_error(sshd, agents, answer):
    agents[0].info = answer
    assert "does not say has_vfio and has_iommufd" in refusal(sshd.spec())


def test_reconnect_tells_a_reboot_from_a_broken_line(sshd, agents):
    agents.append(dataclasses.replace(agents[0]))
    agents.append(FakeAgent(agents[0].hello, {**HEALTHY, "boot_id": "b2"}))
    with Host.connect(sshd.spec()) as host:
        assert host.reconnect() is False
        assert host.reconnect() is True
        assert host.alive


def test_reconnect_keeps_trying_until_the_host_is_back(sshd, agents):
    agents += [LabError("still booting"), LabError("still booting"), dataclasses.replace(agents[0])]
    with Host.connect(sshd.spec()) as host:
        host.reconnect(deadline_s=30)
        assert host.alive


def test_reconnect_gives_up_at_its_deadline(sshd, agents):
    with Host.connect(sshd.spec(), name="rack7.node1") as host:
        sshd.stop()
        with pytest.raises(LabError, match=r"is unreachable .*; gave up after 0.2 s"):
            host.reconnect(deadline_s=0.2)
        assert not host.alive


def test_unresolved_jump_is_a_usage_error(sshd):
    with pytest.raises(UsageError, match="jump='bastion' is not resolved"):
        Host.connect(sshd.spec(jump="bastion"))


def test_holder_names_the_run_and_the_process():
    assert "run r7" in holder_name("r7")
    assert ", pid " in holder_name("r7")
