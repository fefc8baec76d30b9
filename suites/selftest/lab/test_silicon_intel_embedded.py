# SPDX-License-Identifier: Apache-2.0
"""qat_vfio_pci and xe-vfio-pci, untouched, on their models: a VF's state moves; what the models refuse."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from harness.hosts.host import Host
from harness.hosts.provision import ProvisionedDevice
from harness.lab.modfile import read_module
from harness.lab.silicon import build_silicon, silicon_drivers
from harness.program.script import Script
from harness.progress import NoProgress
from suites.selftest.lab.modelled import bound, knobs, opened, run, said

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

STOP, RUNNING, STOP_COPY, RESUMING = 1, 2, 3, 4
AQA, LENGTH = 0x24, 0x14
STATE = "1f000f00" + "00305a5a00000000" + "0050c33c00000000"
MODELS = {"qat_vfio_pci": "intel_qat", "xe_vfio_pci": "xe"}

Vf = tuple[Host, ProvisionedDevice, str]


@pytest.fixture(scope="module", params=sorted(MODELS))
def vf(request, embedded_lab) -> Iterator[Vf]:
    """A VF of each driver, bound; given back afterwards."""
    with bound(embedded_lab, request.param) as (host, ready):
        yield host, ready, MODELS[request.param]


def saved(s: Script) -> int:
    """Steps: registers are written, the device is saved and stopped.  The place of the read."""
    s.op("region_write", fd="d", region=0, off=AQA, hex=STATE, width=4)
    s.op("set_state", fd="d", state=STOP_COPY, out="f")
    place = s.op("read_all", fd="f", keep="bytes")
    s.op("set_state", fd="d", state=STOP)
    return place


def only(vf: Vf, model: str) -> None:
    """Skips the other driver's VF."""
    if vf[2] != model:
        pytest.skip(f"about {model}")


def test_the_driver_is_the_kernels_and_the_pf_has_the_model(vf, embedded_lab):
    """Verify: what is loaded is what was built, from the release's source; the PF's driver is the model."""
    host, ready, model = vf
    module = next(name for name, each in MODELS.items() if each == model)
    built = build_silicon(embedded_lab.kernel, silicon_drivers()[module], NoProgress())
    assert built.mainline is not False
    assert ready.module_srcversion == read_module(built.driver).srcversion
    assert said(host, f"cat /sys/module/{model}/srcversion") == read_module(built.model).srcversion
    assert "model" in read_module(built.model).extra["description"]
    assert "P2P" in ready.capabilities["migration"]


def test_a_saved_state_moves_the_registers(vf):
    """Steps: write registers, save, reset, restore, run. Verify: they are as they were saved."""
    s = opened()
    read = saved(s)
    s.op("reset", fd="d")
    s.op("region_write", fd="d", region=0, off=AQA, hex="00" * LENGTH, width=4)
    s.op("set_state", fd="d", state=RESUMING, out="g")
    s.op("write_all", fd="g", from_="bytes")
    loaded = s.op("set_state", fd="d", state=STOP)
    going = s.op("set_state", fd="d", state=RUNNING)
    again = s.op("region_read", fd="d", region=0, off=AQA, n=LENGTH, width=4)
    records = run(*vf[:2], s)
    assert [records[i]["errno"] for i in (loaded, going)] == [0, 0]
    assert records[read]["n"] > 2000
    assert records[again]["hex"] == STATE


def test_a_suspend_that_the_device_fails_fails_the_set(vf):
    """Verify: SET says so and the state is RUNNING; after a reset the next one succeeds."""
    # Of two GTs the first one fails, and xe makes EUCLEAN of that when it asks the second.
    place, wanted = {"intel_qat": (2, errno.EIO), "xe": (0, errno.EUCLEAN)}[vf[2]]
    with knobs(vf[0], vf[2], fail_command=place, fail_nth=1):
        s = opened()
        failed = s.op("set_state", fd="d", state=STOP)
        state = s.op("get_state", fd="d")
        s.op("reset", fd="d")
        again = s.op("set_state", fd="d", state=STOP)
        records = run(*vf[:2], s)
    assert records[failed]["errno"] == wanted
    assert records[state]["state"] == RUNNING
    assert records[again]["errno"] == 0


def test_a_setup_says_what_the_device_can_do(vf):
    """Verify: devices with other capabilities save other streams, and the same one saves the same."""
    only(vf, "intel_qat")
    streams = []
    for capabilities in (0x1FF, 0x0FF, 0x1FF):
        with knobs(vf[0], vf[2], capabilities=capabilities):
            s = opened()
            read = saved(s)
            streams.append(run(*vf[:2], s)[read]["sha256"])
    assert streams[0] == streams[2]
    assert streams[0] != streams[1]


def test_a_stream_without_its_end_is_waited_for_and_refused(vf):
    """Steps: half a stream, SET(STOP), shortened wait. Verify: ETIMEDOUT, the state stays RESUMING."""
    only(vf, "xe")
    with knobs(vf[0], vf[2], restore_wait_ms=200):
        s = opened()
        saved(s)
        s.op("set_state", fd="d", state=RESUMING, out="g")
        s.op("write_all", fd="g", from_="bytes", off=0, n=200)
        refused = s.op("set_state", fd="d", state=STOP)
        state = s.op("get_state", fd="d")
        records = run(*vf[:2], s)
    assert records[refused]["errno"] == errno.ETIMEDOUT
    assert records[state]["state"] == RESUMING


def test_vram_is_as_large_as_it_is_made(vf):
    """Verify: 8 MiB more VRAM is 8 MiB more stream, and it is restored."""
    only(vf, "xe")
    lengths = []
    for size in (64, 64 + 8192):
        with knobs(vf[0], vf[2], vram_kb=size):
            s = opened()
            read = saved(s)
            s.op("set_state", fd="d", state=RESUMING, out="g")
            s.op("write_all", fd="g", from_="bytes")
            loaded = s.op("set_state", fd="d", state=STOP)
            records = run(*vf[:2], s)
        assert records[loaded]["errno"] == 0
        lengths.append(records[read]["n"])
    assert lengths[1] - lengths[0] == 8192 * 1024
