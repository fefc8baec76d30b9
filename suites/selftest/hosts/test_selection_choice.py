# SPDX-License-Identifier: Apache-2.0
"""The choice of a variant driver: the algorithm on real alias data, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.agent.modules import Modules
from harness.agent.sysfs import Sysfs
from harness.commands.devices.explain import explain
from harness.errors import UsageError
from harness.hosts.driver_choice import (
    Alias,
    choose,
    ids_of,
    modalias_of,
    others,
    parse_aliases,
    read_aliases,
)
from harness.profiles import load_profile, profile_names

DATA = Path(__file__).resolve().parents[2] / "sel/data/modules.alias"
REAL = read_aliases(DATA)
VARIANTS = [load_profile(name) for name in profile_names() if load_profile(name).pci_ids]
EDU = "pci:v00001234d000011E8sv00001AF4sd00001100bc00scFFi00"


@pytest.mark.parametrize(
    ("module", "vendor", "device"),
    [(p.module, *ids) for p in VARIANTS for ids in p.pci_ids if p.source.startswith("drivers/")],
)
def test_real_aliases_lead_to_the_profiles_driver(module: str, vendor: int, device: int) -> None:
    """Every id that a profile of a kernel driver names is chosen for that driver, and for it alone."""
    choice = choose(modalias_of(vendor, device, subsystem=(vendor, 1), class_code=0x020000), REAL)
    assert choice.module == module
    assert not choice.tied
    assert [alias.module for alias in choice.candidates] == [module, "vfio_pci"]


def test_a_profiles_ids_are_all_of_its_drivers_aliases() -> None:
    """The reverse: a profile names all ids in the table of a small driver (xe names examples)."""
    for profile in VARIANTS:
        rest = "sv00000000sd00000000bc00sc00i00"
        patterns = [a.pattern for a in REAL if a.vfio and a.module == profile.module]
        table = {ids_of(p.replace("vfio_", "").replace("sv*sd*bc*sc*i*", rest))[:2] for p in patterns}
        if profile.module != "xe_vfio_pci" and table:
            assert set(profile.pci_ids) == table, profile.module


@pytest.mark.parametrize(
    ("what", "modalias", "vfio", "kernel"),
    [
        ("ConnectX PF", modalias_of(0x15B3, 0x101D), "vfio_pci", ("mlx5_core",)),
        ("ConnectX VF", modalias_of(0x15B3, 0x101E), "mlx5_vfio_pci", ("mlx5_core",)),
        ("QAT 4xxx PF", modalias_of(0x8086, 0x4940), "vfio_pci", ("qat_4xxx",)),
        ("QAT 4xxx VF", modalias_of(0x8086, 0x4941), "qat_vfio_pci", ()),
        ("HiSilicon SEC PF", modalias_of(0x19E5, 0xA255), "vfio_pci", ("hisi_sec2",)),
        ("HiSilicon SEC VF", modalias_of(0x19E5, 0xA256), "hisi_acc_vfio_pci", ("hisi_sec2",)),
        ("Pensando core", modalias_of(0x1DD8, 0x100C), "vfio_pci", ("pds_core",)),
        # A PF and its VFs have one id here: the aliases cannot tell them apart, the driver must.
        ("Intel graphics", modalias_of(0x8086, 0xB080, class_code=0x030000), "xe_vfio_pci", ("xe",)),
        ("an NVMe drive", modalias_of(0x1B36, 0x0010, class_code=0x010802), "vfio_pci", ("nvme",)),
        ("virtio net", modalias_of(0x1AF4, 0x1041), "virtio_vfio_pci", ("virtio_pci",)),
        ("virtio console", modalias_of(0x1AF4, 0x1043), "vfio_pci", ("virtio_pci",)),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) and ":" not in value else "",
)
def test_a_vf_and_its_pf_go_by_their_own_ids(
    what: str, modalias: str, vfio: str, kernel: tuple[str, ...]
) -> None:
    """A VF's variant driver is not chosen for its PF where their ids differ."""
    assert choose(modalias, REAL).module == vfio, what
    assert others(modalias, REAL) == kernel, what


def test_the_fewest_wildcards_win_whatever_the_order() -> None:
    """Subsystem ids and class beat vendor and device alone."""
    lines = [
        "alias vfio_pci:v*d*sv*sd*bc*sc*i* vfio_pci",
        "alias vfio_pci:v00001234d000011E8sv*sd*bc*sc*i* plain_variant",
        "alias vfio_pci:v00001234d000011E8sv00001AF4sd00001100bc*sc*i* board_variant",
        "alias vfio_pci:v00001234d*sv*sd*bc00scFFi* class_variant",
    ]
    for text in ("\n".join(lines), "\n".join(reversed(lines))):
        found = choose(EDU, parse_aliases(text))
        assert [a.module for a in found.candidates] == [
            "board_variant", "class_variant", "plain_variant", "vfio_pci",
        ]  # fmt: skip
        assert [a.wildcards for a in found.candidates] == [3, 4, 5, 7]


def test_a_tie_is_reported_and_the_first_line_is_taken() -> None:
    """Two modules as specific; the same module twice is no tie."""
    lines = [
        "alias vfio_pci:v00001234d000011E8sv*sd*bc*sc*i* first",
        "alias vfio_pci:v00001234d*sv*sd00001100bc*sc*i* second",
        "alias vfio_pci:v00001234d000011E8sv*sd*bc*sc*i* first",
    ]
    found = choose(EDU, parse_aliases("\n".join(lines)))
    assert (found.module, found.tied) == ("first", ("second",))
    assert not choose(EDU, parse_aliases("\n".join([lines[0], lines[2]]))).tied


def test_no_alias_no_driver() -> None:
    """An ordinary alias never makes a VFIO driver."""
    found = choose(EDU, parse_aliases("alias pci:v00001234d000011E8sv*sd*bc*sc*i* edu\n"))
    assert (found.module, found.candidates, found.tied) == ("", (), ())


def test_patterns_of_a_hand_are_matched_as_globs_and_seen_as_odd() -> None:
    """MODULE_ALIAS() accepts any text."""
    (alias,) = parse_aliases("alias vfio_pci:v00001234d000011E[0-9]sv* odd-module")
    assert alias.matches(EDU)
    assert not alias.regular
    assert (alias.wildcards, alias.module) == (2, "odd_module")
    assert not Alias("vfio_pci:v00001234d00001200sv*sd*bc*sc*i*", "x", 1).matches(EDU)


@pytest.mark.parametrize(
    "text",
    ["", "pci:", "usb:v1234", EDU.lower(), EDU + "x", EDU.replace("pci", "vfio_pci"), "pci:" + "v" * 9999],
)
def test_what_is_no_modalias_is_refused(text: str) -> None:
    """The message has the expected form, and only a part of the text."""
    with pytest.raises(UsageError, match=r"is not pci:v") as caught:
        choose(text, REAL)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "line",
    ["alias pci:v*", "alias vfio_pci:v* two words", "alias pci:v* ../evil", "alias pci:" + "*" * 300 + " m"],
)
def test_a_damaged_alias_file_is_refused_with_its_line(line: str) -> None:
    """A line of ours that is not alias, pattern, module."""
    with pytest.raises(UsageError, match=r"^some\.alias:2: "):
        parse_aliases(f"# comment\n{line}\nalias usb:v* x\n", "some.alias")


def test_alias_files_that_cannot_be_read(tmp_path: Path) -> None:
    """Missing (a similar name is offered), a folder, not text."""
    (tmp_path / "modules.alias").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match=r"did you mean 'modules\.alias'"):
        read_aliases(tmp_path / "modules.alia")
    for path in (tmp_path, tmp_path / "modules.alias"):
        with pytest.raises(UsageError, match="cannot be read"):
            read_aliases(path)


def test_the_agent_chooses_as_the_library_does(tmp_path: Path) -> None:
    """The agent has its own copy of the algorithm: both must agree on all ids of the real data."""
    modules = Modules(Sysfs(str(tmp_path)))
    folder = Path(modules.folder)
    folder.mkdir(parents=True)
    folder.joinpath("modules.alias").write_text(DATA.read_text())
    for profile in VARIANTS:
        for vendor, device in profile.pci_ids:
            modalias = modalias_of(vendor, device, class_code=0x030000)
            assert modules.vfio_driver(modalias) == (choose(modalias, REAL).module or None)


def test_explain_says_what_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    """As text and as JSON."""
    modalias = modalias_of(0x15B3, 0x101E)
    explain(modalias, [], DATA, False)
    text = capsys.readouterr().out
    assert "mlx5_vfio_pci  5 wildcards" in text
    assert "chosen" in text
    assert "mlx5_core" in text
    explain(modalias, [], DATA, True)
    assert '"module": "mlx5_vfio_pci"' in capsys.readouterr().out
    with pytest.raises(UsageError, match="no such device: none"):
        explain("nix", [], DATA, False)
