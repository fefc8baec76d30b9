# SPDX-License-Identifier: Apache-2.0
"""Profiles: found by file name, whole, and true to the drivers they describe."""

from __future__ import annotations

import dataclasses

import pytest

import harness.profiles
from harness.errors import HarnessError, UsageError
from harness.profiles import RegionWrite, StateRegion, load_profile, profile_names

WANTED = {
    "generic",
    "hisi_acc_vfio_pci",
    "mlx5_vfio_pci",
    "mtty",
    "nvgrace_gpu_vfio_pci",
    "pds_vfio_pci",
    "qat_vfio_pci",
    "vfio_pci",
    "virtio_vfio_pci",
    "xe_vfio_pci",
}


@pytest.fixture
def fresh_catalogue():
    yield
    profile_names.cache_clear()
    load_profile.cache_clear()


def test_each_supported_driver_has_a_profile():
    assert set(profile_names()) >= WANTED


@pytest.mark.parametrize("name", profile_names())
def test_profile_is_named_after_its_module(name):
    profile = load_profile(name)
    assert profile.module == name
    assert profile.description


def test_driver_names_are_those_the_kernel_registers():
    # The PCI driver's .name in the kernel: KBUILD_MODNAME (with underscores) but for two.
    differing = {load_profile(n).driver for n in profile_names() if load_profile(n).driver not in (n, "")}
    assert differing == {"xe-vfio-pci", "vfio-pci"}


def test_unknown_name_lists_the_valid_ones():
    with pytest.raises(UsageError) as caught:
        load_profile("mlx4_vfio_pci")
    message = str(caught.value)
    assert all(name in message for name in WANTED)
    assert message.endswith("did you mean 'mlx5_vfio_pci'?")


def test_dashes_count_as_underscores():
    assert load_profile("mlx5-vfio-pci") is load_profile("mlx5_vfio_pci")


def test_new_profile_is_one_new_file(tmp_path, monkeypatch, fresh_catalogue):
    (tmp_path / "acme_vfio_pci.py").write_text(
        "from harness.profiles import Profile\n"
        'PROFILE = Profile(module="acme_vfio_pci", driver="acme", description="x", does_dma=True)\n'
    )
    monkeypatch.setattr(harness.profiles, "__path__", [*harness.profiles.__path__, str(tmp_path)])
    profile_names.cache_clear()
    assert load_profile("acme_vfio_pci").driver == "acme"
    assert "acme_vfio_pci" in profile_names()


@pytest.mark.parametrize(
    "body, text",
    [
        ("X = 1\n", "holds no PROFILE"),
        (
            "from harness.profiles import Profile\n"
            'PROFILE = Profile(module="other", driver="o", description="x", does_dma=True)\n',
            "is not the file's name",
        ),
    ],
)
def test_file_without_a_profile_is_a_bug(tmp_path, monkeypatch, fresh_catalogue, body, text):
    name = f"broken_{len(body)}_vfio_pci"
    (tmp_path / f"{name}.py").write_text(body)
    monkeypatch.setattr(harness.profiles, "__path__", [*harness.profiles.__path__, str(tmp_path)])
    profile_names.cache_clear()
    with pytest.raises(HarnessError, match=text):
        load_profile(name)


def test_profiles_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_profile("mtty").driver = "x"


@pytest.mark.parametrize(
    "arguments", [(0, 0, 4, 3), (0, 0, 3, 2), (-1, 0, 4, 4), (0, -1, 4, 4), (0, 0, 0, 1)]
)
def test_impossible_access_is_refused(arguments):
    with pytest.raises(HarnessError, match="state region"):
        StateRegion(*arguments)


def test_write_of_three_bytes_is_refused():
    with pytest.raises(HarnessError, match="region write"):
        RegionWrite(0, 0, b"abc")


def test_mtty_fingerprint_never_pops_the_fifo():
    profile = load_profile("mtty")
    assert profile.state_regions
    for region in profile.state_regions:
        assert region.offset > 0
        assert region.width == 1
        assert region.offset + region.length == 8


def test_mtty_with_one_port_has_only_that_port():
    profile = load_profile("mtty")
    one, two = {0: 8, 7: 255}, {0: 8, 1: 8, 7: 255}
    assert [s.region for s in profile.present_state(one)] == [0]
    assert [s.region for s in profile.present_state(two)] == [0, 1]
    assert {w.region for m in profile.present_mutations(one) for w in m.writes} == {0}
    assert len(profile.present_mutations(two)) == 2 * len(profile.present_mutations(one)) > 0


def test_mtty_drains_only_what_its_mutation_wrote():
    # Reading the empty FIFO gives whatever was on the kernel's stack.
    for mutation in load_profile("mtty").mutate:
        queued = sum(1 for write in mutation.writes if write.offset == 0)
        for drain in mutation.drains:
            assert drain.offset == 0
            assert 0 < drain.count <= queued


@pytest.mark.parametrize("name", profile_names())
def test_mutations_of_a_profile_differ(name):
    writes = [mutation.writes for mutation in load_profile(name).mutate]
    assert len(set(writes)) == len(writes)


def test_wire_forms_are_the_agents():
    assert StateRegion(1, 2, 6, 2).as_wire() == [1, 2, 6, 2]
