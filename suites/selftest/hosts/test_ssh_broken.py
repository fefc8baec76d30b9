# SPDX-License-Identifier: Apache-2.0
"""A connection that breaks while a command is being ended: the first fault is the one reported."""

from __future__ import annotations

import paramiko
import pytest

from harness.errors import LabError
from harness.hosts.ssh import SshConnection


class BrokenChannel:
    """A channel whose other side is gone: writing to it raises, as paramiko's does."""

    def __init__(self, output: bytes) -> None:
        self.output = output

    def shutdown_write(self) -> None:
        if not self.output:
            raise EOFError

    def fileno(self) -> int:
        return 0

    def recv_ready(self) -> bool:
        return bool(self.output)

    def recv(self, count: int) -> bytes:
        data, self.output = self.output[:count], self.output[count:]
        return data

    def recv_stderr_ready(self) -> bool:
        return False

    def close(self) -> None:
        raise EOFError


@pytest.mark.parametrize(
    ("output", "words"), [(b"x" * 5000, "wrote more than 1000 bytes"), (b"", "the connection broke")]
)
def test_the_first_fault_is_told(output, words, monkeypatch):
    connection = SshConnection(paramiko.SSHClient(), "host h", None)
    monkeypatch.setattr(connection, "_open", lambda command, deadline_s: BrokenChannel(output))
    with pytest.raises(LabError, match=words):
        connection.exec("command", 5, limit_bytes=1000)
