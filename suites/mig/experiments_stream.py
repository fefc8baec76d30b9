# SPDX-License-Identifier: Apache-2.0
"""Experiments on the stream: fidelity, segmentation, damage, quiescence, failing paths."""

from __future__ import annotations

import errno
from collections.abc import Iterator

from fixtures.experiment import experiment
from fixtures.subject import Subject
from harness.program.script import Script, succeeded
from harness.spec.arcs import S


@experiment("MIG-100", "MIG-101", "MIG-102", "MIG-103", "MIG-104", "MIG-119", "MIG-120")
def a_device_resumes_the_stream_it_saved(subject: Subject) -> Iterator[Script]:
    """Any segmentation of reads and of writes."""
    fixed = {0: [65536], 1: [1], 2: [7]}
    for round_ in range(6):
        s = subject.script()
        pieces = fixed.get(round_) or subject.chunks()
        drains = subject.mutate(s)
        s.set(S.STOP)
        saved = subject.fingerprint(s)
        first = s.save("stream", chunks=[65536])
        again = s.save("" if round_ else "again", chunks=[65536])
        third = s.save(chunks=[65536])
        parts = s.save(chunks=pieces[::-1] if round_ > 2 else pieces)
        s.exceeds("MIG-120", again, "n", 0, "a stream in the second session")
        same = s.ref(first, "sha256")
        s.equals("MIG-102", again, "sha256", same, "the same stream from an unchanged device")
        # Where saves in equal pieces differ, for a clock is in them or a counter, pieces prove nothing.
        alike = [(again, "sha256", "==", same), (third, "sha256", "==", same)]
        s.equals("MIG-104", parts, "sha256", same, "the same stream in other pieces").when(*alike)
        out = subject.drain(s, drains)
        s.set(S.RUNNING)
        subject.mutate(s)
        write, done = s.restore("stream")
        s.equals("MIG-100", write, "n", s.ref(first, "n"), "every byte is taken")
        s.succeeds("MIG-100", done, "SET(STOP) succeeds after a whole stream")
        restored = subject.fingerprint(s)
        if saved is not None and restored is not None:
            good = [(done, "errno", "==", 0)]
            s.equals("MIG-101", restored, "hex", s.ref(saved, "hex"), "the saved state").when(*good)
        if round_:
            done = _restore_in_pieces(subject, s, pieces, done, restored)
        else:
            done = _restore_the_second(subject, s, done)
        resaved = s.save()
        for before, after in zip(out, subject.drain(s, drains), strict=True):
            s.equals("MIG-101", after, "hex", s.ref(before, "hex"), "what the saved device gave").when(
                succeeded(done)
            )
        s.equals(
            "MIG-102", resaved, "sha256", s.ref(first, "sha256"), "the restored device saves the same stream"
        )
        s.set(S.RUNNING)
        yield s


def _restore_the_second(subject: Subject, s: Script, first: int) -> int:
    """Restore what the second session gave: it is whole if it restores.  Gives the index of the SET.

    The length does not tell: nothing in the text makes two streams equally long.
    """
    s.set(S.RUNNING)
    subject.mutate(s)
    _, done = s.restore("again")
    s.succeeds("MIG-120", done, "the stream of the second session restores").when(succeeded(first))
    return done


def _restore_in_pieces(
    subject: Subject, s: Script, pieces: list[int], whole: int, restored: int | None
) -> int:
    """Restore again as `whole` was, in pieces: nothing may come of that but what came of the whole.

    Gives the index of the SET.
    """
    s.set(S.RUNNING)
    subject.mutate(s)
    _, done = s.restore("stream", chunks=pieces)
    taken = [(whole, "errno", "==", 0)]
    s.succeeds("MIG-103", done, "SET(STOP) succeeds after the same stream in pieces").when(*taken)
    again = subject.fingerprint(s)
    if again is not None and restored is not None:
        both = [*taken, (done, "errno", "==", 0)]
        s.equals("MIG-103", again, "hex", s.ref(restored, "hex"), "the state of the whole stream").when(*both)
    return done


@experiment("MIG-095", "MIG-118", "MIG-119")
def a_stream_begun_in_pre_copy_is_whole(subject: Subject) -> Iterator[Script]:
    if not subject.has("pre_copy"):
        return
    for drain in ("nothing", "some", "all"):
        for via_p2p in (False, True) if subject.has("p2p") else (False,):
            s = subject.script()
            fd = s.set(S.PRE_COPY)
            if drain == "some":
                s.op("read", fd=fd, n=5, keep="pre")
            elif drain == "all":
                s.read_stream(fd, "pre", subject.chunks())
            subject.mutate(s)
            if via_p2p:
                s.set(S.PRE_COPY_P2P)
            s.set(S.STOP_COPY)
            saved = subject.fingerprint(s)
            s.read_stream(fd, "rest", subject.chunks())
            parts = ["rest"] if drain == "nothing" else ["pre", "rest"]
            s.op("bytes", out="stream", concat=parts)
            s.set(S.RUNNING)
            subject.mutate(s)
            _, done = s.restore("stream", chunks=subject.chunks())
            clause = "MIG-095" if drain == "nothing" else "MIG-119"
            s.succeeds(clause, done, "the stream restores")
            if saved is not None:
                restored = subject.fingerprint(s)
                assert restored is not None
                s.equals("MIG-118", restored, "hex", s.ref(saved, "hex"), "the state at STOP_COPY").when(
                    succeeded(done)
                )
            yield s


def _after_damage(subject: Subject, s: Script, done: int) -> None:
    """The device must be usable again: what was refused leaves nothing behind."""
    if not subject.has("reset"):
        return
    s.op("reset", fd="d")
    back = s.op("get_state", fd="d")
    refused, taken = [(done, "errno", "!=", 0)], [(done, "errno", "==", 0)]
    for clause, when in (("MIG-112", refused), ("MIG-114", taken)):
        s.equals(clause, back, "state", int(S.RUNNING), "RUNNING after the reset").when(*when)
    _, again = s.restore("good")
    saved = s.save()
    for clause, when in (("MIG-112", refused), ("MIG-114", taken)):
        s.succeeds(clause, s.restore_set, "RESUMING can be entered afterwards").when(*when)
        s.succeeds(clause, again, "a good stream restores afterwards").when(*when)
        s.succeeds(clause, s.save_set, "the device saves afterwards").when(*when)
        s.exceeds(clause, saved, "n", 0, "a stream afterwards").when(*when)


@experiment("MIG-105", "MIG-106", "MIG-111", "MIG-112", "MIG-113", "MIG-114")
def an_incomplete_stream_is_refused(subject: Subject) -> Iterator[Script]:
    size = subject.data_size
    cuts = {0, 1, size // 2, size - 1, *(subject.rng.randrange(size) for _ in range(5))}
    for cut in sorted(c for c in cuts if 0 <= c < size):
        s = subject.script()
        s.save("good")
        _, done = s.restore("good", n=cut, off=0) if cut else (0, _empty(s))
        clause = "MIG-105" if cut else "MIG-106"
        s.is_refused(clause, done, expected=f"SET(STOP) after {cut} of {size} bytes is refused")
        _after_damage(subject, s, done)
        yield s


def _empty(s: Script) -> int:
    fd = s.set(S.RESUMING)
    s.set(S.STOP)
    done = s.last_set()
    s.op("close", fd=fd)
    return done


@experiment("MIG-105", "MIG-111", "MIG-112", "MIG-113", "MIG-114")
def an_aborted_resume_can_be_completed_or_reset(subject: Subject) -> Iterator[Script]:
    """Refused half-way, the session may go on with the rest."""
    s = subject.script()
    s.save("good")
    fd = s.set(S.RESUMING)
    s.op("write_all", fd=fd, from_="good", chunks=[4096], off=0, n=subject.data_size // 2)
    s.set(S.STOP)
    half = s.last_set()
    s.is_refused("MIG-105", half, expected="SET(STOP) after half the stream is refused")
    if subject.has("reset"):
        s.op("reset", fd="d")
        s.op("get_state", fd="d")
        s.op("write", fd=fd, hex="00" * 4)
        _after_damage(subject, s, half)
    yield s


@experiment("MIG-107", "MIG-108", "MIG-109", "MIG-110", "MIG-111", "MIG-112", "MIG-114", "MIG-166")
def a_damaged_stream_is_refused_or_survived(subject: Subject) -> Iterator[Script]:
    """A write() that returned an error took nothing: there is no complete stream, so SET(STOP) must fail."""
    size = subject.data_size
    flips = [[[i, 0xFF]] for i in range(min(size, 96))]
    flips += [[[subject.rng.randrange(size), 1 << subject.rng.randrange(8)]] for _ in range(16)]
    for flip in flips:
        s = subject.script()
        # A device with something to save: a length that lies finds bytes to be wrong about.
        subject.mutate(s, count=len(subject.mutations))
        s.save("good")
        s.op("bytes", out="bad", from_="good", flip=flip)
        _, done = s.restore("bad", chunks=[1 << 20])
        subject.fingerprint(s)
        for (
            drains
        ) in subject.drains:  # where an accepted stream points beyond its end, the kernel now follows
            subject.drain(s, drains)
        _after_damage(subject, s, done)
        yield s


@experiment("MIG-112", "MIG-114", "MIG-130", "MIG-131", "MIG-132", "MIG-133")
def error_is_left_by_reset_only(subject: Subject) -> Iterator[Script]:
    """What may bring this device into ERROR, then all that must fail there."""
    size = subject.data_size
    for damage in ([[0, 0xFF]], [[size // 2, 0xFF]], [[size - 1, 0xFF]], None):
        s = subject.script()
        s.save("good")
        s.op("bytes", out="bad", from_="good", **({"flip": damage} if damage else {"off": 0, "n": size // 2}))
        fd = s.set(S.RESUMING)
        s.op("write_all", fd=fd, from_="bad", chunks=[1 << 20])
        s.set(S.STOP)
        done = s.last_set()
        for target in (*range(8), 8):
            s.set(target)
        s.op("write", fd=fd, hex="00" * 4)
        s.op("read", fd=fd, n=4)
        s.op("debugfs_state", dev="dev0")
        _after_damage(subject, s, done)
        yield s


@experiment("MIG-107", "MIG-108", "MIG-109", "MIG-110", "MIG-112", "MIG-114")
def a_foreign_stream_is_refused(subject: Subject) -> Iterator[Script]:
    size = subject.data_size
    for kind in ("random", "exchanged", "excess"):
        s = subject.script()
        if kind == "excess":
            subject.mutate(s)
        s.set(S.STOP)
        saved = subject.fingerprint(s) if kind == "excess" else None
        good = s.save("good")
        if kind == "random":
            bad = s.op("bytes", out="bad", hex=subject.rng.randbytes(min(size, 1 << 16)).hex())
        elif kind == "exchanged":
            s.op("bytes", out="a", from_="good", off=0, n=size // 2)
            s.op("bytes", out="b", from_="good", off=size // 2)
            bad = s.op("bytes", out="bad", concat=["b", "a"])
        else:
            s.op("bytes", out="tail", hex="a5" * 64)
            bad = s.op("bytes", out="bad", concat=["good", "tail"])
        _, done = s.restore("bad", chunks=[1 << 20])
        if kind == "excess":
            restored = subject.fingerprint(s)
            if restored is not None and saved is not None:
                s.equals(
                    "MIG-108", restored, "hex", s.ref(saved, "hex"), "the saved state where SET succeeded"
                ).when(succeeded(done))
            kept = s.op("get_state", fd="d")
            stopped = [int(S.RESUMING), int(S.STOP), int(S.ERROR)]
            s.is_one_of(
                "MIG-108", kept, "state", stopped, "RESUMING, STOP or ERROR where it was refused"
            ).when((done, "errno", "!=", 0))
        else:
            clause = "MIG-109" if kind == "random" else "MIG-110"
            # Halves that are alike exchange to the stream itself, which is a good one.
            differs = [(bad, "sha256", "!=", s.ref(good, "sha256"))]
            s.is_refused(clause, done, expected=f"the {kind} stream is refused").when(*differs)
        _after_damage(subject, s, done)
        yield s


@experiment("MIG-115", "MIG-116", "MIG-117", "MIG-125")
def saving_and_cancelling_change_nothing(subject: Subject) -> Iterator[Script]:
    if not subject.state_regions:
        return
    walks: list[tuple[str, list[S]]] = [("MIG-115", [S.STOP_COPY, S.STOP])]
    # Eleven bytes are read of each session, so the save ends half-way.
    walks += [("MIG-116", [S.STOP_COPY, S.STOP, S.RUNNING]), ("MIG-125", [S.STOP])]
    if subject.has("p2p"):
        walks += [("MIG-117", [S.RUNNING_P2P, S.RUNNING]), ("MIG-117", [S.RUNNING_P2P])]
    if subject.has("pre_copy"):
        walks += [("MIG-116", [S.PRE_COPY, S.RUNNING])]
    if subject.has("pre_copy") and subject.has("p2p"):
        walks += [
            ("MIG-116", [S.PRE_COPY, S.PRE_COPY_P2P, S.RUNNING_P2P, S.RUNNING]),
            ("MIG-116", [S.PRE_COPY_P2P, S.PRE_COPY]),
        ]
    for clause, walk in walks:
        s = subject.script()
        # All of them: what is at its reset value already cannot be seen to go back to it.
        subject.mutate(s, len(subject.mutations))
        before = subject.fingerprint(s)
        assert before is not None
        for state in walk:
            fd = s.set(state)
            s.op("read", fd=fd, n=11)
        s.op("sleep", ms=20)
        after = subject.fingerprint(s)
        assert after is not None
        s.equals(
            clause, after, "hex", s.ref(before, "hex"), f"unchanged after {', '.join(x.name for x in walk)}"
        )
        if clause == "MIG-125":
            later = subject.fingerprint(s)
            assert later is not None
            s.equals(clause, later, "hex", s.ref(after, "hex"), "unchanged while in STOP")
        yield s


@experiment("MIG-126", "MIG-127", "MIG-166")
def regions_answer_while_stopped(subject: Subject) -> Iterator[Script]:
    for state in (S.STOP, S.STOP_COPY, S.RESUMING):
        s = subject.script()
        s.set(state)
        for region, offset, length, width in subject.state_regions:
            i = s.op("region_read", fd="d", region=region, off=offset, n=min(width, length))
            if state == S.STOP:
                s.succeeds("MIG-126", i, "the read of a region succeeds in STOP")
            after = s.op("get_state", fd="d")
            clause = "MIG-126" if state == S.STOP else "MIG-127"
            s.equals(clause, after, "state", int(state), f"still {state.name} after an access to a region")
        yield s


@experiment("MIG-051", "MIG-059", "MIG-165")
def a_set_that_fails_for_want_of_resources_keeps_the_rules(subject: Subject) -> Iterator[Script]:
    """The n-th allocation of the next system call fails (fail-nth)."""
    if not subject.has("fault_injection"):
        return
    for cur in subject.states:
        for new in subject.states:
            if cur == new:
                continue
            for nth in range(1, 7):
                s = subject.script(faults=True)
                s.set(cur)
                s.op("open", path="/proc/thread-self/fail-nth", flags=["O_RDWR"], out="nth")
                s.op("write", fd="nth", hex=str(nth).encode().hex())
                out = s.slot()
                done = s.op("set_state", fd="d", state=int(new), out=out)
                s.op("pwrite", fd="nth", off=0, hex=b"0".hex())
                after = s.op("get_state", fd="d")
                s.succeeds("MIG-165", after, "GET tells the state").when(
                    (done, "errno", "in", [errno.ENOMEM, errno.EMFILE, errno.ENFILE])
                )
                if subject.has("reset"):
                    s.op("reset", fd="d")
                    back = s.op("get_state", fd="d")
                    s.equals("MIG-165", back, "state", int(S.RUNNING), "a reset recovers").when(
                        (done, "errno", "!=", 0)
                    )
                yield s
