# SPDX-License-Identifier: Apache-2.0
"""pds_vfio_pci, untouched, on its model: what the lab loads and binds, and that a VF's state really moves."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from fixtures.silicon_lab import silicon_facts
from harness.engines import load_engine
from harness.hosts.host import Host
from harness.hosts.inventory import embedded_devices
from harness.hosts.provision import ProvisionedDevice
from harness.lab.modfile import read_module
from harness.lab.silicon import build_silicon, silicon_drivers
from harness.program.script import Script
from harness.progress import NoProgress
from suites.selftest.lab.modelled import bound, knobs, opened, run, said

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

MODULE, MODEL = "pds_vfio_pci", "pds_core"
DEVICE = next(d for d in embedded_devices() if d.profile == MODULE)
STOP, RUNNING, STOP_COPY, RESUMING, RUNNING_P2P = 1, 2, 3, 4, 5
AQA, LENGTH = 0x24, 0x14
STATE = "1f000f00" + "00305a5a00000000" + "0050c33c00000000"
IOVA, PAGES, PAGE = 0x1000000, 128, 4096
SUSPEND, SAVE, RESTORE = 18, 21, 22


@pytest.fixture(scope="module")
def vf(embedded_lab) -> Iterator[tuple[Host, ProvisionedDevice]]:
    """The VF, bound to its driver; given back afterwards."""
    with bound(embedded_lab, MODULE) as found:
        yield found


def script() -> Script:
    """A program with the device open, and memory to do DMA to."""
    s = opened()
    s.op("mmap", out="m", n=PAGES * PAGE, align=PAGE)
    s.op("mem_fill", mem="m", value=0xEE)
    s.op("ioas_map", fd="i", ioas="ioas", mem="m", n=PAGES * PAGE, iova=IOVA)
    return s


def errnos(records: Sequence[Mapping[str, Any]], *indexes: int) -> list[int]:
    return [records[i]["errno"] for i in indexes]


def test_what_is_loaded_is_the_kernels_driver_and_our_model(vf, embedded_lab):
    """Verify: both modules are those just built, and the report has the hash of the source."""
    host, ready = vf
    built = build_silicon(embedded_lab.kernel, silicon_drivers()[MODULE], NoProgress())
    assert built.mainline is not False
    for path, name in ((built.model, MODEL), (built.driver, MODULE)):
        assert said(host, f"cat /sys/module/{name}/srcversion") == read_module(path).srcversion
    assert ready.module_srcversion == read_module(built.driver).srcversion
    facts = silicon_facts(embedded_lab, silicon_drivers()[MODULE])
    assert built.sha256 in facts["driver_source"]
    assert MODEL in facts["stands_in"]
    assert "model" in read_module(built.model).extra["description"]


def test_modprobe_knows_both_as_on_a_real_host(vf):
    """Verify: modules.dep has the model for the driver; its alias leads from the ids of the silicon to it."""
    host, _ = vf
    dep = said(host, "grep ^pds-vfio-pci.ko: /lib/modules/$(uname -r)/modules.dep")
    assert "pds_core.ko" in dep.split()
    assert "vfio-pci-core.ko" in dep.split()
    alias = said(host, "grep ' pds_vfio_pci$' /lib/modules/$(uname -r)/modules.alias")
    assert alias.startswith("alias vfio_pci:v00001DD8d00001003")


def test_the_vf_is_bound_and_its_pf_has_the_model(vf):
    """Verify: drivers of both; the capabilities are the driver's; the VF's own engine works."""
    host, ready = vf
    assert ready.driver == MODULE
    pf = host.agent.call("describe_device", device={"pci": DEVICE.virtual_function.pf})
    assert pf["driver"] == MODEL
    assert pf["sriov_numvfs"] == DEVICE.virtual_function.count
    assert said(host, f"cat {pf['path']}/iommu_group/type") in (
        "DMA",
        "DMA-FQ",
    )  # so addresses are translated
    assert ready.capabilities["migration"] == ["STOP_COPY", "P2P"]
    assert ready.capabilities["dma_logging"] is True
    assert ready.capabilities["engine"] == "nvme"


def test_a_saved_state_moves_the_registers(vf):
    """Steps: write registers, save, reset and change them, restore. Verify: they are as they were saved."""
    s = script()
    s.op("region_write", fd="d", region=0, off=AQA, hex=STATE, width=4)
    s.op("set_state", fd="d", state=STOP_COPY, out="f")
    saved = s.op("read_all", fd="f", keep="bytes")
    ending = s.op("set_state", fd="d", state=STOP)
    s.op("reset", fd="d")
    s.op("region_write", fd="d", region=0, off=AQA, hex="00" * LENGTH, width=4)
    other = s.op("region_read", fd="d", region=0, off=AQA, n=LENGTH, width=4)
    s.op("set_state", fd="d", state=RESUMING, out="g")
    s.op("write_all", fd="g", from_="bytes")
    loaded = s.op("set_state", fd="d", state=STOP)
    going = s.op("set_state", fd="d", state=RUNNING)
    again = s.op("region_read", fd="d", region=0, off=AQA, n=LENGTH, width=4)
    records = run(*vf, s)
    assert errnos(records, saved, ending, loaded, going) == [0, 0, 0, 0]
    assert records[saved]["n"] == 20544
    assert records[other]["hex"] == "00" * LENGTH
    assert records[again]["hex"] == STATE


def test_a_damaged_state_changes_nothing(vf):
    """Verify: the firmware refuses it, the device stays in RESUMING and its registers as they were."""
    s = script()
    s.op("region_write", fd="d", region=0, off=AQA, hex=STATE, width=4)
    s.op("set_state", fd="d", state=STOP_COPY, out="f")
    s.op("read_all", fd="f", keep="bytes")
    s.op("reset", fd="d")
    s.op("region_write", fd="d", region=0, off=AQA, hex="00" * LENGTH, width=4)
    s.op("set_state", fd="d", state=RESUMING, out="g")
    s.op("write_all", fd="g", from_="bytes", flip=[[20, 1]])
    refused = s.op("set_state", fd="d", state=STOP)
    state = s.op("get_state", fd="d")
    registers = s.op("region_read", fd="d", region=0, off=AQA, n=LENGTH, width=4)
    records = run(*vf, s)
    assert records[refused]["errno"] == errno.EINVAL
    assert records[state]["state"] == RESUMING
    assert records[registers]["hex"] == "00" * LENGTH


def test_firmware_that_does_not_look_shows_that_the_driver_does_not_either(vf):
    """Verify: a state of nothing is loaded; the driver has no word for how much was written."""
    host, _ = vf
    s = script()
    s.op("region_write", fd="d", region=0, off=AQA, hex=STATE, width=4)
    s.op("set_state", fd="d", state=RESUMING, out="g")
    loaded = s.op("set_state", fd="d", state=STOP)
    registers = s.op("region_read", fd="d", region=0, off=AQA, n=LENGTH, width=4)
    with knobs(host, MODEL, check_state=0):
        records = run(*vf, s)
    assert records[loaded]["errno"] == 0
    assert records[registers]["hex"] == "00" * LENGTH
    refused = run(*vf, s)[loaded]
    assert refused["errno"] == errno.EINVAL


@pytest.mark.parametrize("commands", [0, 1, 31, 32, 33, 63, 64, 70])
def test_a_stopped_vf_goes_on_in_its_queues(vf, commands):
    """Steps: DMA, STOP, RUNNING, DMA. Verify: every command is done, wherever the queues stood."""
    s = script()
    traffic = load_engine("nvme").traffic(s)
    for n in range(commands):
        traffic.write(IOVA + n * PAGE)
    s.op("set_state", fd="d", state=STOP)
    s.op("set_state", fd="d", state=RUNNING)
    after = [traffic.write(IOVA + (PAGES - 1 - n) * PAGE) for n in range(2)]
    records = run(*vf, s)
    assert [records[i].get("done") for i in after] == [True, True]


def test_a_stopped_vf_does_no_dma(vf):
    """Verify: a command given while it is stopped reaches no memory, and none that went before is lost."""
    s = script()
    traffic = load_engine("nvme").traffic(s)
    traffic.write(IOVA)
    s.op("set_state", fd="d", state=STOP)
    command = traffic.command("write", IOVA + PAGE)
    steps = [step for step in command["steps"] if step[0] not in ("memwait",)]
    s.op("dma", fd="d", steps=steps, effect={"do": "setup"})
    s.op("sleep", ms=50)
    dirty = s.op("mem_dirty", mem="m", value=0xEE)
    records = run(*vf, s)
    assert records[dirty]["ranges"] == [[0, 1]]


def test_the_log_has_what_the_vf_wrote_and_not_what_the_cpu_did(vf):
    """Steps: log 128 pages, the VF writes two, the CPU one; report. Verify: the two, and then none."""
    s = script()
    traffic = load_engine("nvme").traffic(s)
    s.op("dma_logging_start", fd="d", page_size=PAGE, ranges=[[IOVA, PAGES * PAGE]])
    traffic.write(IOVA + 5 * PAGE)
    traffic.write(IOVA + 70 * PAGE)
    s.op("mem_write", mem="m", off=9 * PAGE, hex="aa")
    report = {"fd": "d", "iova": IOVA, "length": PAGES * PAGE, "page_size": PAGE, "bitmap_bytes": 16}
    first, second = s.op("dma_logging_report", **report), s.op("dma_logging_report", **report)
    records = run(*vf, s)
    bits = [int.from_bytes(bytes.fromhex(records[i]["bitmap"]), "little") for i in (first, second)]
    assert bits == [1 << 5 | 1 << 70, 0]


@pytest.mark.parametrize(
    "opcode, target, before",
    [(SUSPEND, RUNNING_P2P, RUNNING), (SAVE, STOP_COPY, STOP), (RESTORE, STOP, RESUMING)],
)
def test_a_command_that_fails_leaves_the_state(vf, opcode, target, before):
    """Steps: make the firmware fail one command. Verify: SET fails, and the state is kept."""
    host, _ = vf
    s = script()
    s.op("set_state", fd="d", state=before)
    failed = s.op("set_state", fd="d", state=target, out="f")
    state = s.op("get_state", fd="d")
    with knobs(host, MODEL, fail_opcode=opcode, fail_nth=1):
        records = run(*vf, s)
    assert records[failed]["errno"] == errno.EIO
    assert records[state]["state"] == before


def test_a_suspend_that_never_ends_is_given_up(vf):
    """Verify: SET fails with ETIMEDOUT, and the device goes on as it was."""
    host, _ = vf
    s = script()
    failed = s.op("set_state", fd="d", state=STOP)
    state = s.op("get_state", fd="d")
    with knobs(host, MODEL, suspend_ms=600_000):
        records = run(*vf, s)
    assert records[failed]["errno"] == errno.ETIMEDOUT
    assert records[state]["state"] == RUNNING


def test_a_recovery_of_the_firmware_is_an_error_that_a_reset_ends(vf):
    """Verify: ERROR only for a device that was not plainly running, and RUNNING after a reset."""
    host, _ = vf
    s = script()
    s.op("set_state", fd="d", state=STOP)
    s.op("sleep", ms=1500)
    state = s.op("get_state", fd="d")
    refused = s.op("set_state", fd="d", state=RUNNING)
    s.op("reset", fd="d")
    after = s.op("get_state", fd="d")
    host.exec(f"(sleep 0.7; echo 1 >/sys/module/{MODEL}/parameters/recover) >/dev/null 2>&1 &", 10.0)
    records = run(*vf, s)
    assert records[state]["state"] == 0
    assert records[refused]["errno"] == errno.EIO
    assert records[after]["state"] == RUNNING
