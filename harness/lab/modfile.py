# SPDX-License-Identifier: Apache-2.0
"""Read kernel modules (`.ko`) and write the indexes that `modprobe` needs, without kmod.

Only the `.modinfo` section is read: NUL-separated `key=value` strings, the same that `modinfo` prints.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import UsageError

__all__ = ["ModuleInfo", "closure", "read_module", "write_indexes"]

_MAX_MODULE_BYTES = 512 << 20
_EHDR = struct.Struct("<16sHHIQQQIHHHHHH")
_SHDR = struct.Struct("<IIQQQQIIQQ")


@dataclass(frozen=True)
class ModuleInfo:
    """The `.modinfo` of one module file; `name` has underscores, as in /proc/modules."""

    name: str
    path: Path
    depends: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    softdeps: tuple[str, ...] = ()
    vermagic: str = ""
    srcversion: str = ""
    extra: Mapping[str, str] = field(default_factory=dict)


def read_module(path: Path) -> ModuleInfo:
    """Read the `.modinfo` of `path`; UsageError if it is not an uncompressed 64-bit little-endian module."""
    depends: tuple[str, ...] = ()
    aliases: list[str] = []
    softdeps: list[str] = []
    values: dict[str, str] = {}
    for entry in _modinfo_section(path).split(b"\0"):
        key, found, value = entry.decode("utf-8", "replace").partition("=")
        if not found:
            continue
        if key == "depends":
            depends = tuple(name.replace("-", "_") for name in value.split(",") if name)
        elif key == "alias":
            aliases.append(value)
        elif key == "softdep":
            softdeps.append(value)
        else:
            values.setdefault(key, value)
    name = values.get("name") or path.name.removesuffix(".ko")
    return ModuleInfo(
        name.replace("-", "_"),
        path,
        depends,
        tuple(aliases),
        tuple(softdeps),
        values.get("vermagic", ""),
        values.get("srcversion", ""),
        values,
    )


def closure(wanted: set[str], modules: Mapping[str, ModuleInfo]) -> set[str]:
    """`wanted` and all their dependencies that are in `modules` (by name); the others are built in."""
    done: set[str] = set()
    todo = [name for name in wanted if name in modules]
    while todo:
        name = todo.pop()
        if name not in done:
            done.add(name)
            todo += [need for need in modules[name].depends if need in modules]
    return done


def write_indexes(modules: list[ModuleInfo], folder: Path) -> None:
    """Write `modules.dep`, `modules.alias` and `modules.softdep` for the flat folder `folder`."""
    by_name = {module.name: module for module in modules}
    dep: list[str] = []
    alias: list[str] = []
    soft: list[str] = []
    for module in sorted(modules, key=lambda found: found.name):
        needs = _ordered_needs(module, by_name)
        dep.append(f"{module.path.name}:" + "".join(f" {by_name[need].path.name}" for need in needs))
        alias += [f"alias {text} {module.name}" for text in module.aliases]
        soft += [f"softdep {module.name} {text}" for text in module.softdeps]
    for name, lines in (("modules.dep", dep), ("modules.alias", alias), ("modules.softdep", soft)):
        (folder / name).write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def _ordered_needs(module: ModuleInfo, by_name: Mapping[str, ModuleInfo]) -> list[str]:
    """Dependencies, the direct ones first: modprobe loads the line from its end to its beginning."""
    order: list[str] = []

    def visit(current: ModuleInfo, above: tuple[str, ...]) -> None:
        for need in current.depends:
            if need in by_name and need not in above:
                visit(by_name[need], (*above, need))
                if need not in order:
                    order.append(need)

    visit(module, (module.name,))
    return order[::-1]


def _modinfo_section(path: Path) -> bytes:
    try:
        size = path.stat().st_size
        if size > _MAX_MODULE_BYTES:
            raise UsageError(f"module {path} has {size} bytes, more than {_MAX_MODULE_BYTES}")
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"module {path} cannot be read: {error.strerror}") from None
    try:
        if data[:6] != b"\x7fELF\x02\x01":
            raise UsageError(
                f"module {path} is not an uncompressed 64-bit little-endian ELF file; "
                "decompress it (xz -d, zstd -d, gzip -d) or name the .ko of the build tree"
            )
        header = _EHDR.unpack_from(data)
        offset, size, count, names_at = header[6], header[11], header[12], header[13]
        if size != _SHDR.size or names_at >= count:
            raise UsageError(f"module {path} has a damaged ELF section table")
        sections = [_SHDR.unpack_from(data, offset + i * size) for i in range(count)]
        names = data[sections[names_at][4] : sections[names_at][4] + sections[names_at][5]]
        for section in sections:
            end = names.find(b"\0", section[0])
            if names[section[0] : end] == b".modinfo":
                return data[section[4] : section[4] + section[5]]
    except struct.error:
        raise UsageError(f"module {path} is a truncated ELF file") from None
    raise UsageError(f"module {path} has no .modinfo section: not a kernel module")
