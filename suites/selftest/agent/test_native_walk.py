# SPDX-License-Identifier: Apache-2.0
"""The compiled walk: the records and system calls of the loop in Python, and Python where it cannot run."""

from __future__ import annotations

import base64
import binascii
import ctypes
import errno
import fcntl
import os
import random
import shutil
import threading
import time
from functools import partial
from types import SimpleNamespace

import pytest

from harness.agent import compiled, native_walk, walk
from harness.agent.executor import Executor, Overdue
from harness.agent.native_walk import CALL, NativeWalk
from harness.agent.slots import Context, Slots
from harness.agent.streams import Pieces
from harness.hosts.client import bundle, start_local_agent
from harness.hosts.native import SOURCE, compiled_module, shared_object
from harness.uapi import vfio
from suites.selftest.agent.programs import op, program

FD = 7
SMALL_PIECE = 64  # so that a large stream is small here
SEEDS = range(150)
READ, WRITE, CLOSE, IOCTL, FCNTL, CLOCK = {
    "x86_64": (0, 1, 3, 16, 72, 228), "aarch64": (63, 64, 57, 29, 25, 113),
}.get(os.uname().machine, (0,) * 6)  # fmt: skip


@pytest.fixture(scope="module")
def image() -> bytes:
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    data, why = shared_object()
    assert data, why
    return data


class ScriptedDevice:
    """Answers system calls by a dice of its own, and notes what was asked, byte for byte.

    Plain at times and at times nonsense, as a broken driver would: numbers that are no fd, states that are
    none, data in an ended session, short writes, signals in between.
    """

    def __init__(self, seed: int, wild: float) -> None:
        self.dice = random.Random(seed)
        self.wild = wild
        self.now = 1_000
        self.state, self.next_fd = 2, 100
        self.log: list[tuple[object, ...]] = []
        self.pulse = SimpleNamespace(since_ns=0)
        self.oldest_pulse = 0

    def odd(self) -> bool:
        return self.dice.random() < self.wild

    def call(self, number: int, a: int, b: int, c: int) -> int:
        if number == CLOCK:
            ctypes.cast(b, ctypes.POINTER(ctypes.c_int64 * 2))[0][:] = divmod(self.now, 1_000_000_000)
            return 0
        if number == IOCTL:
            result = self.control(a, b, c)
        elif number == WRITE:
            self.log.append(("write", a, ctypes.string_at(b, c)))
            result = -self.dice.choice((4, 4, 5, 22)) if self.odd() else self.dice.choice((c, c, c // 2, 0))
        elif number == READ:
            self.log.append(("read", a, c))
            result = self.dice.choice((0, 1, -4, -11)) if self.odd() else -errno.ENODEV
        elif number == CLOSE:
            self.log.append(("close", a))
            result = -errno.EIO if self.dice.random() < self.wild / 40 else 0
        else:
            assert number == FCNTL, number
            self.log.append(("fcntl", a, b))
            result = self.dice.choice((0, -4, -errno.EBADF)) if self.odd() else 1
        self.now += self.dice.choice((10, 10, 10, 400, 5_000))
        return result

    def control(self, fd: int, request: int, place: int) -> int:
        if request == vfio.VFIO_DEVICE_RESET:
            self.log.append(("reset", fd, place))
            self.state = 2
            return -self.dice.choice((25, 524)) if self.odd() else 0
        assert request == vfio.VFIO_DEVICE_FEATURE
        asked = (ctypes.c_uint32 * 4).from_address(place)
        self.log.append(("feature", fd, bytes(asked)))
        if asked[1] & vfio.VFIO_DEVICE_FEATURE_GET:
            asked[2] = self.dice.choice((self.state, 254, 255, 256, 1 << 31)) if self.odd() else self.state
            asked[3] = 0xFFFFFFFF
            return -errno.EIO if self.odd() else 0
        self.oldest_pulse = max(self.oldest_pulse, self.now - self.pulse.since_ns)
        target = asked[2]
        if target > 7 or self.dice.random() < 0.2:  # refused; only a broken driver has written something
            if self.odd():
                asked[3] = self.dice.choice((self.next_fd, 0xFFFFFFFF, FD, 3))
            return -errno.EINVAL
        new = target in (3, 4, 6, 7) and target != self.state
        self.state = target
        self.next_fd += 1
        asked[3] = self.next_fd if new else 0xFFFFFFFF
        if self.odd():
            asked[2] = self.dice.choice((target + 1, 0xFFFFFFFF, 255))
            numbers = (self.next_fd, self.next_fd - 1, 0xFFFFFFFF, 0xFFFFFFFE, FD, 1 << 31)
            asked[3] = self.dice.choice(numbers)
        return 0


def in_python(device: ScriptedDevice, patch: pytest.MonkeyPatch) -> None:
    """Have the loops in walk.py talk to the device: the seam that Python's modules leave."""

    def asked(number: int, *args: int) -> int:
        result = device.call(number, *args)
        while result == -errno.EINTR and number in (READ, WRITE, FCNTL):  # Python's own habit
            result = device.call(number, *args)
        if result < 0:
            raise OSError(-result, "scripted")
        return result

    def control(fd: int, request: int, buffer: object = 0, mutate: bool = True) -> int:
        place = ctypes.addressof((ctypes.c_char * 16).from_buffer(buffer)) if buffer else 0  # type: ignore
        return asked(IOCTL, fd, request, place)

    def write(fd: int, data: bytes) -> int:
        held = ctypes.create_string_buffer(bytes(data), len(data))
        return asked(WRITE, fd, ctypes.addressof(held), len(data))

    patch.setattr(walk, "ioctl", control)
    patch.setattr(walk, "fcntl", lambda fd, command: asked(FCNTL, fd, command, 0))
    patch.setattr(walk, "time", SimpleNamespace(monotonic_ns=lambda: device.now))
    patch.setattr(native_walk, "time", SimpleNamespace(monotonic_ns=lambda: device.now))
    kernel = SimpleNamespace(
        read=lambda fd, n: b"x" * asked(READ, fd, 0, n), close=lambda fd: asked(CLOSE, fd, 0, 0), write=write
    )
    patch.setattr(walk, "os", kernel)


class Case:
    """One walk, drawn by its seed: on a device that keeps the rules, errs seldom, or errs often."""

    def __init__(self, seed: int) -> None:
        dice = random.Random(seed)
        self.seed, self.wild = seed, dice.choice((0.0, 0.02, 0.3))
        targets = (1, 2, 3, 4, 4, 5, 6, 7, 99, 255)
        self.targets = bytes(dice.choice(targets) for _ in range(dice.choice((0, 1, 200))))
        content = dice.randbytes(dice.choice((0, 1, SMALL_PIECE, SMALL_PIECE + 1, 1000)))
        self.stream = Pieces([(content, 0, len(content))], {}) if len(content) > SMALL_PIECE else content
        self.limit_ns = dice.choice((1 << 60, 1 << 60, 100_000, 0))

    def play(self, walked, patch):
        """Walk: (records and the fd held, or the errno that ended it; the device afterwards)."""
        device = ScriptedDevice(self.seed, self.wild)
        patch.setattr(walk, "PIECE", SMALL_PIECE)
        in_python(device, patch)  # for the other loop, too: pieces of a large stream are written by Python
        given = (FD, self.targets, self.stream, device.pulse, device.now + self.limit_ns)
        try:
            return walked(device)(*given), device
        except OSError as e:
            return e.errno, device


@pytest.mark.parametrize("seed", SEEDS)
def test_both_loops_ask_and_record_the_same(seed, image, monkeypatch):
    """Steps: one device, played twice, walked by both.  Verify: same calls in order, same bytes, same end."""

    def compiled_loop(device):
        return partial(walk.walk_in_c, NativeWalk(image, CALL(device.call)))

    slice_ns = (1, 1_000, 50_000)[seed % 3]
    monkeypatch.setattr(native_walk, "_SLICE_NS", slice_ns)
    with monkeypatch.context() as patch:
        wanted, first = Case(seed).play(lambda _: walk.walk_in_python, patch)
    with monkeypatch.context() as patch:
        found, second = Case(seed).play(compiled_loop, patch)
    assert second.log == first.log
    assert found == wanted
    assert second.oldest_pulse < slice_ns  # as seen by the executor when a step begins


def test_the_seeds_reach_what_a_walk_can_come_to(monkeypatch):
    """Verify: every flag, every kind of outcome, a failed close and a walk cut short were compared above."""
    flags, outcomes, errors, ends = 0, set(), set(), set()
    for case in map(Case, SEEDS):
        with monkeypatch.context() as patch:
            end, _ = case.play(lambda _: walk.walk_in_python, patch)
        if isinstance(end, int):
            ends.add(errno.errorcode[end])
            continue
        recs = end[0]
        ends.add("whole" if len(recs) == 4 * len(case.targets) else "cut")
        for n in range(0, len(recs), 4):
            errors.add(recs[n])
            flags |= recs[n + 2]
            outcomes.add(recs[n + 3])
    assert flags == 63
    assert outcomes >= {0, 0xFD, 0xFE, errno.ENODEV}
    assert errors >= {0, errno.EINVAL, 524 & 0xFF}
    assert ends == {"EIO", "whole", "cut"}


def context(fd: int) -> Context:
    slots = Slots()
    slots.put_fd("d", fd)
    return Context(slots, {}, 0, None)


def records_of(targets: bytes, fd: int) -> bytes:
    args = {"fd": "d", "targets": base64.b64encode(targets).decode()}
    return base64.b64decode(walk.walk(context(fd), args)["recs"])


def packed(monkeypatch, **values):
    monkeypatch.setattr(native_walk, "_found", [])
    for name, value in values.items():
        monkeypatch.setattr(compiled, name, value)


@pytest.fixture
def no_device():
    """An fd that refuses every request."""
    fd = os.memfd_create("no device")
    yield fd
    os.close(fd)


REFUSED = bytes((errno.ENOTTY, 0xFF, 0, 0xFE))


def test_a_real_kernel_is_asked_without_its_c_library(image, monkeypatch, no_device, capsys):
    packed(monkeypatch, MACHINE=os.uname().machine, WALK=base64.b64encode(image).decode())
    monkeypatch.setattr(walk, "_walk", None)  # the loop in Python must not be what runs
    assert records_of(bytes((3, 255, 2)), no_device) == 3 * REFUSED
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"WALK": "", "WHY": "the controller has no gcc"}, "the controller has no gcc"),
        ({"MACHINE": "vax"}, "it was compiled for vax"),
        ({"WALK": base64.b64encode(b"\x7fELF\x02\x01\x01" + bytes(200)).decode()}, ""),
        ({"WALK": "%"}, ""),
    ],
)
def test_a_loop_that_cannot_be_loaded_leaves_python(values, why, image, monkeypatch, no_device, capsys):
    """Verify: the same records, and one line on stderr for all walks that says why."""
    create = os.memfd_create

    def elsewhere(*args):  # the loader knows what was loaded by its path, which holds the number of the fd
        fd = create(*args)
        try:
            return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 500)
        finally:
            os.close(fd)

    monkeypatch.setattr(os, "memfd_create", elsewhere)
    good = {"MACHINE": os.uname().machine, "WALK": base64.b64encode(image).decode()}
    packed(monkeypatch, **{**good, **values})
    assert [records_of(b"\3\2", no_device) for _ in range(2)] == [2 * REFUSED] * 2
    told = capsys.readouterr().err
    assert told.startswith("vfiocert agent: walks in Python, the compiled loop is not usable: " + why)
    assert told.count("\n") == 1


@pytest.mark.parametrize("place", ["memfd_create", "write"])
def test_a_host_that_forbids_code_from_memory_leaves_python(place, image, monkeypatch, no_device, capsys):
    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    packed(monkeypatch, MACHINE=os.uname().machine, WALK=base64.b64encode(image).decode())
    monkeypatch.setattr(os, place, refuse)
    assert native_walk.native_walk() is None
    assert "Permission denied" in capsys.readouterr().err
    monkeypatch.undo()


def test_an_older_kernel_is_asked_without_the_flag_that_it_does_not_know(image, monkeypatch):
    create, flags = os.memfd_create, []

    def older(name, given):
        flags.append(given)
        if given & 0x10:
            raise OSError(errno.EINVAL, "Invalid argument")
        return create(name, given)

    monkeypatch.setattr(os, "memfd_create", older)
    NativeWalk(image)
    assert flags == [os.MFD_CLOEXEC | 0x10, os.MFD_CLOEXEC]


def test_a_structure_that_differs_is_not_used(image, monkeypatch):
    class Longer(native_walk._Walk):
        _fields_ = (("more", ctypes.c_uint64),)

    monkeypatch.setattr(native_walk, "_Walk", Longer)
    with pytest.raises(OSError, match="its structure has"):
        NativeWalk(image)


def test_no_fd_stays_open_and_none_is_inherited(image):
    before = os.listdir("/proc/self/fd")
    NativeWalk(image)
    assert os.listdir("/proc/self/fd") == before


def test_the_loop_needs_no_library_and_is_the_same_each_time(image):
    again, _ = shared_object()
    assert again == image
    assert b"libc" not in image
    assert b"GLIBC" not in image


@pytest.mark.parametrize(
    ("compiler", "machine", "why"),
    [
        ("no-such-compiler", "x86_64", "the controller has no no-such-compiler"),
        ("false", "x86_64", "false of the controller refuses walk.c: no message"),
        ("gcc", "vax", "none is made for vax"),
    ],
)
def test_without_a_compiler_it_is_said_why_there_is_none(compiler, machine, why):
    assert shared_object(compiler, machine) == (b"", why)


def test_the_agents_source_is_filled_in(image):
    text = compiled_module(SOURCE.with_name("compiled.py").read_text("utf-8"))
    names: dict[str, str] = {}
    exec(compile(text, "compiled", "exec"), names)
    assert (names["MACHINE"], names["WHY"]) == (os.uname().machine, "")
    assert binascii.a2b_base64(names["WALK"]) == image
    assert "harness.agent.compiled" in __import__("zlib").decompress(bundle().data).decode()


def test_an_agent_walks_in_c_and_says_nothing(image, tmp_path):
    targets = base64.b64encode(bytes((3, 2, 255)) * 1000).decode()
    with start_local_agent(run_dir=str(tmp_path)) as agent:
        ops = [op("memfd", out="m"), op("walk", fd="m", targets=targets), op("walk", fd=-1, targets=targets)]
        trace = agent.run(program(ops)).trace
        assert base64.b64decode(trace[1]["recs"]) == 3000 * REFUSED
        assert trace[2]["errno"] == errno.EBADF
        assert agent.transport.stderr_tail() == ""


def test_a_walk_that_hangs_is_reported_with_its_thread(image, monkeypatch, no_device):
    """Steps: the kernel never answers a SET.  Verify: the watcher says thread, operation and stack."""
    asked, go_on = threading.Event(), threading.Event()

    def stuck(number, a, b, c):
        if number == IOCTL:
            asked.set()
            go_on.wait(300)
        return 0

    monkeypatch.setattr(native_walk, "_found", [NativeWalk(image, CALL(stuck))])
    ops = [op("memfd", out="m"), op("walk", fd="m", targets=base64.b64encode(b"\3").decode())]
    executor, came_back = Executor(), []

    def serve():
        try:
            came_back.append(executor.run(program(ops, op_ms=300)))
        except Overdue as e:
            came_back.append(e)

    server = threading.Thread(target=serve, daemon=True)
    server.start()
    try:
        assert asked.wait(60)
        answer = None
        while answer is None:
            time.sleep(0.1)
            answer = executor.overdue()
        hung = answer["hung"]
        assert (hung["thread"], hung["i"], hung["op"], hung["slow"]) == ("main", 1, "walk", False)
        assert "wchan: " in hung["stack"]
        assert [record["op"] for record in answer["trace"]] == ["memfd"]
    finally:
        go_on.set()
        server.join(60)
    assert isinstance(came_back[0], Overdue)
