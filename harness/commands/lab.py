# SPDX-License-Identifier: Apache-2.0
"""`vfiocert lab`: start, use and end the embedded lab by hand."""

from __future__ import annotations

import json
import os
import shutil
import sys
from datetime import datetime
from typing import Annotated

import typer

from harness.errors import LabError, UsageError
from harness.lab.embedded import DEFAULT_IDLE_LIMIT_S, EmbeddedLab, attach, list_labs
from harness.progress import open_progress

__all__ = ["app"]

DEFAULT_NAME = "default"
_CONNECT_TIMEOUT_S = 30

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="The embedded lab by hand: a QEMU machine with real VFIO that is a lab host like any other.",
)

NameArgument = Annotated[str, typer.Argument(help="name of the lab; several can be up", metavar="[NAME]")]
LabOption = Annotated[str, typer.Option("--lab", help="name of the lab")]


@app.command()
def up(
    name: NameArgument = DEFAULT_NAME,
    kernel: Annotated[
        str | None,
        typer.Option(
            help="a series of Debian's linux-source (7.2, 6.12), a built tree, a source tree, a tarball"
        ),
    ] = None,
    flavour: Annotated[str, typer.Option(help="plain, or debug (KASAN, lockdep, UBSAN; slower)")] = "plain",
    scratch: Annotated[
        int, typer.Option(help="GiB of a sparse disk for streams longer than its memory  [default: none]")
    ] = 0,
    memory: Annotated[int | None, typer.Option(help="MiB of memory  [default: 1024, debug: 2048]")] = None,
    idle_limit: Annotated[
        float, typer.Option(help="seconds after which an unused lab is removed")
    ] = DEFAULT_IDLE_LIMIT_S,
) -> None:
    """Bring a lab up; the first time this fetches and builds a kernel (some 5 to 10 minutes).

    \b
    Examples:
      vfiocert lab up
      vfiocert lab up second --kernel 6.12
      vfiocert lab up mine --kernel ~/linux/build --idle-limit 86400
    """
    with open_progress() as progress:
        lab = EmbeddedLab.up(
            name=name,
            kernel=kernel,
            flavour=flavour,
            memory_mib=memory,
            scratch_gib=scratch,
            idle_limit_s=idle_limit,
            progress=progress,
        )
    for note in lab.kernel.notes:
        print(f"note: {note}", file=sys.stderr)
    print(_line(lab))


@app.command()
def down(
    name: NameArgument = DEFAULT_NAME,
    every: Annotated[bool, typer.Option("--all", help="every lab of this user")] = False,
) -> None:
    """End a lab and remove all it left; a lab that is not up is no error.

    \b
    Examples:
      vfiocert lab down
      vfiocert lab down --all
    """
    ended = [lab for lab in list_labs() if every or lab.name == name]
    for lab in ended:
        lab.down()
        print(f"{lab.name}: down")
    if not ended:
        print("no lab is up" if every else f"{name}: was not up")


@app.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="a JSON list, one object a lab")] = False,
) -> None:
    """Show the labs of this user.

    \b
    Examples:
      vfiocert lab status
      vfiocert lab status --json
    """
    labs = list_labs()
    if as_json:
        print(json.dumps([lab.describe() for lab in labs], indent=1))
        return
    for lab in labs:
        print(_line(lab))
    if not labs:
        print("no lab is up; 'vfiocert lab up' brings one up", file=sys.stderr)


@app.command()
def reset(name: NameArgument = DEFAULT_NAME) -> None:
    """Make a lab fresh again, whatever its guest did: same address, nothing kept, about a second.

    \b
    Examples:
      vfiocert lab reset
      vfiocert lab reset second
    """
    found = [lab for lab in list_labs() if lab.name == name]
    # A lab whose QEMU has died can be reset too, so it is not `attach`ed.
    lab = found[0] if found else attach(name)
    with open_progress() as progress:
        lab.reset(progress)
    print(_line(lab))


@app.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def ssh(
    command: Annotated[list[str] | None, typer.Argument(help="what to run; a shell without it")] = None,
    lab: LabOption = DEFAULT_NAME,
) -> int:
    """Log in to a lab, or run a command there and end with its exit status.

    \b
    Examples:
      vfiocert lab ssh
      vfiocert lab ssh -- dmesg
      vfiocert lab ssh --lab second cat /proc/cmdline
    """
    target = attach(lab, own=False)
    target.touch()
    words = list(command or [])
    client = shutil.which("ssh")
    if client is None:
        return _run_with_paramiko(target, words)
    sys.stdout.flush()
    os.execv(client, [client, *ssh_arguments(target), *words])


def ssh_arguments(lab: EmbeddedLab) -> list[str]:
    """Arguments of OpenSSH's client for `lab`: its key, its pinned host key, no configuration file."""
    return [
        "-F", "none", "-q", "-p", str(lab.port), "-i", str(lab.key_path),
        "-o", "IdentitiesOnly=yes", "-o", f"UserKnownHostsFile={lab.known_hosts_path}",
        "-o", "GlobalKnownHostsFile=none", "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes",
        "-o", f"ConnectTimeout={_CONNECT_TIMEOUT_S}", f"{lab.user}@{lab.address}",
    ]  # fmt: skip


def _run_with_paramiko(lab: EmbeddedLab, words: list[str]) -> int:
    import paramiko

    if not words:
        raise UsageError(
            "an interactive shell needs OpenSSH's client (apt-get install openssh-client); "
            "without it give a command"
        )
    with paramiko.SSHClient() as client:
        client.load_host_keys(str(lab.known_hosts_path))
        client.set_missing_host_key_policy(paramiko.RejectPolicy())
        try:
            client.connect(
                lab.address,
                lab.port,
                lab.user,
                key_filename=str(lab.key_path),
                look_for_keys=False,
                allow_agent=False,
                timeout=_CONNECT_TIMEOUT_S,
            )
            _, out, errors = client.exec_command(" ".join(words))
            shutil.copyfileobj(out, sys.stdout.buffer)
            shutil.copyfileobj(errors, sys.stderr.buffer)
            return int(out.channel.recv_exit_status())
        except (OSError, paramiko.SSHException) as error:
            raise LabError(
                f"lab {lab.name!r} takes no SSH session on {lab.address}:{lab.port}: {error}"
            ) from None


def _line(lab: EmbeddedLab) -> str:
    facts = lab.describe()
    started = datetime.fromtimestamp(float(facts["started"])).strftime("%Y-%m-%d %H:%M:%S")
    state = "up" if facts["alive"] else "dead ('vfiocert lab reset' or 'lab down')"
    accel = facts["accel"] if facts["accel"] == "kvm" else f"tcg, {facts['accel_why']}"
    return (
        f"{lab.name}: {state}, Linux {lab.kernel_release} {facts['flavour']}, "
        f"{lab.user}@{lab.address}:{lab.port}, since {started}, {accel}"
    )
