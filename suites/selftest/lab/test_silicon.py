# SPDX-License-Identifier: Apache-2.0
"""Untouched drivers and their models: the declarative file, the check of the copy, what the reports say."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from harness.errors import LabError, UsageError
from harness.hosts.inventory import DeviceSpec, embedded_devices
from harness.lab import silicon as silicon_module
from harness.lab.machine import SILICON_PORTS, Qemu, command_line, nvme_controller, root_port
from harness.lab.silicon import check_copy, driver_digest, read_silicon, silicon_drivers
from harness.profiles import load_profile

GOOD = {
    "module": "some_vfio_pci",
    "source": "drivers/vfio/pci/some",
    "config": ["CONFIG_SOME_VFIO_PCI"],
    "model": "some_core",
    "function": "nvme",
    "port": 3,
}
DRIVER = {"Makefile": "obj-m := some.o\n", "main.c": "int one;\n", "cmd/cmd.h": "#define TWO 2\n"}


def folder_of(tmp_path: Path, **changes: object) -> Path:
    """A folder whose silicon.yaml is a good one with changes; None takes a key out."""
    (tmp_path / "nvme").mkdir(exist_ok=True)
    folder = tmp_path / str(changes.pop("folder", "some"))
    folder.mkdir()
    values = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
    (folder / "silicon.yaml").write_text(yaml.safe_dump(values))
    return folder


def tree(place: Path) -> Path:
    """A driver's source in a folder of its own."""
    for name, text in DRIVER.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text(text)
    return place


def test_a_good_file_is_read(tmp_path):
    """Verify: every key arrives; those that may be left out have their defaults."""
    silicon = read_silicon(folder_of(tmp_path))
    assert (silicon.module, silicon.model, silicon.port, silicon.vfs) == ("some_vfio_pci", "some_core", 3, 1)
    assert silicon.config == ("CONFIG_SOME_VFIO_PCI",)
    assert silicon.mainline == {}


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"nonsense": 1}, "nonsense: extra inputs are not permitted"),
        ({"model": None}, "model: field required"),
        ({"module": "some-vfio-pci"}, "module: string should match"),
        ({"source": "/etc"}, "source: string should match"),
        ({"source": "drivers/../../etc"}, "source: string should match"),
        ({"config": ["CONFIG_A; rm"]}, "config.0: string should match"),
        ({"port": 1}, "port: input should be greater than or equal to 2"),
        ({"port": 8}, "port: input should be less than 8"),
        ({"vfs": 5}, "vfs: input should be less than or equal to 4"),
        ({"mainline": {"7.2.12": "abc"}}, "mainline.7.2.12: string should match"),
        ({"function": "edu"}, "function='edu' is no folder of"),
        ({"renames": "../x.h"}, "renames: string should match"),
        ({"renames": "names.h"}, "renames='names.h' is no file of"),
    ],
)
def test_a_wrong_file_is_refused_with_its_place(tmp_path, changes, text):
    """Verify: the message names the file, the key and what is allowed."""
    folder = folder_of(tmp_path, **changes)
    with pytest.raises(UsageError) as caught:
        read_silicon(folder)
    assert str(folder / "silicon.yaml") in str(caught.value)
    assert text in str(caught.value)


def test_a_file_that_is_no_yaml_is_refused(tmp_path):
    """Verify: also what YAML itself does not take is a mistake of the file, not of ours."""
    folder = folder_of(tmp_path)
    (folder / "silicon.yaml").write_text("module: [")
    with pytest.raises(UsageError, match="cannot be read"):
        read_silicon(folder)


@pytest.mark.parametrize(
    "second, text", [({"port": 4}, "has a folder already"), ({"module": "other"}, "port=3 is that of")]
)
def test_two_folders_do_not_share_a_driver_or_a_port(tmp_path, monkeypatch, second, text):
    """Verify: whichever is read later is refused, and the other is named."""
    folder_of(tmp_path, folder="a")
    folder_of(tmp_path, folder="b", **second)
    monkeypatch.setattr(silicon_module, "SILICON", tmp_path)
    silicon_drivers.cache_clear()
    try:
        with pytest.raises(UsageError, match=text):
            silicon_drivers()
    finally:
        silicon_drivers.cache_clear()


def test_an_equal_copy_is_taken(tmp_path):
    """Verify: no complaint, and the hash of both is one."""
    ours, theirs = tree(tmp_path / "ours"), tree(tmp_path / "theirs")
    check_copy(ours, theirs)
    assert driver_digest(ours) == driver_digest(theirs)


@pytest.mark.parametrize("name", DRIVER)
def test_one_flipped_byte_is_seen(tmp_path, name):
    """Steps: flip the lowest bit of one byte of one file of the copy. Verify: refused, the file named."""
    ours, theirs = tree(tmp_path / "ours"), tree(tmp_path / "theirs")
    data = bytearray((ours / name).read_bytes())
    data[0] ^= 1
    (ours / name).write_bytes(data)
    with pytest.raises(LabError, match="is not the kernel's driver") as caught:
        check_copy(ours, theirs)
    assert str(ours / name) in str(caught.value)
    assert driver_digest(ours) != driver_digest(theirs)


@pytest.mark.parametrize("where", ["ours", "theirs"])
def test_a_file_too_many_is_seen(tmp_path, where):
    """Verify: a file that only one side has is a difference, whichever side."""
    tree(tmp_path / "ours"), tree(tmp_path / "theirs")
    (tmp_path / where / "extra.h").write_text("")
    with pytest.raises(LabError, match=r"extra\.h has sha256"):
        check_copy(tmp_path / "ours", tmp_path / "theirs")


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"modelled": "edu2"}, "is not an engine: edu, nvme, vfiocert_ref"),
        ({"vf_of": {"pf": "0000:01:00.0", "core": "a", "pf_driver": "b"}}, "a PF has one driver"),
    ],
)
def test_an_entry_of_the_inventory_that_cannot_be_is_refused(changes, text):
    """Verify: an unknown function and a PF with two drivers are named."""
    with pytest.raises(ValidationError, match=text):
        DeviceSpec.model_validate({"id": "d", "host": "h", "pci": "0000:01:00.1", **changes})


def test_only_a_modelled_device_has_the_state_of_its_function():
    """Verify: the driver's own profile knows no registers of an NVMe controller."""
    entry = {"id": "d", "host": "h", "pci": "0000:01:00.1", "profile": "pds_vfio_pci"}
    assert DeviceSpec.model_validate(entry).full_profile == load_profile("pds_vfio_pci")
    modelled = DeviceSpec.model_validate({**entry, "modelled": "nvme"}).full_profile
    assert modelled.state_regions
    assert not load_profile("pds_vfio_pci").state_regions


def test_the_machine_has_an_empty_port_for_each_controller(tmp_path):
    """Verify: each port at its address, a subsystem for each, and no controller in the saved machine."""
    qemu = Qemu("q", "QEMU 7.2", "tcg", "", frozenset({"nvme"}), nvme_sriov=True)
    argv = command_line(
        qemu, tmp_path, kernel=tmp_path, initrd=tmp_path, memory_mib=256, port=1, resume=tmp_path / "state"
    )
    ports = [a for a in argv if a.startswith("pcie-root-port")]
    for number in SILICON_PORTS:
        place = root_port(number).removeprefix("0000:00:")
        (port,) = [p for p in ports if f"id=port{number}," in p]
        assert f"addr={place}" in port
        assert f"nvme-subsys,id=subsys{number}" in argv
        assert nvme_controller(number)["bus"] == f"port{number}"
    assert not [a for a in argv if a.startswith("nvme,")]


@pytest.mark.parametrize("module", silicon_drivers())
def test_every_model_has_its_device_and_profile(module):
    """Verify: inventory, profile and silicon.yaml name the same function, driver and model."""
    silicon = read_silicon(silicon_drivers()[module])
    profile = load_profile(module)
    assert profile.source == silicon.source
    devices = [d for d in embedded_devices() if d.profile == module]
    assert devices
    for device in devices:
        assert device.modelled == silicon.function
        assert device.virtual_function is not None
        assert device.virtual_function.core == silicon.model
        assert device.virtual_function.count <= silicon.vfs
        assert device.full_profile.state_regions
        assert device.full_profile.mutate
    assert root_port(silicon.port)
