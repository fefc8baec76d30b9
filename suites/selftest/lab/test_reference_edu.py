# SPDX-License-Identifier: Apache-2.0
"""The variant driver for edu: what it must do with DMA and interrupts, and that each defect undoes just that.

`./vfiocert certify --device edu-ref` and `./vfiocert prove` are the real proof; here is what tells in seconds
whether the driver, its knob or a clause is at fault.
"""

from __future__ import annotations

import errno
import struct

import pytest

from fixtures.connect import embedded_host, equip
from harness.host import Host
from harness.program import op, program, trace_records
from harness.uapi.vfio import VFIO_DEVICE_IOEVENTFD, VFIO_REGION_INFO_FLAG_MMAP

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

MODULE = "edu_vfio_pci"
EDU = {"pci": "0000:00:05.0"}
STOP, RUNNING, STOP_COPY, RESUMING, RUNNING_P2P = 1, 2, 3, 4, 5
IOVA, PAGES = 0x100000, 4
SRC, DST, COUNT, CMD, LIVENESS, IRQ_STATUS, IRQ_RAISE = 0x80, 0x88, 0x90, 0x98, 0x04, 0x24, 0x60
RUN, TO_RAM, BUFFER = 1, 2, 0x40000
INTX, MSI = 0, 1
TRIGGER_BY_EVENTFD, UNMASK_BY_HAND = 0x24, 0x11


@pytest.fixture(scope="module")
def edu(embedded_lab):
    """(host, device): the lab with the driver loaded and its device bound, given back afterwards."""
    with Host.connect(embedded_host(embedded_lab), "embedded.embedded") as host:
        equip(host, embedded_lab, MODULE)
        yield host, host.agent.call("provision", device=EDU, driver=MODULE)


def write(off, value, width=8):
    return op("region_write", fd="d", region=0, off=off, hex=value.to_bytes(width, "little").hex())


def copy(iova, count=8):
    """The registers of a copy to memory; the last write starts it."""
    return [write(SRC, BUFFER), write(DST, iova), write(COUNT, count), write(CMD, RUN | TO_RAM)]


def done():
    return op("region_poll", fd="d", region=0, off=CMD, width=4, mask=RUN, value=0, timeout_ms=5000)


def dirty():
    """Which pages of memory the device wrote."""
    return op("mem_dirty", mem="m", value=0xEE)


def state(number, out="f"):
    return op("set_state", fd="d", state=number, out=out)


def log_start():
    return op("dma_logging_start", fd="d", page_size=4096, ranges=[[IOVA, PAGES * 4096]])


def log_report(page=0, count=PAGES):
    return op(
        "dma_logging_report", fd="d", iova=IOVA + page * 4096, length=count * 4096, page_size=4096,
        bitmap_bytes=8,
    )  # fmt: skip


def observe(edu, *ops):
    """The records of `ops` on a device that can do DMA to four pages filled with 0xee."""
    host, device = edu
    before = [
        op("open_cdev", dev="dev0", out="d"), op("open_iommufd", out="i"), op("bind", fd="d", iommufd="i"),
        op("ioas_alloc", fd="i", out="ioas"), op("attach", fd="d", pt="ioas"),
        op("mmap", out="m", n=PAGES * 4096, align=4096), op("mem_fill", mem="m", value=0xEE),
        op("ioas_map", fd="i", ioas="ioas", mem="m", n=PAGES * 4096, iova=IOVA),
        op("region_write", fd="d", region=7, off=4, hex="0600"), op("get_state", fd="d"),
    ]  # fmt: skip
    result = host.agent.run(program([*before, *ops], devices={"dev0": device}))
    assert result.hung is None
    records = trace_records(result.trace)
    assert [r.op for r in records[: len(before)] if not r.ok] == []
    return records[len(before) - 1 :]


def with_eventfd(index):
    return [
        op("eventfd", out="e"),
        op("set_irqs", fd="d", index=index, start=0, count=1, flags=TRIGGER_BY_EVENTFD, fds=["e"]),
    ]


def interrupts(records):
    """How many interrupts each `eventfd_read` saw; 0 where it would have blocked."""
    return [r["value"] if r.ok else 0 for r in records if r.op == "eventfd_read"]


def pages(records):
    return [r["ranges"] for r in records if r.op == "mem_dirty"]


def bits(records):
    """The bitmap of each report; the errno's sign where it failed."""
    return [
        int.from_bytes(bytes.fromhex(r["bitmap"]), "little") if r.ok else -1
        for r in records
        if r.op == "dma_logging_report"
    ]


def stop_during_a_copy(edu):
    return pages(observe(edu, *copy(IOVA), state(STOP), dirty(), op("sleep", ms=200), dirty()))


def copy_told_in_stop(edu):
    return pages(observe(edu, state(STOP), *copy(IOVA), op("sleep", ms=200), dirty(),
                         state(RUNNING), done(), dirty()))  # fmt: skip


def copy_told_in_p2p(edu):
    return pages(observe(edu, state(RUNNING_P2P), *copy(IOVA), op("sleep", ms=200), dirty(),
                         state(RUNNING), done(), dirty()))  # fmt: skip


def interrupt_told_in_stop(edu):
    return interrupts(observe(edu, *with_eventfd(MSI), state(STOP), write(IRQ_RAISE, 1, 4),
                              op("eventfd_read", fd="e", timeout_ms=50), state(RUNNING),
                              op("eventfd_read", fd="e", timeout_ms=500)))  # fmt: skip


def line_unmasked_in_stop(edu):
    unmask = op("set_irqs", fd="d", index=INTX, start=0, count=1, flags=UNMASK_BY_HAND)
    return interrupts(observe(edu, *with_eventfd(INTX), write(IRQ_RAISE, 1, 4),
                              op("eventfd_read", fd="e", timeout_ms=500), state(STOP), unmask,
                              op("eventfd_read", fd="e", timeout_ms=50), state(RUNNING),
                              op("eventfd_read", fd="e", timeout_ms=500)))  # fmt: skip


def pending_interrupts_migrate(edu):
    records = observe(edu, write(IRQ_RAISE, 0x30, 4), state(STOP_COPY, "s"),
                      op("read_all", fd="s", keep="b"), op("reset", fd="d"), state(RESUMING, "r"),
                      op("write_all", fd="r", from_="b"), state(STOP),
                      op("region_read", fd="d", region=0, off=IRQ_STATUS, n=4, width=4))  # fmt: skip
    return [r["hex"] for r in records if r.op == "region_read"]


def half_a_stream(edu):
    records = observe(edu, state(STOP_COPY, "s"), op("read_all", fd="s", keep="b"), state(RESUMING, "r"),
                      op("write_all", fd="r", from_="b", n=40), state(STOP))  # fmt: skip
    return records[-1].ok


def opened_again(edu):
    observe(edu, state(STOP))
    return observe(edu)[0]["state"]


def reset_in_stop(edu):
    return observe(edu, state(STOP), op("reset", fd="d"), op("get_state", fd="d"))[-1]["state"]


def reset_in_stop_copy(edu):
    records = observe(edu, state(STOP_COPY, "s"), op("reset", fd="d"), op("get_state", fd="d"),
                      op("read", fd="s", n=8))  # fmt: skip
    return records[-2]["state"], records[-1].ok


def reset_of_a_log(edu):
    return bits(observe(edu, log_start(), *copy(IOVA), done(), op("reset", fd="d"), log_report()))


def unaligned_copy(edu):
    return bits(observe(edu, log_start(), *copy(IOVA + 4000, 200), done(), log_report(), log_report()))


def report_during_a_copy(edu):
    _, second = bits(observe(edu, log_start(), *copy(IOVA), log_report(), done(), log_report()))
    return second


def stop_with_a_log(edu):
    return bits(observe(edu, log_start(), *copy(IOVA), done(), state(STOP), state(RUNNING), log_report()))


def report_of_a_part(edu):
    return bits(observe(edu, log_start(), *copy(IOVA), done(), *copy(IOVA + 8192), done(),
                        log_report(0, 1), log_report()))  # fmt: skip


def started_twice(edu):
    records = observe(edu, log_start(), *copy(IOVA), done(), log_start(), log_report())
    return records[-2].ok, bits(records)


def past_the_mediation(edu):
    """A mapping of BAR0 is not offered, is refused, and an ioeventfd there is unknown to the device."""
    request = struct.pack("<IIQQiI", 32, 4, CMD, RUN, -1, 0)
    records = observe(
        edu,
        op("region_info", fd="d", index=0),
        op("mmap", out="bar", fd="d", region=0, n=4096),
        op("ioctl", fd="d", nr=VFIO_DEVICE_IOEVENTFD, buf=request.hex()),
    )
    return [bool(records[-3]["flags"] & VFIO_REGION_INFO_FLAG_MMAP), records[-2].ok, records[-1].errno]


PAGE_0 = [[0, 1]]
GOLDEN = {
    stop_during_a_copy: [PAGE_0, PAGE_0],
    copy_told_in_stop: [[], PAGE_0],
    copy_told_in_p2p: [[], PAGE_0],
    interrupt_told_in_stop: [0, 1],
    line_unmasked_in_stop: [1, 0, 1],
    pending_interrupts_migrate: ["30000000"],
    half_a_stream: False,
    opened_again: RUNNING,
    reset_in_stop: RUNNING,
    reset_in_stop_copy: (RUNNING, False),
    reset_of_a_log: [-1],
    unaligned_copy: [0b11, 0],
    report_during_a_copy: 1,
    stop_with_a_log: [1],
    report_of_a_part: [1, 0b100],
    started_twice: (False, [1]),
    past_the_mediation: [False, False, errno.ENOTTY],
}
BROKEN = {
    "dma_not_awaited": (stop_during_a_copy, [[], PAGE_0]),
    "dma_starts_in_stop": (copy_told_in_stop, [PAGE_0, PAGE_0]),
    "p2p_starts_dma": (copy_told_in_p2p, [PAGE_0, PAGE_0]),
    "irq_raised_in_stop": (interrupt_told_in_stop, [1, 0]),
    "irqs_not_saved": (pending_interrupts_migrate, ["00000000"]),
    "short_stream_loaded": (half_a_stream, True),
    "open_keeps_state": (opened_again, STOP),
    "reset_keeps_state": (reset_in_stop, STOP),
    "reset_keeps_session": (reset_in_stop_copy, (RUNNING, True)),
    "reset_empties_log": (reset_of_a_log, [0]),
    "log_misses_last_page": (unaligned_copy, [0b01, 0]),
    "log_records_source": (unaligned_copy, [0, 0]),
    "log_at_command_only": (report_during_a_copy, 0),
    "log_lost_in_stop": (stop_with_a_log, [0]),
    "log_cleared_whole": (report_of_a_part, [1, 0]),
    "log_starts_twice": (started_twice, (True, [0])),
    "bar_can_be_mapped": (past_the_mediation, [True, True, errno.ENOTTY]),
}


@pytest.mark.parametrize("scene", GOLDEN, ids=lambda scene: scene.__name__)
def test_the_driver_keeps_the_rule(edu, scene):
    assert scene(edu) == GOLDEN[scene]


@pytest.mark.parametrize("defect", BROKEN)
def test_a_defect_breaks_its_rule(edu, defect):
    """Steps: seed it, observe, heal, observe.  Verify: broken as foreseen, then golden."""
    host, _ = edu
    scene, broken = BROKEN[defect]
    knob = f"/sys/module/{MODULE}/parameters/defect"
    try:
        assert host.exec(f"echo {defect} >{knob} && cat {knob}", 10)[:2] == (0, f"{defect}\n".encode())
        assert scene(edu) == broken
    finally:
        host.exec(f"echo >{knob}", 10)
    assert scene(edu) == GOLDEN[scene]


def test_an_unknown_defect_is_refused_and_the_log_names_the_valid_ones(edu):
    host, _ = edu
    status, _, words = host.exec(f"echo no_such >/sys/module/{MODULE}/parameters/defect", 10)
    assert status != 0
    assert b"Invalid argument" in words
    line = host.exec("dmesg | grep \"defect 'no_such'\"", 10)[1].decode()
    assert all(f" {name}" in line for name in BROKEN)
