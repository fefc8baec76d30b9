# SPDX-License-Identifier: Apache-2.0
"""Experiments on the interface: features, arcs, data fds, PRE_COPY, reset, close and reopen.

An experiment is a function from a `Subject` to programs; its name is the sentence it tries, its docstring
names the clauses its claims hold.  The tracker judges all other rules that a program touches.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator

from fixtures.experiment import experiment
from fixtures.subject import Subject
from harness.program.script import FEATURE_GET, FEATURE_PROBE, FEATURE_SET, Guard, Script, succeeded
from harness.spec.arcs import OUT_OF_RANGE, SAVING_GROUP, S, path
from harness.uapi import vfio

GET, SET, PROBE = FEATURE_GET, FEATURE_SET, FEATURE_PROBE
MIGRATION, MIG_DEVICE_STATE = vfio.VFIO_DEVICE_FEATURE_MIGRATION, vfio.VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE
MIG_DATA_SIZE = vfio.VFIO_DEVICE_FEATURE_MIG_DATA_SIZE
PRECOPY_INFO_V2 = vfio.VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2
NO_SUCH_FEATURE = 0xFFFE
# struct vfio_region_info_cap_type (id 2) of version 1; VFIO_REGION_TYPE_MIGRATION_DEPRECATED 3, subtype 1.
V1_REGION = "^(?:..)*02000100.{8}0300000001000000"
STATE_STOP = "01000000ffffffff"


@experiment(
    "MIG-001", "MIG-002", "MIG-003", "MIG-004", "MIG-005", "MIG-006", "MIG-007", "MIG-008", "MIG-009",
    "MIG-010", "MIG-011", "MIG-012", "MIG-013", "MIG-014", "MIG-015", "MIG-017", "MIG-091", "MIG-094",
)  # fmt: skip
def features_answer_probe_get_and_set(subject: Subject) -> Iterator[Script]:
    s = subject.script()
    get = s.op("feature", fd="d", flags=GET | MIGRATION, payload="00" * 8)
    s.succeeds("MIG-001", get, "GET of MIGRATION succeeds")
    odd = [f"{n:02x}" + "00" * 7 for n in range(1, 256, 2)]
    got = [(get, "errno", "==", 0)]
    s.is_one_of("MIG-002", get, "payload", odd, "flags with VFIO_MIGRATION_STOP_COPY (bit 0)").when(*got)
    defined = [f"{n:02x}" + "00" * 7 for n in (1, 3, 5, 7)]
    s.is_one_of("MIG-003", get, "payload", defined, "one of the combinations 1, 3, 5, 7").when(*got)

    def probe(flags: int, clause: str, ok: bool, expected: str, payload: str = "") -> None:
        i = s.op("feature", fd="d", flags=PROBE | flags, payload=payload)
        if ok:
            s.succeeds(clause, i, expected)
        else:
            s.is_refused(clause, i, expected=expected)
        s.op("get_state", fd="d")
        after = s.op("get_state", fd="d")
        s.equals("MIG-014", after, "state", int(S.RUNNING), "RUNNING after a PROBE")

    probe(GET | MIGRATION, "MIG-004", True, "PROBE|GET of MIGRATION succeeds")
    probe(MIGRATION, "MIG-004", True, "PROBE of MIGRATION succeeds")
    probe(SET | MIGRATION, "MIG-005", False, "PROBE|SET of MIGRATION is refused")
    for flags in (GET, SET, GET | SET):
        probe(flags | MIG_DEVICE_STATE, "MIG-006", True, "PROBE of MIG_DEVICE_STATE succeeds")
    # What would stop the device, were it not a PROBE.
    probe(SET | MIG_DEVICE_STATE, "MIG-006", True, "PROBE of MIG_DEVICE_STATE succeeds", STATE_STOP)
    probe(GET | NO_SUCH_FEATURE, "MIG-011", False, "PROBE of an unknown feature is refused")
    if subject.has("precopy_info_v2"):
        probe(SET | PRECOPY_INFO_V2, "MIG-091", True, "PROBE|SET of PRECOPY_INFOv2 succeeds")
        probe(GET | PRECOPY_INFO_V2, "MIG-091", False, "PROBE|GET of PRECOPY_INFOv2 is refused")
    if subject.has("data_size"):
        i = s.op("feature", fd="d", flags=SET | MIG_DATA_SIZE, payload="00" * 8)
        s.is_refused("MIG-094", i, expected="SET of MIG_DATA_SIZE is refused")
    yield s


def _refused(
    s: Script, state: S, flags: int, payload: str, clause: str, argsz: int | None, expected: str
) -> None:
    i = s.op("feature", fd="d", flags=flags, payload=payload, argsz=argsz)
    s.is_refused(clause, i, expected=expected)
    after = s.op("get_state", fd="d")
    s.equals("MIG-010", after, "state", int(state), f"still {state.name}")


@experiment("MIG-007", "MIG-008", "MIG-009", "MIG-010", "MIG-012", "MIG-017")
def bad_feature_requests_are_refused_and_change_nothing(subject: Subject) -> Iterator[Script]:
    for state in subject.states:
        s = subject.script()
        s.set(state)

        _refused(s, state, GET | SET | MIG_DEVICE_STATE, STATE_STOP, "MIG-007", None, "GET|SET is refused")
        _refused(
            s,
            state,
            MIG_DEVICE_STATE,
            STATE_STOP,
            "MIG-008",
            None,
            "a request without GET, SET, PROBE is refused",
        )
        _refused(s, state, SET | MIG_DEVICE_STATE, STATE_STOP, "MIG-009", 8, "argsz 8 for SET is refused")
        _refused(s, state, SET | MIG_DEVICE_STATE, STATE_STOP, "MIG-009", 12, "argsz 12 for SET is refused")
        _refused(s, state, GET | MIG_DEVICE_STATE, STATE_STOP, "MIG-009", 4, "argsz 4 for GET is refused")
        _refused(s, state, GET | MIGRATION, "00" * 8, "MIG-009", 8, "argsz 8 for GET of MIGRATION is refused")
        _refused(
            s,
            state,
            1 << 19 | SET | MIG_DEVICE_STATE,
            STATE_STOP,
            "MIG-012",
            None,
            "undefined flag bit 19 is refused",
        )
        _refused(
            s, state, 1 << 31 | GET | MIGRATION, "00" * 8, "MIG-012", None, "undefined flag bit 31 is refused"
        )
        long = s.op("feature", fd="d", flags=GET | MIG_DEVICE_STATE, payload="00" * 64)
        s.succeeds("MIG-017", long, "GET with a larger argsz succeeds")
        yield s


@experiment("MIG-015")
def the_migration_flags_are_the_same_in_every_state(subject: Subject) -> Iterator[Script]:
    s = subject.script()
    first = s.op("feature", fd="d", flags=GET | MIGRATION, payload="00" * 8)
    for state in subject.states:
        s.op("reset", fd="d") if subject.has("reset") else s.set(S.RUNNING)
        s.op("get_state", fd="d")
        s.set(state)
        i = s.op("feature", fd="d", flags=GET | MIGRATION, payload="00" * 8)
        s.equals("MIG-015", i, "payload", s.ref(first, "payload"), f"the same flags in {state.name}")
    yield s


@experiment("MIG-013")
def no_region_of_the_v1_protocol_is_exposed(subject: Subject) -> Iterator[Script]:
    """Type 3, subtype 1 in a region's type capability was migration v1."""
    s = subject.script()
    info = s.op("device_info", fd="d")
    s.succeeds("MIG-013", info, "VFIO_DEVICE_GET_INFO succeeds")
    for index in range(min(int(subject.capabilities.get("num_regions") or 9), 32)):
        i = s.op("region_info", fd="d", index=index)
        s.lacks("MIG-013", i, "caps_hex", V1_REGION, "no VFIO_REGION_TYPE_MIGRATION_DEPRECATED region").when(
            succeeded(i)
        )
    yield s


@experiment("MIG-016", "MIG-021", "MIG-024", "MIG-052", "MIG-053", "MIG-093")
def every_state_can_be_watched(subject: Subject) -> Iterator[Script]:
    for state in subject.states:
        s = subject.script()
        s.set(state)
        s.op("debugfs_state", dev="dev0")
        if subject.has("data_size"):
            s.op("data_size", fd="d")
        for _ in range(4):
            s.op("sleep", ms=5)
            s.op("get_state", fd="d")
        s.set(state)
        yield s


@experiment(
    "MIG-030", "MIG-031", "MIG-032", "MIG-033", "MIG-034", "MIG-035", "MIG-036", "MIG-037", "MIG-038",
    "MIG-039", "MIG-040", "MIG-041", "MIG-042", "MIG-043", "MIG-044", "MIG-045", "MIG-046", "MIG-047",
    "MIG-048", "MIG-049", "MIG-050", "MIG-051", "MIG-052", "MIG-055", "MIG-056", "MIG-057", "MIG-058",
    "MIG-059", "MIG-060", "MIG-061", "MIG-062", "MIG-063",
)  # fmt: skip
def every_pair_of_states_with_a_whole_stream(subject: Subject) -> Iterator[Script]:
    """All 64 cells, RESUMING left with a real stream."""
    for cur in subject.states:
        for new in (*range(OUT_OF_RANGE), OUT_OF_RANGE, 0x7FFFFFFF, 0xFFFFFFFF):
            s = subject.script()
            s.save("stream")
            fd = s.set(cur)
            if cur == S.RESUMING:
                s.op("write_all", fd=fd, from_="stream", chunks=[65536])
            s.set(new)
            done = s.last_set()
            s.op("debugfs_state", dev="dev0")
            way = path(cur, new, subject.flags)
            if cur == S.RESUMING and way is not None and len(way) > 1:
                clause = "MIG-032" if new == S.STOP else "MIG-045"
                s.succeeds(clause, done, f"SET({S(new).name}) after a whole stream succeeds")
            yield s


@experiment("MIG-060", "MIG-061", "MIG-062", "MIG-063", "MIG-064", "MIG-065", "MIG-066", "MIG-067", "MIG-068")
def a_data_fd_dies_with_its_session(subject: Subject) -> Iterator[Script]:
    for cur in [x for x in subject.states if x in SAVING_GROUP]:
        ways: list[S | None] = [x for x in subject.states if x not in SAVING_GROUP]
        for leave in [*ways, None]:  # None: by a reset
            if leave is None and not subject.has("reset"):
                continue
            for read_first in (0, 7):
                s = subject.script()
                fd = s.set(cur)
                s.op("dup", fd=fd, out="copy")
                if read_first:
                    s.op("read", fd=fd, n=read_first)
                s.op("reset", fd="d") if leave is None else s.set(leave)
                s.op("get_state", fd="d")
                for slot in (fd, "copy"):
                    for n in (1, 4096):
                        s.op("read", fd=slot, n=n)
                    s.op("precopy_info", fd=slot)
                if leave != S.RESUMING:
                    again = s.set(S.STOP_COPY)
                    s.op("read", fd=fd, n=64)
                    s.read_stream(again, "", [4096])
                    s.op("read", fd="copy", n=64)
                s.op("poll", fd=fd, events=["IN"], timeout_ms=0)
                s.op("close", fd=fd)
                s.op("get_state", fd="d")
                yield s


@experiment("MIG-063", "MIG-065", "MIG-068", "MIG-073", "MIG-092", "MIG-113", "MIG-121")
def a_resuming_fd_dies_with_its_session(subject: Subject) -> Iterator[Script]:
    for leave in ("stop", "reset"):
        if leave == "reset" and not subject.has("reset"):
            continue
        s = subject.script()
        s.save("stream")
        fd = s.set(S.RESUMING)
        s.op("dup", fd=fd, out="copy")
        s.op("read", fd=fd, n=16)
        s.op("precopy_info", fd=fd)
        s.op("lseek", fd=fd, off=0, whence="SEEK_SET")
        s.op("write", fd=fd, from_="stream", off=0, n=16)
        s.op("write_all", fd=fd, from_="stream", chunks=[16], off=16)
        s.set(S.STOP) if leave == "stop" else s.op("reset", fd="d")
        s.op("get_state", fd="d")
        for slot in (fd, "copy"):
            s.op("write", fd=slot, from_="stream", off=0, n=8)  # what a session that waits would take
            s.op("write", fd=slot, hex="00" * 16)
            s.op("read", fd=slot, n=16)
        s.op("close", fd=fd)
        s.op("get_state", fd="d")
        yield s


@experiment("MIG-068", "MIG-070")
def a_dup_shares_the_position_of_the_stream(subject: Subject) -> Iterator[Script]:
    """Two descriptors read alternately what one reads alone; a descriptor that was passed on reads all of it.

    Two saves need not be equally long: lengths are compared only where two whole saves were, and what the
    two descriptors read must restore in any case.
    """
    s = subject.script()
    whole, alike = _two_whole_saves(s)
    fd = s.set(S.STOP_COPY)
    s.op("dup", fd=fd, out="copy")
    s.op("read", fd=fd, n=8, keep="a")
    s.read_stream("copy", "b", [5, 4096])
    s.op("read", fd=fd, n=8)
    both = s.op("bytes", out="both", concat=["a", "b"])
    s.equals("MIG-068", both, "n", s.ref(whole, "n"), "as many bytes as one descriptor reads").when(alike)
    s.set(S.STOP)
    _, done = s.restore("both")
    s.succeeds("MIG-068", done, "what both descriptors read, one after the other, restores")
    yield s
    s = subject.script()
    whole, alike = _two_whole_saves(s)
    fd = s.set(S.STOP_COPY)
    s.op("socketpair", out=["left", "right"])
    s.op("send_fd", sock="left", fd=fd)
    s.op("recv_fd", sock="right", out="passed")
    s.op("close", fd=fd)
    rest = s.read_stream("passed", "passed on", [4096])
    s.equals("MIG-070", rest, "n", s.ref(whole, "n"), "the whole stream through the passed fd").when(alike)
    s.set(S.STOP)
    dead = s.op("read", fd="passed", n=64)
    s.at_most("MIG-070", dead, "ret", 0, "no data after the session")
    _, done = s.restore("passed on")
    s.succeeds("MIG-070", done, "the stream read through the passed fd restores")
    yield s


def _two_whole_saves(s: Script) -> tuple[int, Guard]:
    """The first of two saves, and the condition that both were equally long."""
    first = s.save()
    return first, (s.save(), "n", "==", Script.ref(first, "n"))


@experiment("MIG-054", "MIG-057", "MIG-072", "MIG-073", "MIG-074", "MIG-075", "MIG-076", "MIG-077", "MIG-079")
def a_data_fd_is_a_stream_in_one_direction(subject: Subject) -> Iterator[Script]:
    for cur in [x for x in subject.states if x in SAVING_GROUP]:
        s = subject.script()
        fd = s.set(cur)
        s.op("write", fd=fd, hex="00")
        s.op("lseek", fd=fd, off=0, whence="SEEK_SET")
        s.op("pread", fd=fd, off=0, n=4)
        s.op("pwrite", fd=fd, off=0, hex="00")
        s.op("read", fd=fd, n=0)
        s.op("read", fd=fd, n=1)
        if cur == S.STOP_COPY:
            s.read_stream(fd, "", [3, 1, 4096])
            for _ in range(3):
                s.op("read", fd=fd, n=16)
                s.op("poll", fd=fd, events=["IN"], timeout_ms=0)
        s.op("get_state", fd="d")
        yield s


@experiment("MIG-069")
def closing_a_data_fd_changes_no_state(subject: Subject) -> Iterator[Script]:
    """Unread, read in part, and with a copy still open."""
    for state in [x for x in subject.states if x in SAVING_GROUP or x == S.RESUMING]:
        for n in (0, 5):
            s = subject.script()
            fd = s.set(state)
            s.op("dup", fd=fd, out="copy")
            if n and state != S.RESUMING:
                s.op("read", fd=fd, n=n)
            for slot in (fd, "copy"):
                s.op("close", fd=slot)
                s.op("get_state", fd="d")
            yield s


@experiment(
    "MIG-054", "MIG-078", "MIG-080", "MIG-081", "MIG-082", "MIG-083", "MIG-084", "MIG-085", "MIG-086",
    "MIG-087", "MIG-088", "MIG-089", "MIG-090", "MIG-091", "MIG-092",
)  # fmt: skip
def precopy_info_tells_what_is_left(subject: Subject) -> Iterator[Script]:
    if not subject.has("pre_copy"):
        return
    starts = [x for x in (S.PRE_COPY, S.PRE_COPY_P2P) if x in subject.states]
    for cur in starts:
        for piece in (1, 5, 4096):
            s = subject.script()
            fd = s.set(cur)
            s.op("precopy_info", fd=fd)
            for argsz in (0, 8, 23):
                s.op("precopy_info", fd=fd, argsz=argsz)
            for _ in range(3):
                s.op("read", fd=fd, n=piece)
                s.op("precopy_info", fd=fd)
            s.op("read_all", fd=fd, chunks=[piece], max_bytes=1 << 20)
            s.op("precopy_info", fd=fd)
            s.op("read", fd=fd, n=64)
            other = [x for x in starts if x != cur]
            for state in (*other, cur) if other else ():
                s.set(state)
                s.op("precopy_info", fd=fd)
            s.set(S.STOP_COPY)
            s.op("precopy_info", fd=fd)
            s.read_stream(fd, "", [4096])
            s.op("precopy_info", fd=fd)
            s.set(S.RUNNING)
            s.op("precopy_info", fd=fd)
            yield s
    if not starts:  # flags that contradict each other; MIG-003 says so
        return
    s = subject.script()
    fd = s.set(starts[0])
    s.op("precopy_info", fd=fd)
    s.read_stream(fd, "", [4096])
    drained = s.op("precopy_info", fd=fd)
    s.equals("MIG-085", drained, "initial_bytes", 0, "0 when all was read")
    yield s


def open_device(s: Script) -> None:
    """Open the device again as `d`, on an iommufd of its own."""
    s.op("open_cdev", dev="dev0", out="d")
    s.op("open_iommufd", out="i")
    s.op("ioas_alloc", fd="i", out="ioas")
    s.op("bind", fd="d", iommufd="i")
    s.op("attach", fd="d", pt="ioas")


@experiment("MIG-178")
def poll_in_pre_copy_waits_for_data(subject: Subject) -> Iterator[Script]:
    """Steps: read to the temporary end of stream, poll, read.  Verify: what poll says is so."""
    for state in (S.PRE_COPY, S.PRE_COPY_P2P):
        if state not in subject.states:
            continue
        s = subject.script()
        fd = s.set(state)
        for _ in range(3):
            ready = s.op("poll", fd=fd, events=["IN"], timeout_ms=0)
            got = s.op("read", fd=fd, n=1)
            s.exceeds("MIG-178", got, "ret", 0, "data, for poll said readable").when(
                (ready, "revents", "contains", "IN")
            )
            s.read_stream(fd)
        yield s


@experiment("MIG-179", needs=("data_size",))
def the_estimate_speaks_of_what_comes(subject: Subject) -> Iterator[Script]:
    s = subject.script()
    s.set(S.STOP)
    size = s.op("data_size", fd="d")
    read = s.save()
    s.exceeds("MIG-179", size, "size", 0, "more than 0 bytes to expect").when(
        succeeded(size), (read, "n", ">", 0)
    )
    yield s


@experiment("MIG-050")
def a_refused_set_leaves_a_device_that_goes_on(subject: Subject) -> Iterator[Script]:
    """GET may tell the old state though the device is not in it any more: the next arc shows that.

    Steps: an arc, back, requests that must be refused, the same arc.  Verify: it succeeds as before.
    """
    lasting = [x for x in subject.states if x != S.RESUMING]
    for cur in lasting:
        way_on = next((x for x in lasting if len(path(cur, x, subject.flags) or ()) == 2), None)
        refused = [x for x in (*range(8), OUT_OF_RANGE) if path(cur, x, subject.flags) is None]
        if way_on is None or not refused:
            continue
        s = subject.script()
        s.set(cur)
        s.set(way_on)
        before = s.last_set()
        s.set(S.RUNNING)
        s.set(cur)
        for target in refused:
            s.set(target)
        s.set(way_on)
        again = f"SET({way_on.name}) in {cur.name} as before the refused SETs"
        s.succeeds("MIG-050", s.last_set(), again).when(succeeded(before))
        yield s


@experiment("MIG-090", "MIG-091", own_open=True)
def precopy_info_v2_is_an_opt_in(subject: Subject) -> Iterator[Script]:
    """The opt-in lasts until the device is closed."""
    if not subject.has("precopy_info_v2"):
        return
    s = Script(fresh=False)
    open_device(s)
    if subject.has("reset"):
        s.op("reset", fd="d")
    s.op("get_state", fd="d")
    opt = s.op("feature", fd="d", flags=SET | PRECOPY_INFO_V2, payload="")
    s.succeeds("MIG-091", opt, "SET of PRECOPY_INFOv2 succeeds")
    fd = s.set(S.PRE_COPY)
    info = s.op("precopy_info", fd=fd, flags=0xFFFFFFFF)
    ok = [(info, "errno", "==", 0)]
    s.is_one_of("MIG-090", info, "flags", [0, 1], "no bit but VFIO_PRECOPY_INFO_REINIT").when(*ok)
    yield s


@experiment("MIG-064", "MIG-065", "MIG-113", "MIG-140", "MIG-141", "MIG-142", "MIG-143", "MIG-144")
def reset_leads_to_running_from_every_state(subject: Subject) -> Iterator[Script]:
    if not subject.has("reset"):
        return
    for state in subject.states:
        s = subject.script()
        s.set(state)
        s.op("reset", fd="d")
        s.op("get_state", fd="d")
        s.op("debugfs_state", dev="dev0")
        first = s.save("stream")
        s.succeeds("MIG-144", s.save_set, f"STOP_COPY after a reset in {state.name}")
        s.exceeds("MIG-144", first, "n", 0, f"a stream after a reset in {state.name}")
        _, done = s.restore("stream")
        s.succeeds("MIG-144", s.restore_set, f"RESUMING after a reset in {state.name}")
        s.succeeds("MIG-144", done, f"the stream restores after a reset in {state.name}")
        s.set(S.RUNNING)
        s.op("reset", fd="d")
        s.op("get_state", fd="d")
        yield s


@experiment("MIG-020", "MIG-071", "MIG-150", "MIG-151", own_open=True)
def a_device_closed_in_any_state_opens_again(subject: Subject) -> Iterator[Script]:
    """Opens and closes the device itself."""
    for state in subject.states:
        s = Script(fresh=False)
        open_device(s)
        if subject.has("reset"):
            s.op("reset", fd="d")
        s.set(S.RUNNING)
        fd = s.set(state)
        s.op("read", fd=fd, n=4)
        s.op("close", fd="d")
        s.op("close", fd="i")
        s.op("read", fd=fd, n=64)
        s.op("write", fd=fd, hex="00" * 8)
        s.op("precopy_info", fd=fd)
        open_device(s)
        s.op("get_state", fd="d")
        s.op("read", fd=fd, n=64)
        s.op("close", fd=fd)
        if subject.has("reset"):
            s.op("reset", fd="d")
        s.op("set_state", fd="d", state=int(S.RUNNING))
        back = s.op("get_state", fd="d")
        s.equals("MIG-150", back, "state", int(S.RUNNING), "RUNNING after reopen and reset")
        again = s.save("stream")
        s.succeeds("MIG-150", s.save_set, "the device saves after it was reopened")
        s.succeeds("MIG-151", s.save_set, "the device saves after an fd was used beyond its life")
        s.exceeds("MIG-150", again, "n", 0, "a stream after it was reopened")
        yield s


@experiment("MIG-168")
def a_bad_address_is_efault(subject: Subject) -> Iterator[Script]:
    for state in subject.states:
        s = subject.script()
        s.set(state)
        i = s.op("ioctl", fd="d", nr=vfio.VFIO_DEVICE_FEATURE, arg=8)
        s.is_refused("MIG-168", i, errno.EFAULT, expected="EFAULT")
        after = s.op("get_state", fd="d")
        s.succeeds("MIG-168", after, "GET tells the state")
        yield s


@experiment("MIG-168")
def an_argument_that_cannot_be_written_is_efault(subject: Subject) -> Iterator[Script]:
    """The kernel reads the argument and cannot answer.  A SET may have been done by then: the state that GET
    tells is the old one or the new one.
    """
    asked = [(GET | MIGRATION, 8), (GET | MIG_DEVICE_STATE, 8)]
    if subject.has("data_size"):
        asked.append((GET | MIG_DATA_SIZE, 8))
    s = subject.script()
    for flags, size in asked:
        buf = struct.pack("=II", 8 + size, flags).hex() + "00" * size
        i = s.op("ioctl_readonly", fd="d", nr=vfio.VFIO_DEVICE_FEATURE, buf=buf)
        s.is_refused("MIG-168", i, errno.EFAULT, expected="EFAULT")
    yield s
    for cur in subject.states:
        for new in subject.states:
            if new == cur:
                continue
            s = subject.script()
            s.set(cur)
            buf = struct.pack("=IIIi", 16, SET | MIG_DEVICE_STATE, int(new), -1).hex()
            i = s.op("ioctl_readonly", fd="d", nr=vfio.VFIO_DEVICE_FEATURE, buf=buf)
            s.is_refused("MIG-168", i, expected="EFAULT, or why there is no such way")
            after = s.op("feature", fd="d", flags=GET | MIG_DEVICE_STATE, payload="00" * 8)
            s.succeeds("MIG-168", after, "GET tells the state")
            yield s


"""Experiments that change what lasts as long as the device is open: run on an open of their own."""
