# SPDX-License-Identifier: Apache-2.0
"""labs.yaml: each mistake gives one line with file, line, place, value and what is allowed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from harness.errors import UsageError
from harness.hosts.inventory import embedded_devices, jumps, load_inventory, parse_inventory, schema, select

ROOT = Path(__file__).resolve().parents[3]

GOOD = """\
labs:
  rack7:
    hosts:
      bastion: {address: jump.example.org, user: me}
      node1:
        address: 192.0.2.7
        port: 2222
        key: keys/id_ed25519
        known_hosts: rack7.known_hosts
        jump: bastion
        become: sudo
        python: /usr/bin/python3.11
      node2: {address: "2001:db8::1", jump: {address: 192.0.2.1, key: env:JUMP_KEY}}
    devices:
      - {id: nic0, host: node1, pci: 0000:3b:00.2, profile: mlx5_vfio_pci, vf_of: 0000:3b:00.0}
      - id: uart
        host: node2
        mdev: {parent: mtty, type: mtty-1}
        profile: mtty
        module: build/mtty.ko
        options: {debug: 1, name: x, on: true}
      - {id: round, host: node2, pci: 0000:10:00.0}
"""


def refusal(text: str) -> list[str]:
    with pytest.raises(UsageError) as caught:
        parse_inventory(text)
    return str(caught.value).split(";\n")


def changed(old: str, new: str) -> str:
    assert GOOD.count(old) == 1
    return GOOD.replace(old, new)


def test_good_file_is_read_whole():
    lab = parse_inventory(GOOD).labs["rack7"]
    assert [device.id for device in lab.devices] == ["nic0", "uart", "round"]
    assert lab.hosts["node1"].port == 2222
    assert lab.devices[0].virtual_function is not None
    assert lab.devices[0].virtual_function.pf == "0000:3b:00.0"
    assert lab.devices[1].options == {"debug": 1, "name": "x", "on": True}
    # YAML 1.1 reads this address as a float in base 60.
    assert lab.devices[2].pci == "0000:10:00.0"


def test_driver_comes_from_the_profile_unless_written():
    lab = parse_inventory(changed("id: round,", "id: round, driver: my-driver,")).labs["rack7"]
    assert [device.wanted_driver for device in lab.devices] == ["mlx5_vfio_pci", "mtty", "my-driver"]


BAD = [
    (
        "unknown key",
        "port: 2222",
        "prot: 2222",
        7,
        "labs.rack7.hosts.node1.prot is not a key here: "
        "address, port, user, key, known_hosts, jump, become, python",
    ),
    ("unknown key at the top", "labs:", "lab: 1\nlabs:", 1, "lab is not a key here: labs"),
    (
        "unknown key of a device",
        "profile: mtty\n",
        "prof: mtty\n",
        19,
        "labs.rack7.devices[1].prof is not a key here: "
        "id, host, pci, mdev, mock, profile, driver, module, options, vf_of, modelled, noiommu, companions",
    ),
    (
        "unknown key of a jump",
        "key: env:JUMP_KEY",
        "kee: x",
        13,
        "labs.rack7.hosts.node2.jump.kee is not a key here: address, port, user, key, known_hosts",
    ),
    (
        "wrong type",
        "port: 2222",
        'port: "2222"',
        7,
        "labs.rack7.hosts.node1.port='2222' is not a whole number",
    ),
    (
        "port too large",
        "port: 2222",
        "port: 65536",
        7,
        "labs.rack7.hosts.node1.port=65536 is wrong: input should be less than or equal to 65535",
    ),
    ("number as an id", "id: nic0", "id: 5", 15, "labs.rack7.devices[0].id=5 is not a string; quote it"),
    (
        "duplicate key",
        "port: 2222",
        "port: 22\n        port: 23",
        8,
        "labs.rack7.hosts.node1.port is there twice, first in line 7",
    ),
    (
        "duplicate device id",
        "id: round",
        "id: nic0",
        22,
        "labs.rack7.devices[2].id='nic0' is the id of labs.rack7.devices[0] too",
    ),
    (
        "bad PCI address",
        "0000:3b:00.2",
        "0000:3b:0.1",
        15,
        "labs.rack7.devices[0].pci='0000:3b:0.1' is not dddd:bb:dd.f",
    ),
    (
        "PCI address in capitals",
        "0000:3b:00.2",
        "0000:3B:00.2",
        15,
        "labs.rack7.devices[0].pci='0000:3B:00.2' is not dddd:bb:dd.f",
    ),
    (
        "bad address",
        "192.0.2.7",
        "192.0.2.700",
        6,
        "labs.rack7.hosts.node1.address='192.0.2.700' is not a host name, IPv4 or IPv6 address",
    ),
    (
        "option for ssh as an address",
        "192.0.2.7",
        "-oProxyCommand=x",
        6,
        "labs.rack7.hosts.node1.address='-oProxyCommand=x' is not a host name, IPv4 or IPv6 address",
    ),
    (
        "unknown host",
        "host: node1",
        "host: node9",
        15,
        "labs.rack7.devices[0].host='node9' is not a host of this lab: bastion, node1, node2",
    ),
    (
        "unknown jump",
        "jump: bastion",
        "jump: gate",
        10,
        "labs.rack7.hosts.node1.jump='gate' is not a host of this lab: bastion, node1, node2",
    ),
    (
        "jump to itself",
        "jump: bastion",
        "jump: node1",
        10,
        "labs.rack7.hosts.node1.jump='node1' goes in a circle: node1 -> node1",
    ),
    (
        "reserved lab",
        "rack7:",
        "embedded:",
        2,
        "labs.embedded is reserved for the built-in lab; choose another id",
    ),
    (
        "same device twice",
        "host: node2, pci: 0000:10:00.0",
        "host: node1, pci: 0000:3b:00.2",
        22,
        "labs.rack7.devices[2].pci='0000:3b:00.2' is device 'nic0' already",
    ),
    (
        "VF of itself",
        "vf_of: 0000:3b:00.0",
        "vf_of: 0000:3b:00.2",
        15,
        "labs.rack7.devices[0].vf_of='0000:3b:00.2' is the device itself, not its PF",
    ),
    (
        "neither PCI nor mdev",
        "host: node2, pci: 0000:10:00.0",
        "host: node2",
        22,
        "labs.rack7.devices[2] needs exactly one of pci, mdev and mock",
    ),
    (
        "wrong become",
        "become: sudo",
        "become: doas",
        11,
        "labs.rack7.hosts.node1.become='doas' is not one of 'root', 'sudo'",
    ),
    (
        "python with arguments",
        "/usr/bin/python3.11",
        "python3 -E",
        12,
        "labs.rack7.hosts.node1.python='python3 -E' is not the name or path of a program: "
        "letters, digits, '_', '.', '/', '+', '-'",
    ),
    ("missing id", "id: round, ", "", 22, "labs.rack7.devices[2].id is missing"),
    (
        "list for a mapping",
        "mdev: {parent: mtty, type: mtty-1}",
        "mdev: [mtty]",
        18,
        "labs.rack7.devices[1].mdev is not a mapping of keys to values",
    ),
    (
        "option that is a list",
        "debug: 1",
        "debug: [1]",
        21,
        "labs.rack7.devices[1].options.debug is not a string; quote it and is not a whole number "
        "and is neither true nor false",
    ),
]


@pytest.mark.parametrize("old, new, line, text", [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_wrong_file_is_one_line_that_names_the_place(old, new, line, text):
    assert refusal(changed(old, new)) == [f"labs.yaml:{line}: {text}"]


def test_unknown_profile_lists_the_valid_ones():
    (message,) = refusal(changed("profile: mlx5_vfio_pci", "profile: mlx6"))
    assert message.startswith(
        "labs.yaml:15: labs.rack7.devices[0].profile='mlx6' is not a profile: edu_vfio_pci, generic, "
    )
    assert "mlx5_vfio_pci" in message


def test_every_mistake_is_told_at_once_in_the_order_of_the_file():
    text = (
        changed("port: 2222", "port: x")
        .replace("0000:3b:00.2", "3b:00.2")
        .replace("become: sudo", "become: no")
    )
    assert [message.split(":")[1] for message in refusal(text)] == ["7", "11", "15"]


def test_key_itself_is_refused_and_never_shown():
    secret = "-----BEGIN OPENSSH PRIVATE KEY----- c2VjcmV0"
    (message,) = refusal(changed("key: keys/id_ed25519", f'key: "{secret}"'))
    assert message == "labs.yaml:8: labs.rack7.hosts.node1.key holds a key itself; give its path, or env:NAME"


def test_password_is_no_field_and_never_shown():
    (message,) = refusal(changed("port: 2222", "password: hunter2"))
    assert "hunter2" not in message
    assert "labs.rack7.hosts.node1.password is not a key here" in message


@pytest.mark.parametrize(
    "text, where",
    [
        ("labs: [", "labs.yaml:1: not YAML"),
        ("a: b: c", "labs.yaml:1: not YAML"),
        ("- 1", "the file is not a mapping"),
        ("? [a]\n: 1", "labs.yaml:1: a key of the file is not a plain word"),
        ("labs: &a {x: *a}", "too large"),
        ("--- 1\n--- 2", "not YAML"),
    ],
)
def test_text_that_is_no_inventory_is_refused(text, where):
    assert where in "".join(refusal(text))


def test_aliases_cannot_make_a_small_file_large():
    levels = "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 9))
    assert "too large" in refusal(f"l0: &l0 [1, 2]\n{levels}")[0]


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_with_a_usage_error(text):
    message = "labs.yaml: read"
    try:
        parse_inventory(text)
    except UsageError as error:
        message = str(error)
    assert message.startswith("labs.yaml")


def test_empty_file_is_an_empty_inventory():
    assert parse_inventory("").labs == {}
    assert parse_inventory("# nothing\n").labs == {}


def test_inventory_is_frozen():
    host = parse_inventory(GOOD).labs["rack7"].hosts["node1"]
    with pytest.raises(ValidationError):
        host.port = 1


def test_paths_start_at_the_folder_of_the_file(tmp_path):
    file = tmp_path / "my.yaml"
    file.write_text(GOOD)
    lab = load_inventory(file).labs["rack7"]
    assert lab.hosts["node1"].key == str(tmp_path / "keys/id_ed25519")
    assert lab.hosts["node1"].known_hosts == str(tmp_path / "rack7.known_hosts")
    assert lab.devices[1].module == str(tmp_path / "build/mtty.ko")
    assert jumps(lab, lab.hosts["node2"])[0].key == "env:JUMP_KEY"


def test_file_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"none\.yaml does not exist"):
        load_inventory(tmp_path / "none.yaml")


def test_jumps_are_given_nearest_first():
    text = changed(
        "bastion: {address: jump.example.org, user: me}",
        "gate: {address: g}\n      bastion: {address: b, jump: gate}",
    )
    lab = parse_inventory(text).labs["rack7"]
    assert [hop.address for hop in jumps(lab, lab.hosts["node1"])] == ["g", "b"]


def test_embedded_lab_is_built_in_and_all_its_devices_are_its_default():
    inventory = parse_inventory("")
    assert [t.device.id for t in select(inventory)] == [d.id for d in embedded_devices()]
    target = select(inventory)[0]
    assert (target.lab, target.device.id, target.device.profile, target.host) == (
        "embedded",
        "mtty0",
        "mtty",
        None,
    )
    second = select(inventory, "embedded", ["mtty1"])[0].device
    assert second.mdev is not None
    assert (second.mdev.parent, second.mdev.type) == ("mtty", "mtty-2")


def test_select_gives_all_devices_or_those_named_once():
    inventory = parse_inventory(GOOD)
    assert [t.device.id for t in select(inventory, "rack7")] == ["nic0", "uart", "round"]
    assert [t.device.id for t in select(inventory, "rack7", ["uart", "nic0", "uart"])] == ["uart", "nic0"]
    assert select(inventory, "rack7", ["nic0"])[0].jumps[0].address == "jump.example.org"


@pytest.mark.parametrize(
    "lab, devices, text",
    [
        ("rack9", [], "lab='rack9' is not a lab: embedded, rack7"),
        ("rack7", ["nic9"], "device='nic9' is not a device of lab 'rack7': nic0, uart, round"),
        (
            "embedded",
            ["nic0"],
            f"device='nic0' is not a device of lab 'embedded': {', '.join(d.id for d in embedded_devices())}",
        ),
    ],
)
def test_select_names_the_valid_ones(lab, devices, text):
    with pytest.raises(UsageError) as caught:
        select(parse_inventory(GOOD), lab, devices)
    assert str(caught.value) == text


def test_published_schema_is_current():
    published = json.loads((ROOT / "docs/labs.schema.json").read_text())
    assert published == schema(), "run: python -m harness.hosts.inventory > docs/labs.schema.json"


def test_own_labs_file_is_valid():
    load_inventory(ROOT / "labs.yaml")


def test_example_in_the_documentation_is_valid():
    text = (ROOT / "docs/your-own-device.md").read_text()
    example = text.split("```yaml\n")[1].split("```")[0]
    assert parse_inventory(example).labs
