# SPDX-License-Identifier: Apache-2.0
"""The shape of the tree: imports go down, licences are stated, nothing names this machine or a registry."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# A file or folder and its rank; the longest entry that fits counts. An entry imports from entries of a
# smaller rank only (docs/architecture.md); files of one entry are free among themselves.
RANKS = {
    "harness/__init__.py": 0,
    "harness/errors.py": 0,
    "harness/uapi": 0,
    "harness/progress.py": 1,
    "harness/spec": 1,
    "harness/agent": 1,
    "harness/profiles": 2,
    "harness/program": 2,
    "harness/engines": 3,
    "harness/oracle": 4,
    "reports": 5,
    "harness/hosts/inventory": 6,
    "harness/hosts": 7,
    "harness/probes": 6,
    "harness/lab": 8,
    "fixtures": 9,
    "suites": 10,
    "harness/commands": 11,
    "harness/__main__.py": 12,
    "conftest.py": 12,
    "suites/conftest.py": 12,
    "suites/selftest": 13,
}
PACKAGES = {"harness", "reports", "fixtures", "suites"}


@cache
def tracked() -> tuple[str, ...]:
    """Every file of the project, new ones included, relative to its folder."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    return tuple(sorted(f for f in set(listing.split("\0")) if f and (ROOT / f).is_file()))


def python_files() -> list[str]:
    return [f for f in tracked() if f.endswith(".py")]


@cache
def text_of(path: str) -> str | None:
    """The text of a file, None for a binary one."""
    data = (ROOT / path).read_bytes()
    if b"\0" in data[:8192]:
        return None
    return data.decode("utf-8", "replace")


def entry_of(path: str) -> str | None:
    fits = [e for e in RANKS if path == e or path.startswith(e + "/")]
    return max(fits, key=len, default=None)


def file_of(module: str) -> str | None:
    base = module.replace(".", "/")
    for path in (f"{base}.py", f"{base}/__init__.py"):
        if (ROOT / path).is_file():
            return path
    return f"{base}/__init__.py" if (ROOT / base).is_dir() else None


def imports_of(path: str, source: str) -> Iterator[tuple[int, str]]:
    """Line and module of every import of ours: deferred or for types only too, absolute or relative."""
    package = path.removesuffix("/__init__.py").removesuffix(".py").split("/")
    if not path.endswith("/__init__.py"):
        package = package[:-1]
    for node in ast.walk(ast.parse(source, path)):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            # `from package import name`: the name may be a module of its own.
            modules = [m if file_of(m := f"{stem}.{alias.name}") else stem for alias in node.names]
        else:
            continue
        yield from ((node.lineno, m) for m in modules if m.split(".")[0] in PACKAGES)


def upward_imports(path: str, source: str) -> list[str]:
    """What is wrong with the imports of one file, a line each."""
    here = entry_of(path)
    if here is None:
        return [f"{path}: has no rank: give it one in RANKS (suites/selftest/test_layout.py)"]
    wrong = []
    for line, module in imports_of(path, source):
        target = file_of(module)
        there = entry_of(target) if target else None
        if target is None or there is None:
            wrong.append(f"{path}:{line}: imports {module}, which is no file with a rank")
        elif there != here and RANKS[there] >= RANKS[here]:
            wrong.append(f"{path}:{line}: imports {module}, rank {RANKS[there]}, from rank {RANKS[here]}")
    return wrong


def test_imports_only_go_down():
    """Steps: read every import of every file. Verify: its target has a smaller rank."""
    wrong = [w for f in python_files() for w in upward_imports(f, text_of(f) or "")]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "source",
    [
        "import harness.oracle",
        "from harness import oracle",
        "def f():\n    from harness.oracle.judge import judge",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from harness.commands import COMMANDS",
        "from ..oracle import judge",
        "from .. import oracle",
        "from harness.no_such_module import x",
    ],
)
def test_an_upward_import_is_seen_however_it_is_written(source):
    assert len(upward_imports("harness/spec/clause.py", source)) == 1


def circles(sources: dict[str, str]) -> list[list[str]]:
    """The circles of imports among `sources` (path -> text), each as the sorted paths that are in it.

    An import in a function, or for types only, counts: a module that needs another one back is half of it.
    """
    wanted: dict[str, set[str]] = {}
    for path, source in sources.items():
        targets = {file_of(module) for _, module in imports_of(path, source)}
        wanted[path] = {t for t in targets if t in sources}

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        rest = list(wanted[start])
        while rest:
            path = rest.pop()
            if path not in seen:
                seen.add(path)
                rest += wanted[path]
        return seen

    reach = {path: reached(path) for path in wanted}
    in_one = {
        path: sorted(p for p in reach[path] if path in reach[p]) for path in wanted if path in reach[path]
    }
    return [list(c) for c in sorted({tuple(c) for c in in_one.values()})]


def test_no_circle_of_imports():
    """Steps: read every import of every file. Verify: no file is reached from itself."""
    found = circles({f: text_of(f) or "" for f in python_files()})
    assert not found, "\n".join(" <-> ".join(c) for c in found)


@pytest.mark.parametrize(
    "back",
    [
        "from harness.agent.slots import Slots",
        "import harness.agent.slots",
        "from . import slots",
        "def f():\n    from .slots import Slots",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..agent import slots",
    ],
)
def test_a_circle_of_imports_is_seen_however_it_is_written(back):
    """Steps: three files, of which the last imports the first. Verify: seen, and not without that line."""
    sources = {
        "harness/agent/slots.py": "from . import wire",
        "harness/agent/wire.py": "from harness.agent.failure import Failure",
        "harness/agent/failure.py": back,
        "harness/agent/main.py": "from . import slots",
    }
    ring = ["harness/agent/failure.py", "harness/agent/slots.py", "harness/agent/wire.py"]
    assert circles(sources) == [ring]
    assert circles({**sources, "harness/agent/failure.py": "import os"}) == []


def test_a_file_that_imports_itself_is_seen():
    assert circles({"harness/errors.py": "from harness.errors import LabError"}) == [["harness/errors.py"]]


def test_a_file_without_rank_is_seen():
    assert "has no rank" in upward_imports("harness/nobody_ranked_me.py", "")[0]


def test_agent_and_uapi_are_islands():
    """They run on the lab host under Python 3.8: they import its standard library, themselves, and uapi."""
    allowed = {"harness.agent": ("harness.agent", "harness.uapi"), "harness.uapi": ("harness.uapi",)}
    younger = {"tomllib", "graphlib", "zoneinfo"}
    wrong = []
    for path in python_files():
        mine = ".".join(path.split("/")[:2])
        if mine not in allowed:
            continue
        source = text_of(path) or ""
        try:
            tree = ast.parse(source, path, feature_version=(3, 8))
        except SyntaxError as error:
            wrong.append(f"{path}:{error.lineno}: not Python 3.8: {error.msg}")
            continue
        ours = {m for _, m in imports_of(path, source)}
        wrong += [f"{path}: imports {m}" for m in ours if not m.startswith(allowed[mine])]
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level and node.module:
                names = [node.module]
            for top in (n.split(".")[0] for n in names):
                if top not in PACKAGES and (top not in sys.stdlib_module_names or top in younger):
                    wrong.append(f"{path}:{node.lineno}: {top} is not in the standard library of 3.8")
    assert not wrong, "\n".join(wrong)


# What carries its own licence line; REUSE.toml speaks for the rest (documents, data).
TAGGED = re.compile(
    r"\.(py|c|h|sh|toml|ya?ml|in|lock|config|j2)$|(^|/)(Makefile|Kbuild|packages\.txt|vfiocert|run|\.gitignore)$"
    r"|^harness/lab/init/"
)
KERNEL_SPELLING = {"GPL-2.0": "GPL-2.0-only"}
TAG = re.compile(r"SPDX-License-Identifier: (\S+)")


def test_every_source_says_its_licence():
    wrong = []
    for path in tracked():
        head = "\n".join((text_of(path) or "").splitlines()[:4])
        if not TAGGED.search(path) and not head.startswith("#!"):
            continue
        found = TAG.search(head)
        if found is None:
            wrong.append(f"{path}: no SPDX-License-Identifier in its first lines")
        elif not (ROOT / "LICENSES" / f"{KERNEL_SPELLING.get(found[1], found[1])}.txt").is_file():
            wrong.append(f"{path}: {found[1]} has no text in LICENSES/")
    assert not wrong, "\n".join(wrong)


# Hosts that a text may name, as references. Packages come from what the machine is configured to use.
HOSTS = re.compile(
    r"(www\.)?(apache\.org|kernel\.org|gnu\.org|json-schema\.org|spdx\.org|w3\.org|testanything\.org)"
    r"|[\w.-]+\.kernel\.org|[\w.-]*\.?example(\.com|\.org)?|[\w.-]+\.(invalid|test)|[\w-]+|127\.0\.0\.1"
)
URL = re.compile(r"(?:https?|ftp|git|ssh)://(?:[^/@\s]*@)?\[?([\w.:-]+?)\]?(?::\d+)?(?=[/\s\"'`)>,;]|$)")
REGISTRY = re.compile(r"\b(pypi|pythonhosted|npmjs|debian|crates|ubuntu)\.(org|net|io|com)\b")
HERE = re.compile(
    r"(?<![\w.}])(/work[/]|/home/\w|/root/\.|/opt/(?:pypi|wheels)|/tmp/(?:kb|ksrc|venv|brief)\b)"
)


def foreign_words(path: str, text: str) -> list[str]:
    """Paths of this machine, registries and other hosts that `text` names, one line each."""
    wrong = []
    for number, line in enumerate(text.splitlines(), 1):
        found = [m[0] for m in HERE.finditer(line)] + [m[0] for m in REGISTRY.finditer(line)]
        found += [m[1] for m in URL.finditer(line) if not HOSTS.fullmatch(m[1])]
        wrong += [f"{path}:{number}: names {word}" for word in found]
    return wrong


def test_nothing_names_a_registry_or_this_machine():
    wrong = []
    for path in tracked():
        if path.startswith("LICENSE"):
            continue
        wrong += foreign_words(path, text_of(path) or "")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "line",
    [
        "--index-url https://{0}/simple",
        "deb http://{1}/debian bookworm main",
        "from {2}",
        "open('/wor{3}k/main/x')",
        "see http:/{3}/user@10.0.0.7:8080/x",
    ],
)
def test_a_foreign_word_is_seen(line):
    text = line.format("pypi" + ".org", "deb.debian" + ".org", "files.pythonhosted" + ".org", "")
    assert foreign_words("x", text)


@pytest.mark.parametrize("line", ["https://www.kernel.org/doc", "ssh://root@127.0.0.1:2222/", "/workspace/x"])
def test_a_harmless_word_is_not(line):
    assert not foreign_words("x", line)


def test_the_lock_pins_every_requirement_with_hashes():
    """Steps: read requirements.in and .lock. Verify: same versions, hashes for all, no index, no marker."""

    def name(text: str) -> str:
        return re.sub(r"[-_.]+", "-", text).lower()

    wanted = {}
    for line in (text_of("requirements.in") or "").splitlines():
        if line and not line.startswith("#"):
            requirement, _, why = line.partition("#")
            package, _, version = requirement.strip().partition("==")
            assert version, f"requirements.in: {line!r} is not pinned with =="
            assert why.strip(), f"requirements.in: {line!r} does not say why"
            wanted[name(package)] = version
    locked: dict[str, str] = {}
    for block in re.split(r"\n(?=\S)", text_of("requirements.lock") or ""):
        if block.startswith("#"):
            continue
        head = re.fullmatch(r"(\S+)==(\S+)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)\n?", block)
        assert head, f"requirements.lock: not a pin with hashes alone: {block[:80]!r}"
        locked[name(head[1])] = head[2]
    assert wanted.items() <= locked.items(), (
        "requirements.lock is older than requirements.in: docs/contributing.md"
    )


# -- documents name commands that exist

COMMAND = re.compile(r"\./vfiocert((?:[ ]+[^\s`|;&#()<>]+)*)")


def documents() -> list[str]:
    return [f for f in tracked() if f.endswith(".md")]


def command_faults(words: list[str]) -> str:
    """What is wrong with a command line in a document; empty when its command and options exist."""
    from harness.__main__ import build, load
    from harness.commands import COMMANDS

    command = build()
    trail = "vfiocert"
    for word in words:
        if word.startswith("-"):
            options = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help", "-h"}
            if word.split("=")[0] not in options:
                return f"{trail} has no option {word}"
        elif trail == "vfiocert":
            if word == "COMMAND":
                return ""
            if word not in COMMANDS:
                return f"there is no command {word}"
            command, trail = load(word), f"{trail} {word}"
        elif hasattr(command, "commands") and word in command.commands:
            command, trail = command.commands[word], f"{trail} {word}"
        elif hasattr(command, "commands") and trail.count(" ") == 1 and not word.isupper():
            return f"{trail} has no command {word}"
    return ""


def test_documents_name_only_commands_and_options_that_exist():
    wrong = []
    for path in documents():
        for number, line in enumerate((text_of(path) or "").splitlines(), 1):
            for found in COMMAND.finditer(line):
                words = [w.strip("[].,:\"'") for w in found[1].split()]
                fault = command_faults([w for w in words if w])
                if fault:
                    wrong.append(f"{path}:{number}: {fault}")
    assert not wrong, "\n".join(wrong)


def test_a_command_that_does_not_exist_is_seen():
    assert command_faults(["frobnicate"])
    assert command_faults(["check", "--frobnicate"])
    assert command_faults(["new", "frobnicate"])
    assert not command_faults(["check", "--fast"])


def test_documents_link_to_files_that_exist():
    wrong = []
    for path in documents():
        for target in re.findall(r"\]\(([^)\s#]+)(?:#[^)]*)?\)", text_of(path) or ""):
            if "://" not in target and not (ROOT / path).parent.joinpath(target).exists():
                wrong.append(f"{path}: links to {target}, which is not there")
    assert not wrong, "\n".join(wrong)


# -- lines that can be read side by side

WIDEST = 120
WIDE_DOCUMENTS = {"docs/proof.md"}  # tables alone, made by a command


def wide_lines(path: str, text: str) -> list[str]:
    """Lines of prose over the width, as `path:line`; tables, code and a single long word are exempt."""
    found, fenced = [], False
    for number, line in enumerate(text.splitlines(), 1):
        fenced ^= line.lstrip().startswith("```")
        prose = path.endswith(".py") or not (fenced or line.startswith(("|", "    ", "!", "<!--")))
        if prose and len(line) > WIDEST and " " in line.strip():
            found.append(f"{path}:{number}")
    return found


def test_no_line_of_prose_is_too_wide():
    paths = [f for f in tracked() if f.endswith((".md", ".py")) and f not in WIDE_DOCUMENTS]
    assert [w for f in paths for w in wide_lines(f, text_of(f) or "")] == []


@pytest.mark.parametrize(("path", "prefix"), [("x.py", ""), ("x.md", ""), ("x.md", "* ")])
def test_a_wide_line_is_seen(path, prefix):
    assert wide_lines(path, f"short\n{prefix}{'word ' * 30}\n") == [f"{path}:2"]
    assert wide_lines("x.md", f"| {'word ' * 30} |") == []


# -- one name, one thing


def class_names(path: str, source: str) -> list[str]:
    """Public classes that a file defines for others."""
    body = ast.parse(source, path).body
    return [n.name for n in body if isinstance(n, ast.ClassDef) and not n.name.startswith("_")]


def named_twice(sources: dict[str, str]) -> list[str]:
    """Classes of one name in several files, a line each."""
    found: dict[str, list[str]] = {}
    for path, source in sources.items():
        for name in class_names(path, source):
            found.setdefault(name, []).append(path)
    return [f"{name}: {', '.join(paths)}" for name, paths in found.items() if len(paths) > 1]


def test_no_two_classes_have_one_name():
    mine = [f for f in python_files() if not f.startswith("suites/selftest/")]
    assert named_twice({f: text_of(f) or "" for f in mine}) == []


def test_two_classes_of_one_name_are_seen():
    assert named_twice({"a.py": "class Host: ...", "b.py": "class Host: ...\nclass _Own: ..."}) == [
        "Host: a.py, b.py"
    ]
    assert named_twice({"a.py": "class _Own: ...", "b.py": "class _Own: ..."}) == []
