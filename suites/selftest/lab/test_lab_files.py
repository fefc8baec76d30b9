# SPDX-License-Identifier: Apache-2.0
"""Formats the embedded lab reads and writes: cpio archives, kernel modules, Kconfig fragments."""

from __future__ import annotations

import gzip
import io
import stat
import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.lab.cpio import CpioWriter
from harness.lab.image import key_archive
from harness.lab.kconfig import FLAVOURS, compare_config, fragments, known_symbols, read_config
from harness.lab.machine import Qemu, command_line
from harness.lab.modfile import ModuleInfo, closure, read_module, write_indexes


def entries(data):
    """Reads a newc archive by the kernel's description of it: name to (mode, content)."""
    found, at = {}, 0
    while True:
        assert data[at : at + 6] == b"070701"
        fields = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = data[at + 110 : at + 110 + name_size]
        assert name.endswith(b"\0")
        start = (at + 110 + name_size + 3) & ~3
        if name == b"TRAILER!!!\0":
            return found
        found[name[:-1].decode()] = (mode, data[start : start + size], fields)
        at = (start + size + 3) & ~3


def written(fill):
    out = io.BytesIO()
    with CpioWriter(out) as cpio:
        fill(cpio)
    return out.getvalue()


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(st.from_regex(r"[a-z]{1,9}(/[a-z]{1,5}){0,3}\.x", fullmatch=True), st.binary(max_size=50))
)
def test_cpio_holds_what_was_put_in(files):
    def fill(cpio):
        for path, data in files.items():
            cpio.file(path, data, 0o640)

    found = entries(written(fill))
    assert {name: value[1] for name, value in found.items() if stat.S_ISREG(value[0])} == files
    for path in files:
        for at in (i for i, letter in enumerate(path) if letter == "/"):
            assert stat.S_ISDIR(found[path[:at]][0])


def test_cpio_entries_belong_to_root_and_have_no_time():
    fields = entries(written(lambda cpio: cpio.file("a", b"x")))["a"][2]
    assert fields[2:4] == [0, 0]
    assert fields[5] == 0


def test_cpio_writes_links_and_devices():
    def fill(cpio):
        cpio.link("bin/sh", "/bin/busybox")
        cpio.device("dev/null", 1, 3, 0o666)

    found = entries(written(fill))
    assert stat.S_ISLNK(found["bin/sh"][0])
    assert found["bin/sh"][1] == b"/bin/busybox"
    assert stat.S_ISCHR(found["dev/null"][0])
    assert found["dev/null"][2][9:11] == [1, 3]


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../b", ""])
def test_cpio_refuses_paths_that_leave_the_image(path):
    with pytest.raises(ValueError, match="must be relative"):
        written(lambda cpio: cpio.file(path, b""))


def test_cpio_refuses_a_path_twice():
    def fill(cpio):
        cpio.file("a", b"")
        cpio.link("a", "b")

    with pytest.raises(ValueError, match="twice"):
        written(fill)


def test_key_archive_keeps_keys_private():
    found = entries(gzip.decompress(key_archive(b"secret", "ssh-ed25519 AAAA", "host")))
    assert found["etc/dropbear/host_key"][:2] == (stat.S_IFREG | 0o600, b"secret")
    assert found["root/.ssh/authorized_keys"][:2] == (stat.S_IFREG | 0o600, b"ssh-ed25519 AAAA\n")
    assert found["root/.ssh"][0] == stat.S_IFDIR | 0o700


def module_file(path, *entries_):
    """A minimal ELF file with a .modinfo section of `entries_`."""
    info = b"".join(entry.encode() + b"\0" for entry in entries_)
    names = b"\0.modinfo\0.shstrtab\0"
    body = info + names
    sections = [
        struct.pack("<IIQQQQIIQQ", 0, 0, 0, 0, 0, 0, 0, 0, 0, 0),
        struct.pack("<IIQQQQIIQQ", 1, 1, 0, 0, 64, len(info), 0, 0, 1, 0),
        struct.pack("<IIQQQQIIQQ", 10, 3, 0, 0, 64 + len(info), len(names), 0, 0, 1, 0),
    ]
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        1,
        62,
        1,
        0,
        0,
        64 + len(body),
        0,
        64,
        0,
        0,
        64,
        len(sections),
        2,
    )
    path.write_bytes(header + body + b"".join(sections))
    return path


def test_module_says_what_it_needs_and_serves(tmp_path):
    path = module_file(
        tmp_path / "vfio-pci.ko",
        "name=vfio_pci",
        "depends=vfio-pci-core,vfio",
        "license=GPL",
        "alias=vfio_pci:v*d*sv*sd*bc*sc*i*",
        "vermagic=7.2.12 SMP",
        "srcversion=ABC",
    )
    info = read_module(path)
    assert info.name == "vfio_pci"
    assert info.depends == ("vfio_pci_core", "vfio")
    assert info.aliases == ("vfio_pci:v*d*sv*sd*bc*sc*i*",)
    assert (info.vermagic, info.srcversion) == ("7.2.12 SMP", "ABC")


@given(st.binary(max_size=300))
def test_damaged_module_is_an_error_of_the_user(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("m") / "x.ko"
    path.write_bytes(b"\x7fELF\x02\x01" + data)
    with pytest.raises(UsageError, match=r"x\.ko"):
        read_module(path)


def test_compressed_module_is_named_as_such(tmp_path):
    path = tmp_path / "x.ko"
    path.write_bytes(b"\xfd7zXZ")
    with pytest.raises(UsageError, match="decompress"):
        read_module(path)


def infos(tmp_path):
    chain = {"a": ("b", "c"), "b": ("c",), "c": (), "d": ("absent",)}
    return {name: ModuleInfo(name, tmp_path / f"{name}.ko", needs) for name, needs in chain.items()}


def test_closure_follows_what_is_there(tmp_path):
    assert closure({"a"}, infos(tmp_path)) == {"a", "b", "c"}
    assert closure({"d", "absent"}, infos(tmp_path)) == {"d"}


def test_index_lists_needs_so_that_the_last_loads_first(tmp_path):
    write_indexes(list(infos(tmp_path).values()), tmp_path)
    lines = (tmp_path / "modules.dep").read_text().splitlines()
    assert lines == ["a.ko: b.ko c.ko", "b.ko: c.ko", "c.ko:", "d.ko:"]


def test_a_line_that_did_not_survive_is_told_from_one_nobody_knows():
    lost, unknown = compare_config({"A": "y", "B": "m", "C": "y", "D": "n"}, {"A": "y", "B": "y"}, {"A", "B"})
    assert lost == ["CONFIG_B=m (is y)"]
    assert unknown == ["CONFIG_C=y"]


def test_symbols_are_found_in_every_kconfig_file(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "Kconfig").write_text("config ONE\n\tbool\n")
    (tmp_path / "sub/Kconfig.more").write_text("menuconfig TWO\n\tbool\n\tdefault ONE\n")
    assert known_symbols(tmp_path) == {"ONE", "TWO"}


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_fragments_are_lines_of_configuration_only(flavour):
    for path in fragments(flavour):
        lines = [
            line
            for line in path.read_text().splitlines()
            if line and (not line.startswith("# ") or line.endswith("is not set"))
        ]
        assert len(read_config(path)) == len(lines) > 1


def test_unknown_flavour_prints_the_known_ones():
    with pytest.raises(UsageError, match="plain, debug"):
        fragments("fast")


def test_only_a_resumed_lab_that_wants_one_has_a_scratch_disk(tmp_path):
    """Verify: the saved machine, which all labs share, has none."""
    qemu = Qemu("qemu", "9", "tcg", "", frozenset(), False)

    def arguments(resume, scratch):
        return " ".join(
            command_line(
                qemu, tmp_path, kernel=tmp_path, initrd=tmp_path, memory_mib=1, port=1, resume=resume,
                scratch=scratch,
            )
        )  # fmt: skip

    assert f"file={tmp_path / 'disk'},if=none" in arguments(tmp_path / "state", tmp_path / "disk")
    assert "virtio-blk" not in arguments(tmp_path / "state", None)
    assert "virtio-blk" not in arguments(None, tmp_path / "disk")
