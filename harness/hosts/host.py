# SPDX-License-Identifier: Apache-2.0
"""A lab host with a running agent: connect, check that it can be certified on, reconnect after it died.

with Host.connect(spec, name="rack7.node1", jumps=jumps(lab, spec)) as host:
    host.agent.call("host_info")
"""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from harness.errors import LabError, UsageError
from harness.hosts.client import Agent, boot_command, start_agent
from harness.hosts.inventory.models import HostSpec, JumpSpec
from harness.hosts.ssh import SshConnection, SshHost, SshTransport

__all__ = ["Host", "HostInfo", "holder_name"]

_AGENT_START_S = 60.0
_NO_PROGRAM = 127
_NOT_EXECUTABLE = 126
_RETRY_PAUSE_S = 0.5


@dataclass(frozen=True)
class HostInfo:
    """The answer to `host_info`; `run` is the name of the agent's undo journal, `raw` the whole answer."""

    kernel: str
    boot_id: str
    run: str
    has_vfio: bool
    has_iommufd: bool
    raw: Mapping[str, Any]

    @classmethod
    def from_agent(cls, name: str, hello: Mapping[str, Any], answer: Any) -> HostInfo:
        """Check and convert the agent's hello and its answer to `host_info`; LabError if incomplete."""
        if not isinstance(answer, dict) or not all(
            isinstance(answer.get(key), bool) for key in ("has_vfio", "has_iommufd")
        ):
            raise LabError(f"{name}: the answer to host_info does not say has_vfio and has_iommufd")
        kernel = answer.get("kernel") or hello.get("kernel") or "?"
        boot_id = answer.get("boot_id") or hello.get("boot_id") or ""
        run = str(answer.get("run") or "")
        return cls(str(kernel), str(boot_id), run, answer["has_vfio"], answer["has_iommufd"], answer)


class Host:
    """One lab host; not for use by several threads at once.

    Guarantees: `agent` runs as root, on a new enough Python and a kernel that has what was required; every
    failure on the way is a LabError that names the host.
    """

    def __init__(
        self, spec: HostSpec, name: str, jumps: Sequence[JumpSpec], *, require_vfio: bool, deadline_s: float
    ) -> None:
        self.spec = spec
        self.name = name
        self.prepares = ""
        """Id of the device that harness.hosts.provision has prepared with this agent, "" for none."""
        self._jumps = tuple(jumps)
        self._require_vfio = require_vfio
        self._deadline_s = deadline_s
        self._connection: SshConnection | None = None
        self._agent: Agent | None = None
        self._info: HostInfo | None = None

    @classmethod
    def connect(
        cls,
        spec: HostSpec,
        name: str = "",
        jumps: Sequence[JumpSpec] = (),
        *,
        require_vfio: bool = True,
        deadline_s: float = 20.0,
    ) -> Host:
        """Connect to the host and start the agent; `deadline_s` is for each SSH hop.

        With `require_vfio`, a kernel without VFIO or iommufd is a LabError: no verdict is possible.
        """
        if isinstance(spec.jump, str) and not jumps:
            raise UsageError(
                f"host {name or spec.address}: jump='{spec.jump}' is not resolved; use inventory.jumps()"
            )
        host = cls(
            spec, name or f"host {spec.address}", jumps, require_vfio=require_vfio, deadline_s=deadline_s
        )
        host._start()
        return host

    def __enter__(self) -> Host:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def agent(self) -> Agent:
        """The running agent; LabError after `close`."""
        if self._agent is None:
            raise LabError(f"{self.name}: not connected")
        return self._agent

    @property
    def info(self) -> HostInfo:
        """The answer to `host_info` when the agent started; LabError after `close`."""
        if self._info is None:
            raise LabError(f"{self.name}: not connected")
        return self._info

    @property
    def alive(self) -> bool:
        """True while the SSH connection is up (a dead peer is noticed within 45 s)."""
        return self._connection is not None and self._agent is not None and self._connection.alive

    def exec(self, command: str, deadline_s: float, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
        """Run a shell command beside the agent: (exit status, stdout, stderr)."""
        if self._connection is None:
            raise LabError(f"{self.name}: not connected")
        return self._connection.exec(command, deadline_s, stdin=stdin)

    def reconnect(self, deadline_s: float = 120.0) -> bool:
        """Try for `deadline_s` to get a new connection and agent; True if the host rebooted meanwhile."""
        before = self._info.boot_id if self._info else ""
        self.close()
        end = time.monotonic() + deadline_s
        while True:
            try:
                self._start()
                return self.info.boot_id != before
            except LabError as error:
                if time.monotonic() >= end:
                    raise LabError(f"{error}; gave up after {deadline_s:g} s") from None
            time.sleep(_RETRY_PAUSE_S)

    def close(self) -> None:
        """End the agent, which undoes what it changed, and the connection; never raises."""
        agent, self._agent = self._agent, None
        connection, self._connection = self._connection, None
        if agent is not None:
            with contextlib.suppress(LabError):
                agent.close()
        if connection is not None:
            connection.close()

    def _start(self) -> None:
        connection = SshHost(self._deadline_s).connect(self.spec, self.name, self._jumps)
        try:
            agent = self._start_agent(connection)
            self._info = self._checked_info(agent)
        except BaseException:
            connection.close()
            raise
        self._connection, self._agent = connection, agent

    def _start_agent(self, connection: SshConnection) -> Agent:
        sudo = self.spec.become == "sudo"
        transport = connection.transport(boot_command(self.spec.python, sudo))
        try:
            agent = start_agent(transport, name=self.name, deadline_s=_AGENT_START_S)
        except LabError as error:
            raise self._why_no_agent(transport) or error from None
        if agent.hello.get("uid") != 0:
            agent.close()
            raise LabError(
                f"{self.name}: user '{self.spec.user}' is not root; set user: root, or become: sudo with "
                "`sudo -n` allowed"
            )
        return agent

    def _why_no_agent(self, transport: SshTransport) -> LabError | None:
        status, words = transport.exit_status(), transport.stderr_tail()
        last = " ".join(words.split())[-200:]
        if "3.8 or newer is needed" in words:
            # The boot line's message, which names the host's version.
            return LabError(f"{self.name}: {last}; set `python` to a newer one")
        if "sudo" in words.lower() and (self.spec.become == "sudo"):
            return LabError(
                f"{self.name}: user '{self.spec.user}' is not root: sudo says '{last}'; allow `sudo -n` "
                f"for {self.spec.python}, or log in as root"
            )
        if status in (_NO_PROGRAM, _NOT_EXECUTABLE):
            return LabError(
                f"{self.name}: has no {self.spec.python} ('{last}'); install Python 3.8 or newer "
                "or set `python`"
            )
        return None

    def _checked_info(self, agent: Agent) -> HostInfo:
        info = HostInfo.from_agent(self.name, agent.hello, agent.call("host_info"))
        if self._require_vfio:
            for has, what, symbols in (
                (info.has_vfio, "VFIO", "CONFIG_VFIO"),
                (info.has_iommufd, "iommufd", "CONFIG_IOMMUFD and CONFIG_VFIO_DEVICE_CDEV"),
            ):
                if not has:
                    agent.close()
                    raise LabError(
                        f"{self.name}: kernel {info.kernel} has no {what}: no verdict; boot one "
                        f"with {symbols}"
                    )
        return info


def holder_name(run: str) -> str:
    """This run as the holder of a lease, for the message to a second run: `user@controller, pid N, run R`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}, pid {os.getpid()}, run {run}"
