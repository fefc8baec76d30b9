# SPDX-License-Identifier: Apache-2.0
"""harness/hosts/provision.py, lease.py and probe.py against an agent that answers from a table."""

from __future__ import annotations

import dataclasses
import errno
from typing import Any

import pytest

from harness.errors import HarnessError, LabError, UsageError
from harness.hosts.inventory import DeviceSpec, embedded_devices, parse_inventory
from harness.hosts.provision import module_name, provisioned, snapshot_difference, wire_device
from harness.probes.features import probe_capabilities

MTTY0 = embedded_devices()[0]
READY = {
    "cdev": "/dev/vfio/devices/vfio0",
    "group": "/dev/vfio/1",
    "vfio_name": "vfio0",
    "debugfs": "/sys/kernel/debug/vfio/u",
    "steps": ["mdev"],
}


@dataclasses.dataclass
class Result:
    trace: list
    hung: Any = None


@dataclasses.dataclass
class FakeAgent:
    """An agent whose answers are `answers[method]`: a value, an exception, or a list of them used in turn."""

    answers: dict
    calls: list = dataclasses.field(default_factory=list)
    features: int = 7
    failing: dict = dataclasses.field(default_factory=dict)
    hung: Any = None

    def call(self, method, *, deadline_s=60.0, **params):
        self.calls.append((method, params))
        answer = self.answers[method]
        if isinstance(answer, list) and answer:
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def run(self, program, deadline_s=None):
        ops = program["threads"][0]["ops"]
        return Result([self.record(i, *op) for i, op in enumerate(ops)], self.hung)

    def record(self, i, name, args):
        fields = {
            "device_info": {"flags": 3, "num_regions": 2, "num_irqs": 1},
            "feature": {"payload": self.features.to_bytes(8, "little").hex()},
            "data_size": {"size": 100},
            "region_info": {"index": args.get("index"), "flags": 3, "size": 8, "offset": 0, "caps_hex": ""},
            "irq_info": {"index": args.get("index"), "flags": 1, "count": 1},
        }.get(name, {})
        key = (name, args["flags"] & 0xFFFF) if name == "feature" else name
        return {"i": i, "op": name, "ret": 0, "errno": self.failing.get(key, 0), **fields}

    @property
    def methods(self):
        return [method for method, _ in self.calls]


class FakeHost:
    name = "rack7.node1"
    prepares = ""

    def __init__(self, **answers):
        self.agent = FakeAgent(
            {
                "describe_device": {"exists": True, "iommu_group": "7", "driver": "mtty", "path": "/sys/x"},
                "lease": {},
                "release": {},
                "snapshot_host": {"drivers": {"a": "b"}},
                "provision": READY,
                "insmod": {},
                "undo": [],
                **answers,
            }
        )
        self.info = dataclasses.make_dataclass("Info", ["boot_id", "run"])("b1", "agent-1")
        self.reboots = False

    def reconnect(self, deadline_s):
        self.agent.calls.append(("reconnect", {}))
        self.agent.answers["undo"] = []
        if self.reboots:
            self.info.boot_id = "b2"
        return self.reboots


def refusal(host, device=MTTY0, **arguments):
    with pytest.raises((LabError, UsageError)) as caught, provisioned(host, device, holder="me", **arguments):
        pytest.fail("the body must not run")
    return str(caught.value)


def test_order_is_look_lease_photograph_change_undo_photograph_release():
    host = FakeHost()
    with provisioned(host, MTTY0, holder="me") as ready:
        assert (ready.cdev, ready.vfio_name, ready.driver) == ("/dev/vfio/devices/vfio0", "vfio0", "mtty")
        assert ready.capabilities["migration"] == ["STOP_COPY", "P2P", "PRE_COPY"]
        assert ready.entry["debugfs"] == "/sys/kernel/debug/vfio/u"
        assert ready.region_sizes == {0: 8, 1: 8}
    assert host.agent.methods == [
        "describe_device", "lease", "undo", "snapshot_host", "provision", "describe_device",
        "undo", "snapshot_host", "release",
    ]  # fmt: skip


def pci(**more):
    fields = {"id": "d", "host": "h", "pci": "0000:01:00.1", "profile": "vfio_pci", **more}
    return DeviceSpec.model_validate(fields)


@pytest.mark.parametrize("device, driver", [(MTTY0, None), (pci(), "vfio-pci"), (pci(driver="x"), "x")])
def test_pci_devices_get_the_wanted_driver(device, driver):
    host = FakeHost()
    with provisioned(host, device, holder="me"):
        pass
    assert dict(host.agent.calls)["provision"]["driver"] == driver


def test_lease_is_of_the_device_and_names_the_holder():
    host = FakeHost()
    with provisioned(host, MTTY0, holder="me"):
        pass
    lease = dict(host.agent.calls)["lease"]
    assert lease == {"keys": [wire_device(host.name, MTTY0)], "holder": "me"}
    assert dict(host.agent.calls)["release"] == {"keys": lease["keys"]}


def test_own_steps_are_undone_and_what_dead_runs_left_before():
    host = FakeHost()
    with provisioned(host, MTTY0, holder="me"):
        pass
    assert [params["run"] for method, params in host.agent.calls if method == "undo"] == [None, "agent-1"]


FREE = {"exists": True, "sriov_totalvfs": 4, "sriov_numvfs": 0}
ABSENT = {"exists": False, "name": "0000:01:00.1"}
HERE = {"exists": True, "iommu_group": "9", "driver": "vfio-pci"}


def test_missing_vf_is_made_and_leased_with_its_group():
    host = FakeHost(describe_device=[ABSENT, FREE, HERE], sriov={"vfs": ["0000:01:00.1", "0000:01:00.2"]})
    with provisioned(host, pci(vf_of={"pf": "0000:01:00.0", "count": 2}), holder="me"):
        pass
    calls = host.agent.calls
    assert dict(calls)["sriov"] == {"device": {"pci": "0000:01:00.0"}, "numvfs": 2}
    keys = [params["keys"] for method, params in calls if method == "lease"]
    assert keys == [[{"pci": "0000:01:00.1"}, {"pci": "0000:01:00.0"}], [{"pci": "0000:01:00.1"}]]
    methods = host.agent.methods
    assert methods.index("snapshot_host") < methods.index("sriov") < methods.index("provision")


CORE = {"pf": "0000:01:00.0", "count": 2, "core": "pds_core"}


def test_the_pf_gets_its_own_driver_before_its_vfs_are_made():
    """Verify: core loaded and bound by override, then VFs that no driver takes by itself, then the VF."""
    bound = {"seen": [{"step": "override"}, {"step": "unbind"}, {"step": "probe", "driver": "pds_core"}]}
    host = FakeHost(
        describe_device=[ABSENT, FREE, FREE, HERE], sriov={"vfs": ["0000:01:00.1", "0000:01:00.2"]},
        load_module={"drivers": ["pds_core"]}, rebind=bound,
    )  # fmt: skip
    with provisioned(host, pci(vf_of=CORE), holder="me"):
        pass
    calls, methods = dict(host.agent.calls), host.agent.methods
    assert calls["load_module"] == {"name": "pds_core"}
    pf = {"pci": "0000:01:00.0"}
    assert calls["rebind"] == {"device": pf, "override": "pds_core", "steps": ["unbind", "probe"]}
    assert calls["sriov"] == {"device": pf, "numvfs": 2, "autoprobe": False}
    order = [methods.index(m) for m in ("snapshot_host", "load_module", "rebind", "sriov", "provision")]
    assert order == sorted(order)


def test_a_pf_that_has_its_own_driver_keeps_it():
    """Verify: nothing is loaded or rebound, as on a host where the core driver is at work."""
    host = FakeHost(
        describe_device=[ABSENT, {**FREE, "driver": "pds_core"}, FREE, HERE],
        sriov={"vfs": ["0000:01:00.1", "0000:01:00.2"]},
    )
    with provisioned(host, pci(vf_of=CORE), holder="me"):
        pass
    assert not {"load_module", "rebind"} & set(host.agent.methods)


@pytest.mark.parametrize(
    "answers, seen, text",
    [
        ([ABSENT, ABSENT], [], "vf_of='0000:01:00.0' is not a PCI device of this host"),
        (
            [ABSENT, {**FREE, "driver": "nvme", "sriov_numvfs": 1}],
            [],
            "'0000:01:00.0' has VFs and driver nvme, not pds_core: they would go, too",
        ),
        ([ABSENT, FREE], [{"driver": None}], "'0000:01:00.0' did not take driver pds_core"),
        ([ABSENT, FREE], [], "'0000:01:00.0' did not take driver pds_core"),
    ],
)
def test_a_pf_that_does_not_take_its_own_driver_is_a_lab_error(answers, seen, text):
    """Verify: what is wrong is said before any VF is made, and all is undone."""
    host = FakeHost(describe_device=answers, load_module={}, rebind={"seen": seen})
    assert text in refusal(host, pci(vf_of=CORE))
    assert "sriov" not in host.agent.methods
    assert host.agent.methods[-3:] == ["undo", "snapshot_host", "release"]


@pytest.mark.parametrize(
    "answers, text",
    [
        ([ABSENT, ABSENT], "vf_of='0000:01:00.0' is not a PCI device of this host"),
        ([ABSENT, {"exists": True}], "vf_of='0000:01:00.0' has no SR-IOV"),
        ([ABSENT, {**FREE, "sriov_numvfs": 3}], "'0000:01:00.0' has 3 VFs and 0000:01:00.1 is none of them"),
        ([ABSENT, {**FREE, "sriov_totalvfs": 1}], "vf_of.count=2 is more than the 1 VFs"),
        ([ABSENT, FREE], "pci='0000:01:00.1' is not among the VFs of '0000:01:00.0': 0000:01:10.0"),
    ],
)
def test_vf_that_cannot_be_made_is_a_lab_error(answers, text):
    host = FakeHost(describe_device=answers, sriov={"vfs": ["0000:01:10.0"]})
    assert text in refusal(host, pci(vf_of={"pf": "0000:01:00.0", "count": 2}))
    assert host.agent.methods[-3:] == ["undo", "snapshot_host", "release"]


def test_absent_pci_device_is_a_lab_error():
    host = FakeHost(describe_device=[ABSENT])
    assert "device 'd' is absent: no '0000:01:00.1' on this host" in refusal(host, pci())
    assert host.agent.methods == ["describe_device"]


@pytest.mark.parametrize(
    "described, text",
    [
        (
            {"in_use": "pid 17 (qemu-system-x86)"},
            "device 'mtty0' is in use: pid 17 (qemu-system-x86); stop that first",
        ),
        ({"in_use": ["pid 17", "pid 18"]}, "is in use: pid 17, pid 18;"),
        (
            {"protected_because": "0000:00:02.0 in its group carries the SSH connection"},
            "device 'mtty0' must not be taken: 0000:00:02.0 in its group carries the SSH connection;",
        ),
    ],
)
def test_device_that_must_not_be_touched_is_refused_before_any_change(described, text):
    host = FakeHost(describe_device={"exists": True, **described})
    assert text in refusal(host)
    assert host.agent.methods == ["describe_device"]


def test_agent_that_ends_is_a_lab_error():
    host = FakeHost(describe_device=LabError("rack7.node1: describe_device: the agent exited"))
    assert "the agent exited" in refusal(host)
    assert host.agent.methods == ["describe_device"]


def test_leased_device_is_left_alone():
    host = FakeHost(lease=LabError("rack7.node1: lease: group:7 is leased by you since 12:00"))
    assert "is leased by you" in refusal(host)
    assert host.agent.methods == ["describe_device", "lease"]


def test_failed_provisioning_is_undone():
    host = FakeHost(provision=LabError("cannot bind"))
    assert refusal(host) == "cannot bind"
    assert host.agent.methods[-3:] == ["undo", "snapshot_host", "release"]


def test_exception_in_the_body_is_undone_and_kept():
    host = FakeHost()
    with pytest.raises(ZeroDivisionError), provisioned(host, MTTY0, holder="me"):
        raise ZeroDivisionError
    assert host.agent.methods[-3:] == ["undo", "snapshot_host", "release"]


def test_host_that_is_not_restored_is_an_error_that_lists_the_differences():
    host = FakeHost(snapshot_host=[{"mdevs": [], "n": 1}, {"mdevs": ["u"], "n": 2}])
    with pytest.raises(LabError) as caught, provisioned(host, MTTY0, holder="me"):
        pass
    assert str(caught.value) == (
        "rack7.node1: device 'mtty0': the host is not as it was before the run: "
        "mdevs: 'u' is new; n: 1 became 2"
    )
    assert host.agent.methods[-1] == "release"


def test_step_that_cannot_be_undone_is_an_error():
    failed = {"run": "agent-1", "step": 1, "undo": "mdev", "subject": "u", "status": "failed: busy"}
    host = FakeHost(undo=[[], [failed], []])
    with (
        pytest.raises(LabError, match="not as it was before the run: undo of mdev u failed: busy"),
        provisioned(host, MTTY0, holder="me"),
    ):
        pass


@pytest.mark.parametrize("mine", [False, True])
def test_what_other_runs_change_at_the_same_time_is_not_ours(mine):
    alive = [{"run": "agent-2", "step": 0, "undo": "", "status": "skipped: its agent lives (pid 7)"}]
    before = {"devices": {"u": {"driver": None}}, "mdevs": []}
    after = {"devices": {"u": {"driver": "x" if mine else None}}, "mdevs": ["theirs"]}
    host = FakeHost(snapshot_host=[before, after], undo=[alive])
    if not mine:
        with provisioned(host, MTTY0, holder="me"):
            pass
        return
    with (
        pytest.raises(LabError, match=r"before the run: u\.driver: None became 'x'"),
        provisioned(host, MTTY0, holder="me"),
    ):
        pass


def test_host_that_is_not_restored_is_noted_on_what_went_wrong_first():
    host = FakeHost(snapshot_host=[{"n": 1}, {"n": 2}])
    with pytest.raises(ZeroDivisionError) as caught, provisioned(host, MTTY0, holder="me"):
        raise ZeroDivisionError
    assert "n: 1 became 2" in caught.value.__notes__[0]


def test_broken_connection_is_made_anew_for_the_undo():
    host = FakeHost(undo=[[], LabError("the connection broke")])
    with provisioned(host, MTTY0, holder="me"):
        pass
    assert host.agent.methods[-5:] == ["undo", "reconnect", "undo", "snapshot_host", "release"]


def test_host_that_was_booted_anew_has_nothing_to_undo():
    host = FakeHost(undo=[[], LabError("the connection broke")])
    host.reboots = True
    with provisioned(host, MTTY0, holder="me"):
        pass
    assert host.agent.methods[-3:] == ["undo", "reconnect", "release"]


def test_device_without_cdev_gives_no_verdict():
    assert "has no cdev after it was bound to 'mtty': no verdict" in refusal(
        FakeHost(provision={**READY, "cdev": ""})
    )


@pytest.mark.parametrize("answer", [None, [1], "x"])
def test_answer_that_is_no_object_is_a_lab_error(answer):
    assert "gave no object" in refusal(FakeHost(describe_device=[answer]))
    assert "gave no object" in refusal(FakeHost(provision=[answer]))


def test_module_is_sent_before_the_device_is_made(tmp_path):
    file = tmp_path / "my-mtty.ko"
    file.write_bytes(b"\x7fELF...")
    host = FakeHost()
    with provisioned(host, MTTY0, holder="me", module=file):
        pass
    assert host.agent.methods[4:6] == ["insmod", "provision"]
    assert dict(host.agent.calls)["insmod"] == {"name": "my_mtty", "image_b64": "f0VMRi4uLg=="}
    assert module_name(file) == "my_mtty"


def test_module_that_is_none_is_refused_before_the_host_is_asked(tmp_path):
    (tmp_path / "x.ko").write_text("text")
    host = FakeHost()
    assert "is not a kernel module" in refusal(host, module=tmp_path / "x.ko")
    assert "cannot be read (no such file" in refusal(host, module=tmp_path / "none.ko")
    assert host.agent.calls == []


def test_second_device_needs_an_agent_of_its_own():
    host = FakeHost()
    with provisioned(host, MTTY0, holder="me"):
        with (
            pytest.raises(HarnessError, match="this agent holds device 'mtty0'; connect a second Host"),
            provisioned(host, embedded_devices()[1], holder="me"),
        ):
            pass
        assert "undo" not in host.agent.methods[5:]
    with provisioned(host, MTTY0, holder="me"):
        pass


def test_mdev_has_the_same_uuid_in_each_run_and_another_for_each_instance():
    first = wire_device("h", MTTY0)
    assert first == wire_device("h", MTTY0)
    assert len({first["uuid"], wire_device("h", MTTY0, "1")["uuid"], wire_device("g", MTTY0)["uuid"]}) == 3
    assert (first["mdev_parent"], first["mdev_type"]) == ("mtty", "mtty-1")


def test_pci_device_is_named_by_its_address():
    text = """labs: {r: {hosts: {h: {address: a}}, devices: [
        {id: d, host: h, pci: 0000:00:04.0},
        {id: v, host: h, pci: 0000:01:00.1, vf_of: {pf: 0000:01:00.0, count: 2}}]}}"""
    plain, virtual = parse_inventory(text).labs["r"].devices
    assert wire_device("h", plain) == {"pci": "0000:00:04.0"}
    assert wire_device("h", virtual) == {"pci": "0000:01:00.1"}


@pytest.mark.parametrize(
    "before, after, lines",
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, ["a.b: 1 became 2"]),
        ({"a": 1}, {"b": 1}, ["a: 1 is gone", "b: 1 is new"]),
        ({"m": ["x", "y"]}, {"m": ["y", "z"]}, ["m: 'x' is gone", "m: 'z' is new"]),
        ({"m": ["x", "y"]}, {"m": ["y", "x"]}, ["m: ['x', 'y'] became ['y', 'x']"]),
        ({"a": None}, {"a": "x"}, ["a: None became 'x'"]),
    ],
)
def test_difference_of_two_photographs_is_one_line_each(before, after, lines):
    assert snapshot_difference(before, after) == lines


def probed(**changes):
    agent = FakeAgent({})
    for name, value in changes.items():
        setattr(agent, name, value)
    return probe_capabilities(agent, {"cdev": "x"}, "h: device 'd'")


def test_capabilities_are_plain_values():
    found = probed()
    assert found["migration"] == ["STOP_COPY", "P2P", "PRE_COPY"]
    assert (found["data_size"], found["stream_bytes"], found["dma_logging"]) == (True, 100, True)
    assert (found["reset"], found["reset_flag"], found["debugfs_state"]) == (True, True, True)
    assert [r["index"] for r in found["regions"]] == [0, 1]
    assert found["irqs"] == [{"index": 0, "flags": 1, "count": 1}]


@pytest.mark.parametrize("bits, names", [(0, []), (1, ["STOP_COPY"]), (3, ["STOP_COPY", "P2P"]), (8, [])])
def test_migration_features_are_those_declared(bits, names):
    found = probed(features=bits)
    assert (found["migration"], found["migration_flags"]) == (names, bits)


@pytest.mark.parametrize("feature", [6, 7, 8])
def test_logging_needs_all_three_features(feature):
    assert not probed(failing={("feature", feature): errno.ENOTTY})["dma_logging"]


def test_what_is_refused_is_not_a_capability():
    found = probed(
        failing={
            ("feature", 1): errno.ENOTTY, ("feature", 9): errno.ENOTTY, ("feature", 12): errno.ENOTTY,
            "debugfs_state": errno.ENOENT, "irq_info": errno.EINVAL,
        }
    )  # fmt: skip
    assert found["migration"] == []
    assert not any(found[key] for key in ("data_size", "precopy_info_v2", "debugfs_state"))
    assert "stream_bytes" not in found
    assert found["irqs"] == []


def test_a_reset_that_fails_once_is_no_missing_capability():
    """Verify: what a device says of itself counts; a failure in PROBE would hide MIG-143."""
    found = probed(failing={"reset": errno.EIO})
    assert (found["reset"], found["reset_flag"]) == (True, True)


@pytest.mark.parametrize("operation", ["open_iommufd", "ioas_alloc", "open_cdev", "bind", "attach"])
def test_device_that_cannot_be_opened_is_a_lab_error(operation):
    with pytest.raises(LabError, match=rf"h: device 'd': {operation} failed: errno 16 .*cannot be opened"):
        probed(failing={operation: errno.EBUSY})


def test_probe_that_hangs_is_a_lab_error():
    with pytest.raises(LabError, match="reset did not return within 20 s"):
        probed(hung={"op": "reset"})
