# SPDX-License-Identifier: Apache-2.0
"""Fetch `linux-source-X.Y` from Debian through a *private* apt configuration.

It has its own sources list, package lists and cache, so that nothing on the system changes and no root is
needed.  The mirror is the machine's own (`apt-get indextargets`), none is named here; every list and package
is checked against Debian's archive keyring.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from harness.errors import LabError, UsageError
from harness.lab.watched import watched
from harness.progress import Progress

__all__ = ["choose_version", "fetch_package", "offered_versions", "pick_mirror"]

# The lab's configuration was made for 7.2.12, and the clauses were first checked on it.
_PREFERRED = {"7.2": "7.2.12-1"}
_SUITES = ("bookworm-backports", "trixie", "trixie-backports", "forky", "sid")
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_QUERY_TIMEOUT_S = 120
_UPDATE_TIMEOUT_S = 900
_DOWNLOAD_TIMEOUT_S = 3600


def fetch_package(series: str, scratch: Path, progress: Progress) -> tuple[Path, str]:
    """Download the source package of `series` ("7.2", "7.2.12") into `scratch`; return its path and version.

    UsageError if the archive has no such version, LabError if the archive cannot be reached.
    """
    name = "linux-source-" + ".".join(series.split(".")[:2])
    env = _private_apt(scratch)
    progress.step("reading Debian's package lists")
    watched(
        ["apt-get", "-c", str(scratch / "hooks.conf"), "update", "-q"],
        scratch / "update.log",
        _UPDATE_TIMEOUT_S,
        progress,
        lambda: None,
        env=env,
    )
    offer = offered_versions(_query(["apt-cache", "madison", name], env))
    if not offer:
        available = re.findall(
            r"^linux-source-(\d+\.\d+) ",
            _query(["apt-cache", "search", "--names-only", "^linux-source-[0-9]"], env),
            re.M,
        )
        raise UsageError(
            f"--kernel {series}: Debian has no {name}; on offer: "
            + (", ".join(sorted(set(available))) or "none")
        )
    version = choose_version(series, list(offer))
    total = _offer_size(name, version, env)
    progress.step(f"downloading {name} {version} ({total >> 20} MB)")
    here = scratch / "download"
    here.mkdir()
    watched(
        ["sh", "-c", 'cd "$1" && exec apt-get download -q "$2"', "sh", str(here), f"{name}={version}"],
        scratch / "download.log",
        _DOWNLOAD_TIMEOUT_S,
        progress,
        lambda: _downloaded(here, total),
        env=env,
    )
    found = list(here.glob("*.deb"))
    if len(found) != 1:
        raise LabError(f"apt-get download {name}={version} left {len(found)} packages instead of 1")
    return found[0], version


def pick_mirror(targets: str) -> str:
    """Pick the mirror from the lines `URI RELEASE` that `apt-get indextargets` prints.

    Take the first that serves a plain Debian suite (no -security, no other archive); UsageError if none does.
    """
    known = {"bullseye", "bookworm", "trixie", "forky", "sid", "stable", "testing", "unstable", "oldstable"}
    for line in targets.splitlines():
        words = line.split()
        # Another archive may have a suite of the same name, but its address hardly ends in /debian.
        if (
            len(words) == 2
            and re.fullmatch(r"[a-z+]+:/\S*", words[0])
            and "[" not in words[0]
            and words[1].split("-")[0] in known
            and words[1] in known
            and words[0].rstrip("/").endswith("/debian")
        ):
            return words[0]
    raise UsageError(
        "this machine's apt configuration names no Debian mirror, so linux-source cannot be "
        "fetched; give --kernel a built tree, a source tree or a tarball"
    )


def offered_versions(madison: str) -> dict[str, None]:
    """Versions of `apt-cache madison` lines (`name | version | where`), in order, without repeats."""
    offer: dict[str, None] = {}
    for line in madison.splitlines():
        columns = [column.strip() for column in line.split("|")]
        if len(columns) == 3 and re.fullmatch(r"[0-9A-Za-z.+~:-]{1,64}", columns[1]):
            offer[columns[1]] = None
    return offer


def choose_version(series: str, offered: list[str]) -> str:
    """Choose a version from `offered` (any order): the known one, else the newest of `series`.

    `series` "7.2" means any 7.2.x, "7.2.12" only that one.  UsageError lists what is offered.
    """
    fitting = [version for version in offered if re.match(re.escape(series) + r"[.~+-]", version)]
    if not fitting:
        raise UsageError(
            f"--kernel {series}: no such version; on offer: " + (", ".join(sorted(set(offered))) or "none")
        )
    preferred = _PREFERRED.get(series)
    return preferred if preferred in fitting else max(fitting, key=_version_key)


def _offer_size(name: str, version: str, env: dict[str, str]) -> int:
    found = re.search(r"^Size: (\d{1,12})$", _query(["apt-cache", "show", f"{name}={version}"], env), re.M)
    return int(found.group(1)) if found else 0


def _version_key(version: str) -> tuple[tuple[int, ...], bool, tuple[int, ...]]:
    upstream, _, revision = version.partition("-")
    # "7.2~rc3" sorts before "7.2", as in dpkg.
    base, _, candidate = upstream.partition("~")
    numbers = tuple(int(part) for part in re.findall(r"\d+", base))
    return numbers, not candidate, tuple(int(part) for part in re.findall(r"\d+", candidate + " " + revision))


def _private_apt(scratch: Path) -> dict[str, str]:
    if not Path(_KEYRING).is_file():
        raise UsageError(
            f"{_KEYRING} is missing, so packages cannot be verified: apt-get install debian-archive-keyring"
        )
    env = {**os.environ, "LC_ALL": "C.UTF-8"}
    mirror = pick_mirror(_query(["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE)"], env))
    for name in ("state/lists/partial", "cache/archives/partial"):
        (scratch / name).mkdir(parents=True)
    (scratch / "status").touch()
    (scratch / "sources.list").write_text(
        "".join(f"deb [signed-by={_KEYRING}] {mirror} {suite} main\n" for suite in _SUITES), encoding="utf-8"
    )
    (scratch / "apt.conf").write_text(
        f'Dir::State "{scratch}/state";\nDir::State::status "{scratch}/status";\n'
        f'Dir::Cache "{scratch}/cache";\nDir::Etc::sourcelist "{scratch}/sources.list";\n'
        'Dir::Etc::sourceparts "/dev/null";\nAcquire::Languages "none";\nAcquire::Retries "3";\n'
        # As root, apt would drop to a user that cannot write here.
        'APT::Sandbox::User "root";\n',
        encoding="utf-8",
    )
    # The system's hooks are not for this private configuration.  Clear them in a file of its own: APT_CONFIG
    # is read before the files that define the hooks, whose other settings (a proxy) are needed.
    (scratch / "hooks.conf").write_text(
        "#clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n", encoding="utf-8"
    )
    return {**env, "APT_CONFIG": str(scratch / "apt.conf")}


def _query(command: list[str], env: dict[str, str]) -> str:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            env=env,
            timeout=_QUERY_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        raise UsageError(
            f"program {command[0]!r} is missing: this is no Debian system; give --kernel a "
            "built tree, a source tree or a tarball"
        ) from None
    except subprocess.TimeoutExpired:
        raise LabError(f"{command[0]} {command[1]} did not end within {_QUERY_TIMEOUT_S} s") from None
    return done.stdout


def _downloaded(folder: Path, total: int) -> float | None:
    sizes = [path.stat().st_size for path in folder.iterdir() if path.is_file()]
    return max(sizes) / total if sizes and total else None
