# SPDX-License-Identifier: Apache-2.0
"""Channels that end, stall, or carry other data: the client gives one line of the right error class."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from harness.errors import HarnessError, LabError, UsageError
from harness.hosts.client import (
    BOOT,
    AgentTimeout,
    Bundle,
    boot_command,
    bundle,
    start_agent,
    start_local_agent,
)

pytestmark = pytest.mark.timeout(60)


class Canned:
    """A transport that sends `data`, then ends or stalls."""

    def __init__(self, data, status=None, stderr="", stalls=False):
        self.data, self.status, self.stderr, self.stalls = data, status, stderr, stalls
        self.sent = b""

    def send(self, data):
        self.sent += data

    def recv_exact(self, count, deadline_s):
        if self.stalls and len(self.data) < count:
            raise TimeoutError
        got, self.data = self.data[:count], self.data[count:]
        return got

    def close(self):
        self.stalls = False

    def stderr_tail(self):
        return self.stderr

    def exit_status(self):
        return self.status


def frame(value):
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return struct.pack(">I", len(body)) + body


def hello(**changes):
    return frame({"hello": {"protocol": 1, "hash": bundle().sha256} | changes})


def error_of(data, kind, **more):
    with pytest.raises(kind) as caught:
        start_agent(Canned(data, **more), name="node1", deadline_s=1)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith("node1: ")
    return text


def test_a_login_banner_in_the_channel_is_shown():
    text = error_of(b"Welcome to node1!\n\x1b[1m" + b"x" * 200, HarnessError)
    assert "garbled: it begins with 'Welcome to node1!\\n\\x1b[1m" in text
    assert "login script" in text


def test_an_agent_that_dies_is_a_lab_error_with_status_and_last_words():
    text = error_of(b"", LabError, status=127, stderr="a\nsh: python3: not found\n")
    assert "exited with status 127 before the agent's hello" in text
    assert "sh: python3: not found" in text


@pytest.mark.parametrize("cut", [1, 3, 4, 10])
def test_a_truncated_frame_is_a_lab_error_that_shows_what_came(cut):
    text = error_of(hello()[:cut], LabError)
    assert f"after {cut} bytes: '\\x00" in text


def test_a_frame_that_is_no_json_is_shown():
    assert "is garbled: '\\xff{' is not JSON" in error_of(frame(b"\xff{"), HarnessError)


def test_silence_is_a_timeout():
    assert "did not come within 1 s" in error_of(b"", AgentTimeout, stalls=True)


@pytest.mark.parametrize("first", [b"[]", b"{}", b'{"hello": 1}', b"null"])
def test_a_first_frame_without_hello_is_refused(first):
    assert "is not a hello" in error_of(frame(first), HarnessError)


@pytest.mark.parametrize("changes", [{"protocol": 2}, {"hash": "0" * 64}, {"protocol": None}])
def test_another_protocol_or_bundle_is_refused(changes):
    assert f"wanted 1 as {bundle().sha256}" in error_of(hello(**changes), HarnessError)


def test_after_a_broken_answer_the_agent_is_not_asked_again():
    agent = start_agent(Canned(hello() + frame({"id": 7, "result": {}})), name="node1")
    with pytest.raises(HarnessError, match="not an answer to request 1"):
        agent.call("host_info")
    with pytest.raises(LabError, match="node1: not usable since"):
        agent.call("host_info")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("lab", LabError), ("usage", UsageError), ("agent", HarnessError), (None, HarnessError)],
)
def test_an_error_answer_says_whose_fault_it_is(kind, expected):
    answer = {"id": 1, "error": {"kind": kind, "message": "no such thing", "detail": {}}}
    agent = start_agent(Canned(hello() + frame(answer)), name="node1")
    with pytest.raises(expected, match="node1: provision: no such thing"):
        agent.call("provision", device={})


@pytest.mark.parametrize("result", [[], {"trace": 1}, {"trace": [1]}, {"trace": [], "hung": 1}])
def test_a_result_that_is_no_trace_is_a_harness_error(result):
    agent = start_agent(Canned(hello() + frame({"id": 1, "result": result})))
    with pytest.raises(HarnessError, match="run: "):
        agent.run({"threads": []})


def test_the_boot_line_is_one_line_a_shell_can_quote():
    assert "\n" not in BOOT
    assert "'" not in BOOT
    assert boot_command("python3.9", sudo=True).startswith("sudo -n python3.9 -ISc '")


def boot(data):
    return subprocess.run(
        [sys.executable, "-c", BOOT], input=data, capture_output=True, timeout=30, check=False
    )


def test_a_damaged_bundle_does_not_start():
    good = bundle()
    damaged = Bundle(good.data[:-1] + b"\0", good.sha256)
    done = boot(damaged.start_bytes)
    assert done.returncode == 1
    assert done.stderr.decode().startswith("vfiocert agent: the bundle arrived damaged")
    assert boot(b"").stderr.decode() == "vfiocert agent: the controller hung up before it sent the agent\n"


def test_an_old_python_says_so_in_one_line():
    """Runs under whatever older Python there is; the check must come before anything it cannot parse."""
    versions = Path.home() / ".pyenv" / "versions"
    olds = [p for v in ("2.7", "3.6", "3.7") for p in versions.glob(f"{v}.*/bin/python")]
    if not olds:
        pytest.skip("no Python older than 3.8 on this machine")
    for python in olds:
        done = subprocess.run(
            [str(python), "-c", BOOT], stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False
        )
        assert done.returncode == 1
        (line,) = done.stderr.decode().splitlines()
        assert line.startswith("vfiocert agent: python3 here is ")
        assert line.endswith("and 3.8 or newer is needed")


def test_the_bundle_holds_the_agent_and_nothing_of_the_controller():
    import zlib

    modules = json.loads(zlib.decompress(bundle().data))
    assert all(
        name in ("", "harness") or name.startswith(("harness.agent", "harness.uapi")) for name in modules
    )
    assert {"harness.agent.main", "harness.agent.loader", "harness.uapi.vfio"} <= modules.keys()
    assert bundle() is bundle()


@pytest.fixture
def local(tmp_path):
    with start_local_agent(run_dir=str(tmp_path)) as agent:
        yield agent


@pytest.mark.parametrize(
    "body", [b"", b"nonsense", b"[]", b'{"id": 1}', b'{"id": 1, "method": "run", "params": []}',
    b"[" * 100000,
             b'{"id": 1, "method": ["run"]}', b'{"id": {}, "method": "run", "params": {"program": 1}}',
             b"\xff\xfe"]
)  # fmt: skip
def test_the_agent_outlives_any_request(local, body):
    local.transport.send(frame(body))
    (length,) = struct.unpack(">I", local.transport.recv_exact(4, 10))
    answer = json.loads(local.transport.recv_exact(length, 10))
    assert answer["error"]["kind"] == "usage"
    assert local.call("host_info")["uid"] >= 0


def test_a_frame_too_large_is_answered_and_ends_the_agent(local):
    local.transport.send(b"\xff\xff\xff\xff")
    (length,) = struct.unpack(">I", local.transport.recv_exact(4, 10))
    assert "frame length 4294967295" in json.loads(local.transport.recv_exact(length, 10))["error"]["message"]
    with pytest.raises(LabError, match=r"exited with status 0|cannot send"):
        local.call("host_info")


def test_wrong_methods_and_parameters_name_the_valid_ones(local):
    with pytest.raises(UsageError, match="'nope' is not a method; valid are describe_device"):
        local.call("nope")
    with pytest.raises(UsageError, match="takes no 'x'; valid are keys, holder"):
        local.call("lease", x=1)
    with pytest.raises(UsageError, match="lease needs holder"):
        local.call("lease", keys=[])
    with pytest.raises(UsageError, match="keys=1 is not of type list"):
        local.call("lease", keys=1, holder="me")


def test_nothing_an_operation_prints_reaches_the_channel(local):
    trace = local.run({"threads": [{"name": "m", "ops": [
        ["open", {"path": "/proc/self/fd/1", "flags": ["O_WRONLY"], "out": "o"}],
        ["write", {"fd": "o", "hex": b"noise\n".hex()}],
    ]}]}).trace  # fmt: skip
    assert [r["errno"] for r in trace] == [0, 0]
    assert "noise" in local.transport.stderr_tail()
    assert local.call("host_info")["uid"] >= 0
