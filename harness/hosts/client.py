# SPDX-License-Identifier: Apache-2.0
"""The controller's end of an agent: start it over a transport, send requests, report failures in one line."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import marshal
import os
import selectors
import shlex
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol

from harness import PROJECT
from harness.agent.wire import MAX_FRAME_BYTES
from harness.errors import HarnessError, LabError, UsageError
from harness.hosts.native import compiled_module

__all__ = [
    "BOOT",
    "Agent",
    "AgentTimeout",
    "Bundle",
    "RunResult",
    "Transport",
    "boot_command",
    "bundle",
    "start_agent",
    "start_local_agent",
]

PROTOCOL = 1

# Runs under any Python 3, and reports one that is too old; has no single quote, so that a shell can quote it.
BOOT = (
    "import sys;v=sys.version_info;"
    'v<(3,8) and sys.exit("vfiocert agent: python3 here is %d.%d, and 3.8 or newer is needed"%v[:2]);'
    "import io,json,zlib;f=io.BufferedReader(io.FileIO(0,closefd=False),1);"
    'l=f.readline(4096) or sys.exit("vfiocert agent: the controller hung up before it sent the agent");'
    'h=json.loads(l);b=f.read(h["bytes"]);'
    # hashlib loads OpenSSL, which is slow on some hosts; the modules under it may be built in.
    's=[n for n in ("_sha2","_sha256") if n in sys.builtin_module_names]+["hashlib"];'
    '__import__(s[0]).sha256(b).hexdigest()==h["sha256"] or '
    'sys.exit("vfiocert agent: the bundle arrived damaged, %d of %d bytes"%(len(b),h["bytes"]));'
    'm=json.loads(zlib.decompress(b).decode());exec(m["harness.agent.loader"],{"MODULES":m,"HASH":h["sha256"]})'
)


def boot_command(python: str = "python3", sudo: bool = False) -> str:
    """Return the shell command that starts an agent; its stdin then takes `Bundle.start_bytes`."""
    # Isolated and without site: the agent needs the standard library only, and none of the host's settings.
    return f"{'sudo -n ' if sudo else ''}{shlex.quote(python)} -ISc {shlex.quote(BOOT)}"


class Transport(Protocol):
    """A byte stream to a process that runs `boot_command()`.

    Guarantees: `send` sends everything or raises LabError; `recv_exact` returns exactly `count` bytes, fewer
    only when the peer has closed the stream, and raises TimeoutError when they do not arrive within
    `deadline_s` seconds (what did arrive is kept for the next call); nothing raises after `close`.
    """

    def send(self, data: bytes) -> None:
        """Send all of `data`."""

    def recv_exact(self, count: int, deadline_s: float) -> bytes:
        """Return `count` bytes, fewer at the end of the stream; TimeoutError after `deadline_s`."""
        ...

    def close(self) -> None:
        """Close the stream; the agent then undoes its changes and exits."""

    def stderr_tail(self) -> str:
        """Return the last lines that the process wrote to stderr."""
        ...

    def exit_status(self) -> int | None:
        """Return the exit status (negative: the signal), None while the process runs or if it is unknown."""
        ...


class AgentTimeout(LabError):
    """The agent did not answer in time: it, or its host, is stuck."""


@dataclass(frozen=True)
class Bundle:
    """The agent's sources as they are sent to the host."""

    data: bytes
    sha256: str

    @property
    def start_bytes(self) -> bytes:
        """Return the header line and the bundle, which `BOOT` reads first."""
        header = json.dumps({"bytes": len(self.data), "sha256": self.sha256}, separators=(",", ":"))
        return header.encode() + b"\n" + self.data


@cache
def bundle() -> Bundle:
    """Return the zlib-compressed `{module name: source}` of the agent and what it imports, with its SHA-256.

    Key "" holds the same modules compiled (harness/agent/loader.py); harness.agent.compiled holds what is
    compiled from C.
    """
    package = PROJECT / "harness"
    # Not harness/__init__.py, which may import what only the controller has: the agent's root is empty.
    modules = {"harness": ""}
    for part in ("uapi", "agent"):
        for path in sorted((package / part).rglob("*.py")):
            names = ["harness", *path.relative_to(package).with_suffix("").parts]
            modules[".".join(names[:-1] if names[-1] == "__init__" else names)] = path.read_text("utf-8")
    modules["harness.agent.compiled"] = compiled_module(modules["harness.agent.compiled"])
    # Compiled too, for hosts with the controller's version of Python: on a slow host, compiling takes most of
    # the time to the first answer.
    code = {
        name: marshal.dumps(compile(source, f"vfiocert:{name}", "exec", dont_inherit=True)).decode("latin-1")
        for name, source in modules.items()
    }
    tag = f"{sys.implementation.cache_tag} {sys.version_info[3]}"
    packed: dict[str, Any] = {**modules, "": {"tag": tag, "code": code}}
    data = zlib.compress(json.dumps(packed, sort_keys=True, ensure_ascii=False).encode(), 9)
    return Bundle(data, hashlib.sha256(data).hexdigest())


@dataclass(frozen=True)
class RunResult:
    """The result of a program: a record for each finished operation, and the one that hangs, if any."""

    trace: list[dict[str, Any]]
    hung: dict[str, Any] | None = None


@dataclass
class Agent:
    """An agent that has said hello.  Not for use by several threads at once."""

    transport: Transport
    hello: dict[str, Any]
    name: str = "agent"
    _broken: str | None = None
    _ids: Any = field(default_factory=lambda: itertools.count(1))

    def call(self, method: str, *, deadline_s: float = 60.0, **params: Any) -> Any:
        """Send a request to the agent and return its result.

        UsageError, LabError or HarnessError as the agent reports; AgentTimeout (a LabError) when no answer
        comes within `deadline_s` seconds.  After that, every call on this agent fails.
        """
        if self._broken is not None:
            raise LabError(f"{self.name}: not usable since {self._broken}")
        number = next(self._ids)
        try:
            self.transport.send(_frame({"id": number, "method": method, "params": params}))
            answer = _read_frame(self.transport, self.name, f"the answer to {method}", deadline_s)
        except BaseException as error:
            # On an interrupt too: the late answer would be taken for the answer to the next request.
            self._broken = str(error) or type(error).__name__
            raise
        return self._result(method, number, answer)

    def _result(self, method: str, number: int, answer: Any) -> Any:
        if isinstance(answer, dict) and answer.get("id") == number:
            if "result" in answer:
                return answer["result"]
            error = answer.get("error")
            if isinstance(error, dict) and isinstance(error.get("message"), str):
                _raise(self.name, method, error)
        self._broken = f"a malformed answer to {method}"
        raise HarnessError(f"{self.name}: {method}: not an answer to request {number}: {_shown(answer)}")

    def run(self, program: Mapping[str, Any], deadline_s: float | None = None) -> RunResult:
        """Run a program and return its trace; a hung operation is `RunResult.hung`, not an exception.

        `deadline_s` is for the answer; the default is the program's own deadline plus 30 s.
        """
        wanted = dict(program)
        if deadline_s is None:
            deadline_s = float(wanted.get("deadline_ms", 20000)) / 1000 + 30.0
        return self._run_result(self.call("run", deadline_s=deadline_s, program=wanted))

    def run_many(
        self, programs: Sequence[Mapping[str, Any]], deadline_s: float | None = None
    ) -> list[RunResult]:
        """Run programs one after the other in one request, which saves a round trip for each.

        The list ends early with the first program that hangs.  `deadline_s` is for the answer; the default
        is the sum of the programs' own deadlines plus 30 s.
        """
        wanted = [dict(p) for p in programs]
        if deadline_s is None:
            deadline_s = sum(float(p.get("deadline_ms", 20000)) / 1000 for p in wanted) + 30.0
        answer = self.call("run_many", deadline_s=deadline_s, programs=wanted)
        results = answer.get("results") if isinstance(answer, dict) else None
        if not isinstance(results, list) or len(results) > len(wanted):
            raise HarnessError(f"{self.name}: run_many: not a list of results: {_shown(answer)}")
        done = [self._run_result(result) for result in results]
        if len(done) < len(wanted) and not (done and done[-1].hung):
            raise HarnessError(f"{self.name}: run_many: {len(done)} results for {len(wanted)} programs")
        return done

    def _run_result(self, result: Any) -> RunResult:
        trace = result.get("trace") if isinstance(result, dict) else None
        if not isinstance(trace, list) or not all(isinstance(r, dict) and "op" in r for r in trace):
            raise HarnessError(f"{self.name}: run: the trace is not a list of records: {_shown(result)}")
        hung = result.get("hung")
        if hung is not None and not isinstance(hung, dict):
            raise HarnessError(f"{self.name}: run: hung is not an object: {_shown(hung)}")
        return RunResult(trace, hung)

    def session_end(self, session: str, deadline_s: float = 30.0) -> None:
        """Close every slot that programs of `session` kept."""
        self.call("session_end", deadline_s=deadline_s, session=session)

    def close(self) -> None:
        """Close the channel: the agent undoes its changes on the host, releases its leases and exits."""
        self._broken = self._broken or "it was closed"
        self.transport.close()

    def __enter__(self) -> Agent:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _raise(name: str, method: str, error: dict[str, Any]) -> None:
    text = f"{name}: {method}: {error['message']}"
    kind = error.get("kind")
    if kind == "lab":
        raise LabError(text)
    if kind == "usage" and method not in ("run", "run_many"):
        raise UsageError(text)
    # Programs come from this suite, so a malformed one is our own bug.
    trace = (error.get("detail") or {}).get("traceback") if isinstance(error.get("detail"), dict) else None
    last = (
        f" (at {trace.strip().splitlines()[-3].strip()})"
        if isinstance(trace, str) and trace.count("\n") > 3
        else ""
    )
    raise HarnessError(text + last)


def _frame(message: Any) -> bytes:
    body = json.dumps(message, separators=(",", ":")).encode()
    if len(body) > MAX_FRAME_BYTES:
        raise HarnessError(f"request of {len(body)} bytes is larger than the {MAX_FRAME_BYTES} allowed")
    return struct.pack(">I", len(body)) + body


def _shown(value: Any, limit: int = 120) -> str:
    """Return the beginning of `value` with everything unprintable escaped."""
    if isinstance(value, bytes):
        text = repr(value[:limit])[2:-1]
        return f"'{text}'" + ("..." if len(value) > limit else "")
    text = ascii(value)
    return text if len(text) <= limit else text[:limit] + "..."


def _read_frame(transport: Transport, name: str, what: str, deadline_s: float) -> Any:
    """Read one frame; LabError when the stream ends or stays silent, HarnessError when it is not a frame."""
    end = time.monotonic() + deadline_s
    try:
        head = transport.recv_exact(4, deadline_s)
        if len(head) < 4:
            raise _ended(transport, name, what, head)
        (length,) = struct.unpack(">I", head)
        if length > MAX_FRAME_BYTES:
            with contextlib.suppress(TimeoutError):
                head += transport.recv_exact(96, 0.3)
            raise HarnessError(
                f"{name}: {what} is garbled: it begins with {_shown(head)}, which is not a frame of up to "
                f"{MAX_FRAME_BYTES} bytes; something prints into the agent's channel (a login script?)"
            )
        body = transport.recv_exact(length, max(0.0, end - time.monotonic()))
    except TimeoutError:
        raise AgentTimeout(f"{name}: {what} did not come within {deadline_s:g} s{_tail(transport)}") from None
    if len(body) < length:
        raise _ended(transport, name, what, head + body)
    try:
        return json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        raise HarnessError(f"{name}: {what} is garbled: {_shown(body)} is not JSON") from None


def _ended(transport: Transport, name: str, what: str, got: bytes) -> LabError:
    status = transport.exit_status()
    how = "the agent's channel closed" if status is None else f"the agent exited with status {status}"
    after = f" after {len(got)} bytes: {_shown(got)}" if got else ""
    return LabError(f"{name}: {how} before {what}{after}{_tail(transport)}")


def _tail(transport: Transport) -> str:
    lines = [line.strip() for line in transport.stderr_tail().splitlines() if line.strip()]
    return f"; the end of its stderr: {_shown(' | '.join(lines[-5:]), 600)}" if lines else ""


def start_agent(transport: Transport, *, name: str = "agent", deadline_s: float = 60.0) -> Agent:
    """Send the bundle over a transport that runs `boot_command()`; return the agent once it says hello."""
    wanted = bundle()
    try:
        transport.send(wanted.start_bytes)
    except LabError as error:
        raise LabError(f"{error}{_tail(transport)}") from None
    message = _read_frame(transport, name, "the agent's hello", deadline_s)
    hello = message.get("hello") if isinstance(message, dict) else None
    if not isinstance(hello, dict):
        raise HarnessError(f"{name}: the first frame is not a hello: {_shown(message)}")
    if hello.get("protocol") != PROTOCOL or hello.get("hash") != wanted.sha256:
        raise HarnessError(
            f"{name}: the agent speaks protocol {hello.get('protocol')!r} as {_shown(hello.get('hash'))}, "
            f"wanted {PROTOCOL} as {wanted.sha256}"
        )
    return Agent(transport, hello, name)


class _LocalProcess:
    """A Transport to a process on this machine."""

    def __init__(self, argv: list[str], env: Mapping[str, str]) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as this object)
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, bufsize=0, env=env
        )
        self._buffer = bytearray()
        self.pid = self._process.pid

    def send(self, data: bytes) -> None:
        pipe = self._process.stdin
        assert pipe is not None
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(pipe.fileno(), view) :]
        except (OSError, ValueError) as error:
            raise LabError(f"cannot send to the local agent: {error}") from None

    def recv_exact(self, count: int, deadline_s: float) -> bytes:
        pipe = self._process.stdout
        assert pipe is not None
        end = time.monotonic() + deadline_s
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while len(self._buffer) < count:
                if not selector.select(max(0.0, end - time.monotonic())):
                    raise TimeoutError
                data = os.read(pipe.fileno(), 1 << 20)
                if not data:
                    break
                self._buffer += data
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            self._process.wait(150)  # the agent undoes its changes first
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def stderr_tail(self) -> str:
        size = os.fstat(self._stderr.fileno()).st_size
        return os.pread(self._stderr.fileno(), 4096, max(0, size - 4096)).decode("utf-8", "replace")

    def exit_status(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(2.0)
        return None


def start_local_agent(python: str = sys.executable, *, run_dir: str | None = None) -> Agent:
    """Start the real agent as a process on this machine; `run_dir` stands in for `/run/vfiocert`."""
    env = dict(os.environ)
    if run_dir is not None:
        env["VFIOCERT_RUN_DIR"] = run_dir
    return start_agent(_LocalProcess([python, "-c", BOOT], env), name="local agent")
