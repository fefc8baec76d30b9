# SPDX-License-Identifier: Apache-2.0
"""The command line `vfiocert COMMAND` and its exit status.

A command's module is imported only when that command runs.  The exit status is 0 to 4 (`harness.errors`) or,
as in a shell, 128 plus the signal: 130 interrupted, 141 nobody reads the output, 143 terminated.
"""

from __future__ import annotations

import importlib
import os
import select
import signal
import sys
import tempfile
import traceback
from collections.abc import Sequence
from difflib import get_close_matches
from types import FrameType
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from harness import __version__
from harness.commands import COMMANDS
from harness.errors import EXIT_CONFORMING, EXIT_HARNESS_BUG, EXIT_USAGE, UsageError, VfiocertError

__all__ = ["build", "load", "main"]

PROGRAM = "vfiocert"
EXIT_INTERRUPTED = 128 + signal.SIGINT
EXIT_NO_READER = 128 + signal.SIGPIPE
EXIT_TERMINATED = 128 + signal.SIGTERM


def load(name: str) -> Any:
    """Import and return the typer command `name`: None if unknown, UsageError if it has no module."""
    entry = COMMANDS.get(name)
    if entry is None:
        return None
    module_name, _, attribute = entry.target.partition(":")
    try:
        body = getattr(importlib.import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        if error.name != module_name:
            raise
        raise UsageError(f"command '{name}' is not in this version: no {module_name}") from error
    if isinstance(body, typer.Typer):
        return typer.main.get_command(body)
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(name, help=body.__doc__ or entry.summary)(body)
    return typer.main.get_command(app)


class LazyGroup(TyperGroup):
    """The top-level command group: lists all commands, imports only the one that is used."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return load(cmd_name)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in COMMANDS.items()])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            close = get_close_matches(name, COMMANDS, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise UsageError(f"'{name}' is not a command: {', '.join(COMMANDS)}{hint}")
        return super().resolve_command(ctx, args)


def _show_version(value: bool) -> None:
    if value:
        print(f"{PROGRAM} {__version__}")
        raise typer.Exit()


def build() -> Any:
    """Build the command line as one typer group; no command's module is imported yet."""
    app = typer.Typer(cls=LazyGroup, add_completion=False, rich_markup_mode=None, no_args_is_help=True)

    @app.callback()
    def top(
        version: Annotated[
            bool, typer.Option("--version", is_eager=True, callback=_show_version, help="print the version")
        ] = False,
    ) -> None:
        """Certify VFIO devices the way their user space sees them.

        Every option can also be set by an environment variable: VFIOCERT, the command and the option, in
        capitals, joined by underscores (certify --budget: VFIOCERT_CERTIFY_BUDGET).

        Exit status: 0 conforming or done, 1 non-conforming, 2 wrong usage or configuration, 3 no verdict
        (the lab failed), 4 a bug in vfiocert.
        """

    return typer.main.get_command(app)


def _say(message: str) -> None:
    print(f"{PROGRAM}: {message}", file=sys.stderr)


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _report_bug(error: Exception) -> int:
    """Print a bug as one line; the traceback goes to a file, or to stderr with VFIOCERT_TRACEBACK=1."""
    text = "".join(traceback.format_exception(error))
    if os.environ.get("VFIOCERT_TRACEBACK"):
        sys.stderr.write(text)
        where = "traceback above"
    else:
        try:
            with tempfile.NamedTemporaryFile(
                "w", prefix="vfiocert-traceback-", suffix=".txt", delete=False, encoding="utf-8"
            ) as file:
                file.write(text)
            where = f"traceback in {file.name}, or with VFIOCERT_TRACEBACK=1"
        except OSError as os_error:
            where = f"no traceback file could be written ({os_error}); VFIOCERT_TRACEBACK=1 shows it"
    _say(f"a bug in vfiocert, not a finding: {_one_line(error)}; {where}")
    return EXIT_HARNESS_BUG


def _output_is_read() -> bool:
    """Return False if stdout or stderr is a pipe that has lost its reader."""
    poller = select.poll()
    for stream in (1, 2):
        poller.register(stream, 0)
    return not any(event & select.POLLERR for _, event in poller.poll(0))


def _on_sigterm(_number: int, _frame: FrameType | None) -> NoReturn:
    # Commands clean up (undo, leases, the machine) in `finally`, which must run on SIGTERM too.
    raise SystemExit(EXIT_TERMINATED)


def _usage(error: TyperException) -> None:
    context = getattr(error, "ctx", None)
    message = error.format_message().strip()
    if message.startswith("Usage:"):
        # A group without a command: its help is the message.
        print(message, file=sys.stderr)
        return
    message = (message[:1].lower() + message[1:]).rstrip(".")
    _say(f"{message}; see: {context.command_path if context else PROGRAM} --help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status: the command's result if that is an int."""
    signal.signal(signal.SIGTERM, _on_sigterm)
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    group = build()
    if not arguments:
        arguments = ["--help"]
    try:
        with group.make_context(PROGRAM, arguments, auto_envvar_prefix=PROGRAM.upper()) as context:
            result = group.invoke(context)
        sys.stdout.flush()
    except typer.Exit as stop:
        return _flush(stop.exit_code)
    except TyperException as error:
        _usage(error)
        return EXIT_USAGE
    except (KeyboardInterrupt, typer.Abort):
        _say("interrupted")
        return EXIT_INTERRUPTED
    except VfiocertError as error:
        if os.environ.get("VFIOCERT_TRACEBACK"):
            traceback.print_exc()
        _say(" ".join(str(error).split()))
        return error.exit_code
    except BrokenPipeError as error:
        # Only if the reader of our output is gone; a broken pipe to another program is a bug.
        return EXIT_NO_READER if not _output_is_read() else _report_bug(error)
    except Exception as error:
        return _report_bug(error)
    return int(result) if isinstance(result, int) else EXIT_CONFORMING


def _flush(status: int) -> int:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return EXIT_NO_READER
    return status


if __name__ == "__main__":
    status = main()
    if status == EXIT_NO_READER:
        # What is still buffered cannot be written; the interpreter must not complain about it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(status)
