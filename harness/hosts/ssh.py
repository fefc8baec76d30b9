# SPDX-License-Identifier: Apache-2.0
"""SSH connections to lab hosts; the only module that uses paramiko.

    with SshHost().connect(spec, name="rack7.node1", jumps=jumps(lab, spec)) as connection:
        status, out, err = connection.exec("uname -r", deadline_s=10)
        transport = connection.transport("python3 -c ...")      # bytes both ways, for harness/hosts/client.py

Host keys are always verified against the pinned file, and never accepted on first use.  Every failure here
is a `LabError` whose one line says what to do.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import select
import socket
import time
from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import Any

import paramiko

from harness.errors import LabError
from harness.hosts.inventory.models import HostSpec, JumpSpec

__all__ = ["SshConnection", "SshHost", "SshTransport", "fingerprint"]

# A trace may be tens of megabytes: with paramiko's 2 MiB window the stream would stall at each round trip.
_WINDOW_BYTES = 64 << 20
_PACKET_BYTES = 1 << 18
_KEEPALIVE_S = 15
_PEER_TIMEOUT_MS = 45_000
_OUTPUT_LIMIT_BYTES = 16 << 20
_STDERR_TAIL_BYTES = 64 << 10
_SLICE_S = 0.5
# What paramiko raises on a connection that is gone.
_BROKEN = (OSError, EOFError, paramiko.SSHException)

# paramiko logs key names, and whole tracebacks of failures that are reported as one line here.
logging.getLogger("paramiko").setLevel(logging.CRITICAL + 1)


def fingerprint(key: paramiko.PKey) -> str:
    """The fingerprint of a key, `SHA256:...` as `ssh-keygen -l` prints it."""
    return "SHA256:" + b64encode(sha256(key.asbytes()).digest()).decode().rstrip("=")


class SshTransport:
    """Bytes to and from one remote command (the Transport protocol of harness/hosts/client.py).

    Guarantees: no call outlives its deadline, and data that came before it is kept; standard error is drained
    while waiting, so that a command that writes much to it never blocks, and its last 64 KiB are kept.
    """

    def __init__(self, channel: paramiko.Channel, where: str) -> None:
        self._channel = channel
        self._where = where
        self._buffer = bytearray()
        self._stderr = bytearray()

    def send(self, data: bytes, deadline_s: float = 60.0) -> None:
        """Send all of `data`; LabError after `deadline_s` seconds, or when the command has ended."""
        end = time.monotonic() + deadline_s
        view = memoryview(data)
        while view:
            self._channel.settimeout(_left(end))
            try:
                sent = self._channel.send(bytes(view[:_PACKET_BYTES]))
            except TimeoutError:
                raise LabError(f"{self._where}: took no data for {deadline_s:g} s") from None
            except (OSError, EOFError, paramiko.SSHException) as error:
                raise self._broken(error) from None
            if sent == 0:
                raise self._broken(None)
            view = view[sent:]

    def recv_exact(self, count: int, deadline_s: float) -> bytes:
        """Return the next `count` bytes, fewer at the end of the stream; TimeoutError past the deadline."""
        end = time.monotonic() + deadline_s
        while len(self._buffer) < count:
            left = end - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"{self._where}: no answer within {deadline_s:g} s")
            self._drain_stderr()
            # In slices: standard error must be drained while standard output is silent.
            self._channel.settimeout(min(left, _SLICE_S))
            try:
                data = self._channel.recv(max(count - len(self._buffer), 65536))
            except TimeoutError:
                continue
            except (OSError, EOFError, paramiko.SSHException):
                data = b""
            if not data:
                break
            self._buffer += data
        result = bytes(self._buffer[:count])
        del self._buffer[:count]
        return result

    def stderr_tail(self) -> str:
        """What the command last wrote to standard error, at most 64 KiB."""
        self._drain_stderr()
        return self._stderr.decode("utf-8", "replace")

    def exit_status(self, deadline_s: float = 2.0) -> int | None:
        """Wait up to `deadline_s` for the command's exit status; None while it runs or if it is unknown.

        As in a shell, 128 + signal if a signal ended it.
        """
        end = time.monotonic() + deadline_s
        while not self._channel.exit_status_ready():
            if time.monotonic() >= end or self._channel.closed:
                return None
            self._channel.status_event.wait(min(_left(end), 0.05))
        status = self._channel.recv_exit_status()
        return None if status < 0 else status

    def close(self) -> None:
        """End the command's input and close the channel; never raises."""
        with contextlib.suppress(*_BROKEN):
            self._channel.close()

    def _drain_stderr(self) -> None:
        while self._channel.recv_stderr_ready():
            self._stderr += self._channel.recv_stderr(65536)
            del self._stderr[:-_STDERR_TAIL_BYTES]

    def _broken(self, error: BaseException | None) -> LabError:
        reason = f" ({_reason(error)})" if error is not None and str(error) else ""
        return LabError(f"{self._where}: the connection broke{reason}")


class SshConnection:
    """One authenticated connection; channels on it are independent, and may be used from several threads."""

    def __init__(self, client: paramiko.SSHClient, where: str, below: SshConnection | None) -> None:
        self._client = client
        self._below = below
        self.where = where

    def __enter__(self) -> SshConnection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def alive(self) -> bool:
        """True until either side closes the connection or the peer stops answering (noticed within 45 s)."""
        transport = self._client.get_transport()
        return transport is not None and transport.is_active()

    def exec(
        self, command: str, deadline_s: float, limit_bytes: int = _OUTPUT_LIMIT_BYTES, stdin: bytes = b""
    ) -> tuple[int, bytes, bytes]:
        """Run a shell command: (exit status, stdout, stderr); LabError past the deadline or the size limit.

        All of `stdin` is sent before anything is read: for commands that read it all before they answer.
        """
        channel = self._open(command, deadline_s)
        try:
            if stdin:
                self._send(channel, stdin)
            return self._collect(channel, command, deadline_s, limit_bytes)
        finally:
            # A connection that broke meanwhile must not hide why the command was refused.
            with contextlib.suppress(*_BROKEN):
                channel.close()

    def transport(self, command: str, deadline_s: float = 20.0) -> SshTransport:
        """Start a command and leave it running; the SshTransport is its standard input and output."""
        return SshTransport(self._open(command, deadline_s), self.where)

    def tunnel(self, address: str, port: int, deadline_s: float) -> paramiko.Channel:
        """Have this host open a TCP connection (direct-tcpip); LabError if it refuses."""
        transport = self._client.get_transport()
        try:
            if transport is None:
                raise EOFError
            return transport.open_channel(
                "direct-tcpip", (address, port), ("127.0.0.1", 0), timeout=max(deadline_s, 0.1)
            )
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise LabError(
                f"{address}:{port} is unreachable from jump host {self.where} ({_reason(error)}); "
                "check the address, and AllowTcpForwarding on the jump host"
            ) from None

    def close(self) -> None:
        """Close this connection and those to the jump hosts under it."""
        self._client.close()
        if self._below is not None:
            self._below.close()

    def _open(self, command: str, deadline_s: float) -> paramiko.Channel:
        transport = self._client.get_transport()
        try:
            if transport is None:
                raise EOFError
            channel = transport.open_session(timeout=max(deadline_s, 0.1))
            channel.settimeout(deadline_s)
            channel.exec_command(command)
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise LabError(f"{self.where}: the connection broke ({_reason(error)})") from None
        return channel

    def _send(self, channel: paramiko.Channel, data: bytes) -> None:
        try:
            channel.sendall(data)
            channel.shutdown_write()
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise LabError(f"{self.where}: the connection broke ({_reason(error)})") from None

    def _collect(
        self, channel: paramiko.Channel, command: str, deadline_s: float, limit_bytes: int
    ) -> tuple[int, bytes, bytes]:
        end = time.monotonic() + deadline_s
        out, err = bytearray(), bytearray()
        try:
            channel.shutdown_write()
        except _BROKEN as error:
            raise LabError(f"{self.where}: the connection broke ({_reason(error)})") from None
        poller = select.poll()
        poller.register(channel.fileno(), select.POLLIN)
        while True:
            while channel.recv_ready():
                out += channel.recv(65536)
            while channel.recv_stderr_ready():
                err += channel.recv_stderr(65536)
            if len(out) + len(err) > limit_bytes:
                raise LabError(f"{self.where}: '{_short(command)}' wrote more than {limit_bytes} bytes")
            if channel.eof_received and channel.exit_status_ready() and not _pending(channel):
                break
            if channel.closed and not _pending(channel):
                break
            if time.monotonic() >= end:
                raise LabError(f"{self.where}: '{_short(command)}' was not done within {deadline_s:g} s")
            # The exit status may come after the end of the output, and does not show on the descriptor.
            wait_s = 0.005 if channel.eof_received else min(_left(end), _SLICE_S)
            if channel.eof_received:
                channel.status_event.wait(wait_s)
            else:
                poller.poll(wait_s * 1000)
        status = channel.recv_exit_status() if channel.exit_status_ready() else -1
        if status == -1:
            raise LabError(f"{self.where}: '{_short(command)}' gave no exit status; the connection broke")
        return status, bytes(out), bytes(err)


class SshHost:
    """Makes connections; `deadline_s` bounds the connect, key exchange and authentication of each hop."""

    def __init__(self, deadline_s: float = 20.0) -> None:
        self._deadline_s = deadline_s

    def connect(self, host: JumpSpec, name: str = "", jumps: Sequence[JumpSpec] = ()) -> SshConnection:
        """Connect to `host` through `jumps` (nearest first) and authenticate; `name` is for messages."""
        way = list(jumps)
        if not way and isinstance(host, HostSpec) and isinstance(host.jump, JumpSpec):
            way = [host.jump]
        below: SshConnection | None = None
        try:
            for hop in way:
                below = self._hop(hop, f"jump host {hop.address}", below)
            return self._hop(host, name or f"host {host.address}", below)
        except BaseException:
            if below is not None:
                below.close()
            raise

    def _hop(self, spec: JumpSpec, name: str, below: SshConnection | None) -> SshConnection:
        end = time.monotonic() + self._deadline_s
        where = f"{name} ({_target(spec)})"
        key = _key_arguments(spec, where)
        client = paramiko.SSHClient()
        client.set_missing_host_key_policy(_Refuse(spec, where))
        _load_known_hosts(client, spec, where)
        left = _left(end)
        sock = _reach(spec, where, left) if below is None else below.tunnel(spec.address, spec.port, left)
        try:
            client.connect(
                spec.address,
                port=spec.port,
                username=spec.user,
                sock=sock,
                timeout=_left(end),
                banner_timeout=_left(end),
                auth_timeout=_left(end),
                channel_timeout=_left(end),
                look_for_keys=False,
                transport_factory=_make_transport,
                **key,
            )
        except BaseException as error:
            client.close()
            sock.close()
            explained = _explain(error, spec, where)
            if explained is None:
                raise
            raise explained from None
        transport = client.get_transport()
        if transport is not None:
            transport.set_keepalive(_KEEPALIVE_S)
        return SshConnection(client, where, below)


class _Refuse(paramiko.MissingHostKeyPolicy):
    """Refuses an unknown host key, before any authentication."""

    def __init__(self, spec: JumpSpec, where: str) -> None:
        self._spec = spec
        self._where = where

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        raise LabError(
            f"{self._where}: host key {key.get_name()} {fingerprint(key)} is unknown; if it is the host's "
            f"own (there: ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub), run: {_pin_command(self._spec, key)}"
        )


def _make_transport(sock: Any, **arguments: Any) -> paramiko.Transport:
    accepted = {name: value for name, value in arguments.items() if name == "disabled_algorithms"}
    return paramiko.Transport(
        sock, default_window_size=_WINDOW_BYTES, default_max_packet_size=_PACKET_BYTES, **accepted
    )


def _reach(spec: JumpSpec, where: str, timeout_s: float) -> socket.socket:
    try:
        sock = socket.create_connection((spec.address, spec.port), timeout=timeout_s)
    except OSError as error:
        raise _unreachable(where, error) from None
    # Requests are small and answered at once: Nagle would delay each until the ACK of the one before.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _PEER_TIMEOUT_MS)
    return sock


def _unreachable(where: str, error: BaseException) -> LabError:
    return LabError(f"{where} is unreachable ({_reason(error)}); check that it is up and runs SSH there")


def _load_known_hosts(client: paramiko.SSHClient, spec: JumpSpec, where: str) -> None:
    file = _known_hosts_file(spec)
    try:
        client.load_host_keys(str(file))
    except FileNotFoundError:
        # Same as an empty file: the server's key is then unknown, and that message has the command.
        pass
    except (OSError, paramiko.SSHException, ValueError) as error:
        raise LabError(f"{where}: known_hosts='{file}' cannot be read ({_reason(error)})") from None


def _known_hosts_file(spec: JumpSpec) -> Path:
    return Path(os.path.expanduser(spec.known_hosts or "~/.ssh/known_hosts"))


def _key_arguments(spec: JumpSpec, where: str) -> dict[str, Any]:
    """Arguments of `SSHClient.connect`: the configured key and no other, or the SSH agent."""
    if spec.key is None:
        return {"allow_agent": True}
    reference = spec.key
    if reference.startswith("env:"):
        value = os.environ.get(reference[4:], "")
        if not value:
            raise LabError(
                f"{where}: key='{reference}': the variable is not set; export it (a key or its path)"
            )
        if "PRIVATE KEY" in value:
            return {"allow_agent": False, "pkey": _key_from_text(value, reference, where)}
        path = value
    else:
        path = reference
    file = Path(os.path.expanduser(path))
    try:
        file.open("rb").close()
    except OSError as error:
        raise LabError(f"{where}: key='{reference}' cannot be read ({_reason(error)})") from None
    return {"allow_agent": False, "key_filename": str(file)}


def _key_from_text(text: str, reference: str, where: str) -> paramiko.PKey:
    kinds: tuple[type[paramiko.PKey], ...] = (paramiko.Ed25519Key, paramiko.ECDSAKey, paramiko.RSAKey)
    for kind in kinds:
        try:
            return kind.from_private_key(io.StringIO(text))
        except paramiko.PasswordRequiredException:
            raise _locked_key(where, reference) from None
        except (paramiko.SSHException, ValueError, IndexError):
            continue
    raise LabError(f"{where}: key='{reference}': it holds no Ed25519, ECDSA or RSA private key")


def _locked_key(where: str, reference: str) -> LabError:
    return LabError(
        f"{where}: key='{reference}' has a passphrase; run: ssh-add KEY, and leave `key` out of labs.yaml "
        "so that the SSH agent is used"
    )


def _explain(error: BaseException, spec: JumpSpec, where: str) -> LabError | None:
    """The LabError for an error that paramiko raised; None if the lab is not at fault."""
    if isinstance(error, LabError):
        return error
    if isinstance(error, paramiko.BadHostKeyException):
        return _changed_key(error, spec, where)
    if isinstance(error, paramiko.PasswordRequiredException):
        return _locked_key(where, spec.key or "SSH agent")
    if isinstance(error, paramiko.AuthenticationException):
        if "timeout" in str(error).lower():
            return LabError(f"{where}: authentication was not done in time; is the host overloaded?")
        key = f"key '{spec.key}'" if spec.key else "each key of the SSH agent"
        public = f"{spec.key}.pub" if spec.key and not spec.key.startswith("env:") else "KEY.pub"
        return LabError(
            f"{where} refused {key} for user '{spec.user}'; run: "
            f"ssh-copy-id -i {public} -p {spec.port} {spec.user}@{spec.address}"
        )
    if isinstance(error, paramiko.SSHException | OSError | EOFError):
        if "No authentication methods" in str(error):
            return LabError(
                f"{where}: no key to offer: the SSH agent has none; run ssh-add KEY, or set `key`"
            )
        if "private key file" in str(error):
            return LabError(f"{where}: key='{spec.key}' is not a private key that can be read")
        return _unreachable(where, error)
    if isinstance(error, ValueError | IndexError) and spec.key:
        return LabError(f"{where}: key='{spec.key}' is not a private key that can be read")
    return None


def _changed_key(error: paramiko.BadHostKeyException, spec: JumpSpec, where: str) -> LabError:
    file = _known_hosts_file(spec)
    return LabError(
        f"{where}: host key {error.key.get_name()} is now {fingerprint(error.key)}, but {file} has "
        f"{fingerprint(error.expected_key)}; this is another machine, or somebody in between; only if it "
        f"was reinstalled, run: ssh-keygen -R '{_known_name(spec)}' -f '{file}' && "
        f"{_pin_command(spec, error.key)}"
    )


def _known_name(spec: JumpSpec) -> str:
    return spec.address if spec.port == 22 else f"[{spec.address}]:{spec.port}"


def _pin_command(spec: JumpSpec, key: paramiko.PKey) -> str:
    line = f"{_known_name(spec)} {key.get_name()} {key.get_base64()}"
    return f"echo '{line}' >> '{_known_hosts_file(spec)}'"


def _target(spec: JumpSpec) -> str:
    address = f"[{spec.address}]" if ":" in spec.address else spec.address
    return f"{address}:{spec.port}"


def _left(end: float) -> float:
    """Seconds until `end`, never zero: zero would mean non-blocking."""
    return max(end - time.monotonic(), 0.05)


def _pending(channel: paramiko.Channel) -> bool:
    return channel.recv_ready() or channel.recv_stderr_ready()


def _short(command: str) -> str:
    flat = " ".join(command.split())
    return flat if len(flat) <= 60 else flat[:57] + "..."


def _reason(error: BaseException | None) -> str:
    """The reason in a few words, in lower case, without a final period."""
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, paramiko.ChannelException):
        return str(error.args[-1]).lower()
    text = getattr(error, "strerror", None) or str(error) or "closed by the other side"
    text = " ".join(str(text).split()).rstrip(".")
    return text[:1].lower() + text[1:] if text[1:2].islower() else text
