# SPDX-License-Identifier: Apache-2.0
"""An SSH server inside the test process, on loopback: what harness/hosts/ssh.py meets, without a lab."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paramiko
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from harness.hosts.inventory import HostSpec

__all__ = ["LoopbackSshd", "make_key", "running_sshd"]


def make_key(path: Path, passphrase: bytes | None = None) -> paramiko.Ed25519Key:
    """A new Ed25519 key, written to `path` as ssh-keygen would."""
    locked: Any = (
        serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    )
    text = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, locked
    )
    path.write_bytes(text)
    path.chmod(0o600)
    return paramiko.Ed25519Key.from_private_key_file(str(path), passphrase.decode() if passphrase else None)


@dataclass
class LoopbackSshd:
    """A server that runs each command with /bin/sh, forwards TCP, and accepts one user key."""

    folder: Path
    user_key: paramiko.PKey = field(init=False)
    host_key: paramiko.PKey = field(init=False)
    port: int = 0
    forwarded: list[tuple[str, int]] = field(default_factory=list)
    connections: list[paramiko.Transport] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.user_key = make_key(self.folder / "user_key")
        self.host_key = make_key(self.folder / "host_key")
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.pin(self.host_key)
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    def pin(self, key: paramiko.PKey) -> None:
        """Makes `key` the only key the client knows for this server."""
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {key.get_name()} {key.get_base64()}\n")

    def spec(self, **changes: Any) -> HostSpec:
        """A host entry that reaches this server, with some fields changed."""
        entry = {
            "address": "127.0.0.1",
            "port": self.port,
            "user": "root",
            "key": str(self.folder / "user_key"),
            "known_hosts": str(self.known_hosts),
        }
        return HostSpec.model_validate(entry | changes)

    def stop(self) -> None:
        # Closing alone would leave a blocked accept() that takes one more connection.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for transport in self.connections:
            transport.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            transport = paramiko.Transport(sock)
            transport.add_server_key(self.host_key)
            self.connections.append(transport)
            with contextlib.suppress(paramiko.SSHException, EOFError, OSError):
                transport.start_server(server=_Server(self), event=threading.Event())


class _Server(paramiko.ServerInterface):
    def __init__(self, sshd: LoopbackSshd) -> None:
        self._sshd = sshd

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        good = username == "root" and key.asbytes() == self._sshd.user_key.asbytes()
        return paramiko.common.AUTH_SUCCESSFUL if good else paramiko.common.AUTH_FAILED

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.common.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        threading.Thread(target=_run, args=(channel, command), daemon=True).start()
        return True

    def check_channel_direct_tcpip_request(
        self, chanid: int, origin: tuple[str, int], destination: tuple[str, int]
    ) -> int:
        try:
            sock = socket.create_connection(destination, timeout=5)
        except OSError:
            return paramiko.common.OPEN_FAILED_CONNECT_FAILED
        self._sshd.forwarded.append(destination)
        threading.Thread(target=self._forward, args=(sock,), daemon=True).start()
        return paramiko.common.OPEN_SUCCEEDED

    def _forward(self, sock: socket.socket) -> None:
        transport = self._sshd.connections[-1]
        for candidate in self._sshd.connections:
            channel = candidate.accept(2) if candidate.is_active() else None
            if channel is not None:
                break
        else:
            channel = transport.accept(5)
        if channel is None:
            sock.close()
            return
        sock.settimeout(None)
        threading.Thread(target=_copy, args=(sock.recv, channel.sendall, channel.close), daemon=True).start()
        _copy(channel.recv, sock.sendall, sock.close)


def _copy(read: Any, write: Any, finish: Any) -> None:
    with contextlib.suppress(OSError, EOFError):
        while data := read(65536):
            write(data)
    with contextlib.suppress(OSError):
        finish()


def _run(channel: paramiko.Channel, command: bytes) -> None:
    process = subprocess.Popen(
        ["/bin/sh", "-c", os.fsdecode(command)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    outputs = [
        threading.Thread(
            target=_copy, args=(process.stdout.read, channel.sendall, lambda: None), daemon=True
        ),
        threading.Thread(
            target=_copy, args=(process.stderr.read, channel.sendall_stderr, lambda: None), daemon=True
        ),
    ]
    for thread in outputs:
        thread.start()
    threading.Thread(
        target=_copy, args=(channel.recv, process.stdin.write, process.stdin.close), daemon=True
    ).start()
    while process.poll() is None and not channel.closed:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
    if process.poll() is None:
        process.kill()
        process.wait(5)
    for thread in outputs:
        thread.join(5)
    with contextlib.suppress(OSError, EOFError):
        channel.send_exit_status(process.returncode % 256)
        channel.close()


@contextlib.contextmanager
def running_sshd(folder: Path) -> Iterator[LoopbackSshd]:
    """A server that is gone at the end of the `with`; its keys and known_hosts are files in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    sshd = LoopbackSshd(folder)
    try:
        yield sshd
    finally:
        sshd.stop()
