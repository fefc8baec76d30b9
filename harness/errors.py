# SPDX-License-Identifier: Apache-2.0
"""The error classes: the class says whose fault a failure is, and sets the exit status.

Only positive evidence against the device makes a `DeviceFinding`; a failure of unknown cause is a
`LabError`.  Messages are lower case, without a final period, and show value, name, place and the fix.
"""

from __future__ import annotations

__all__ = ["DeviceFinding", "HarnessError", "LabError", "UsageError", "VfiocertError"]

EXIT_CONFORMING = 0
EXIT_NON_CONFORMING = 1
EXIT_USAGE = 2
EXIT_NO_VERDICT = 3
EXIT_HARNESS_BUG = 4


class VfiocertError(Exception):
    """Base of every error a user may see as one line; `exit_code` is the process's exit status."""

    exit_code = EXIT_NO_VERDICT


class DeviceFinding(VfiocertError):
    """The device under test broke a clause: the only error that makes a verdict non-conforming."""

    exit_code = EXIT_NON_CONFORMING


class UsageError(VfiocertError):
    """The command line or a configuration file is wrong; the message says what is allowed."""

    exit_code = EXIT_USAGE


class LabError(VfiocertError):
    """The lab failed: unreachable, crashed, leased by another run, out of disk.  Never a finding."""

    exit_code = EXIT_NO_VERDICT


class HarnessError(VfiocertError):
    """A bug in vfiocert itself."""

    exit_code = EXIT_HARNESS_BUG
