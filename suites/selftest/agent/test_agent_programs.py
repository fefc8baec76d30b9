# SPDX-License-Identifier: Apache-2.0
"""The real agent as a local process runs programs on ordinary files, pipes and processes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from harness.agent.validation import check_program
from harness.errors import HarnessError
from harness.hosts.client import start_local_agent
from suites.selftest.agent.programs import op, program, thread, trace_records

pytestmark = pytest.mark.timeout(120)


def old_python():
    """A Python 3.8 on this machine, None where there is none."""
    pyenv = sorted((Path.home() / ".pyenv" / "versions").glob("3.8.*/bin/python"))
    for candidate in [shutil.which("python3.8"), *map(str, pyenv)]:
        # A shim of pyenv is there for versions that are not active, and only fails.
        if candidate and subprocess.run([candidate, "-V"], capture_output=True, check=False).returncode == 0:
            return candidate
    return None


@pytest.fixture(scope="module", params=["this", "3.8"])
def agent(request, tmp_path_factory):
    """A local agent, under this Python and under the oldest that is supported."""
    python = sys.executable if request.param == "this" else old_python()
    if python is None:
        pytest.skip("no Python 3.8 on this machine")
    with start_local_agent(python, run_dir=str(tmp_path_factory.mktemp("run"))) as one:
        yield one


def run(agent, ops, **more):
    """The records of a program that does not hang."""
    result = agent.run(program(ops, **more))
    assert result.hung is None
    return trace_records(result.trace)


def outcome(records):
    return [(r.op, r.ret, errno.errorcode.get(r.errno, r.errno)) for r in records]


def test_hello_says_who_runs(agent):
    assert agent.hello["protocol"] == 1
    assert agent.hello["pid"] > 1
    assert agent.hello["python"].startswith("3.")


def test_bytes_go_through_a_pipe(agent):
    wrote, got, again = run(agent, [
        op("pipe", out=["r", "w"]), op("bytes", out="b", hex="00112233", flip=[[1, 255]]),
        op("write", fd="w", from_="b", off=1, n=2), op("read", fd="r", n=100, keep="k"),
        op("bytes", out="c", from_="k", concat=["b"]),
    ])[2:]  # fmt: skip
    assert (wrote["n"], got["hex"]) == (2, "ee22")
    assert got["sha256"] == hashlib.sha256(bytes.fromhex("ee22")).hexdigest()
    assert again["sha256"] == hashlib.sha256(bytes.fromhex("ee2200ee2233")).hexdigest()


def test_a_failed_operation_is_recorded_and_the_program_goes_on(agent):
    records = run(agent, [
        op("open", path="/nonexistent/x", out="f"), op("read", fd="f", n=1), op("pipe", out=["r", "w"]),
        op("write", fd="r", hex="00"), op("ioctl", fd="r", nr=0x3B64), op("lseek", fd="r", off=0),
        op("fcntl", fd=-1, cmd="F_GETFD"), op("close", fd="r"), op("close", fd="r"),
    ])  # fmt: skip
    assert outcome(records) == [
        ("open", -1, "ENOENT"), ("read", -1, 0), ("pipe", 0, 0), ("write", -1, "EBADF"),
        ("ioctl", -1, "ENOTTY"),
        ("lseek", -1, "ESPIPE"), ("fcntl", -1, "EBADF"), ("close", 0, 0), ("close", -1, 0),
    ]  # fmt: skip
    assert records[1].skipped == "no slot f"
    assert records[8].skipped == "no slot r"


def test_read_all_and_write_all_follow_their_chunks(agent, tmp_path):
    data = bytes(range(256)) * 8
    (tmp_path / "in").write_bytes(data)
    records = run(agent, [
        op("open", path=str(tmp_path / "in"), out="i"), op("read_all", fd="i", chunks=[1, 7, 500], keep="b"),
        op("memfd", out="o"), op("write_all", fd="o", from_="b", chunks=[3, 1000], flip=[[0, 1]], repeat=2),
        op("lseek", fd="o", off=0),
        op("read_all", fd="o", max_bytes=4000),
    ])  # fmt: skip
    assert (records[1]["end"], records[1]["n"], records[1]["sha256"]) == (
        "eof", len(data), hashlib.sha256(data).hexdigest(),
    )  # fmt: skip
    flipped = bytes([data[0] ^ 1]) + data[1:]
    assert (records[3]["n"], records[3].ok) == (2 * len(data), True)
    assert (records[5]["end"], records[5]["n"]) == ("max", 4000)
    assert records[5]["sha256"] == hashlib.sha256((flipped * 2)[:4000]).hexdigest()


def test_kept_slots_live_until_the_session_ends(agent):
    def fds():
        return len(list(Path(f"/proc/{agent.hello['pid']}/fd").iterdir()))

    before = fds()
    run(agent, [op("pipe", out=["r", "w"]), op("pipe", out=["x", "y"])], session="s", keep=["r", "w"])
    assert fds() == before + 2
    records = run(
        agent, [op("write", fd="w", hex="41"), op("read", fd="r", n=1), op("poll", fd="x")], session="s"
    )
    assert [r.ok for r in records] == [True, True, False]
    assert records[1]["hex"] == "41"
    agent.session_end("s")
    assert fds() == before
    assert run(agent, [op("poll", fd="r")], session="s")[0].skipped == "no slot r"


def test_a_replaced_slot_stays_open_until_the_program_ends(agent):
    records = run(agent, [
        op("pipe", out=["r", "w"]), op("dup", fd="w", out="w2"), op("pipe", out=["r2", "w"]),
        op("close", fd="w2"), op("poll", fd="r", events=["IN"]),
    ])  # fmt: skip
    assert records[4]["revents"] == []  # no HUP: the first w, whose slot was taken, is still open


def test_descriptors_without_cloexec_survive_exec_and_others_do_not(agent):
    (record,) = run(agent, [
        op("pipe", out=["r", "w"]), op("dup", fd="r", out="plain"),
        op("dup", fd="r", out="closed", cloexec=True),
        op("open", path="/dev/null", flags=["O_RDONLY"], out="null"),
        op("open", path="/dev/null", flags=["O_RDONLY", "O_CLOEXEC"], out="null2"),
        op("exec_self", fds=["r", "plain", "closed", "null", "null2"]),
    ])[5:]  # fmt: skip
    assert record["open"] == {"r": False, "plain": True, "closed": False, "null": True, "null2": False}


def test_descriptors_travel_over_a_socket(agent):
    records = run(agent, [
        op("pipe", out=["r", "w"]), op("socketpair", out=["a", "b"]), op("send_fd", sock="a", fd="r"),
        op("recv_fd", sock="b", out="r2"), op("write", fd="w", hex="4242"), op("read", fd="r2", n=9),
        op("recv_fd", sock="b", out="r3", timeout_ms=1),
    ])  # fmt: skip
    assert records[5]["hex"] == "4242"
    assert errno.errorcode[records[6].errno] == "ETIMEDOUT"


def test_eventfd_counts_and_is_empty_after_a_read(agent):
    records = run(agent, [
        op("eventfd", out="e"), op("poll", fd="e"), op("eventfd_write", fd="e", value=3), op("poll", fd="e"),
        op("eventfd_read", fd="e"), op("eventfd_read", fd="e", timeout_ms=1),
    ])  # fmt: skip
    assert (records[1]["revents"], records[3]["revents"], records[4]["value"]) == ([], ["IN"], 3)
    assert errno.errorcode[records[5].errno] == "EAGAIN"


def test_memory_is_mapped_read_and_written(agent):
    records = run(agent, [
        op("memfd", out="f", size=8192), op("mmap", out="m", fd="f", n=8192),
        op("mem_write", mem="m", off=4, hex="11223344"),
        op("mem_read", mem="m", off=3, n=6), op("mem_write", mem="m", off=8, hex="a1a2a3a4", width=4),
        op("mem_read", mem="m", off=8, n=4, width=2), op("pread", fd="f", off=4, n=8), op("munmap", mem="m"),
        op("mem_read", mem="m", n=1), op("mmap", out="big", n=4096, align=1 << 21),
    ])  # fmt: skip
    assert records[3]["hex"] == "001122334400"
    assert records[5]["hex"] == "a1a2a3a4"
    assert records[6]["hex"] == "11223344a1a2a3a4"
    assert records[8].skipped == "no slot m"
    assert records[9]["aligned"] is True


def test_memory_that_is_gone_is_an_error_and_not_the_end_of_the_agent(agent):
    """A mapping behind the end of its file raises SIGBUS on access: copied or by width, it must be EFAULT."""
    records = run(agent, [
        op("memfd", out="f", size=0), op("mmap", out="m", fd="f", n=4096), op("mem_read", mem="m", n=4),
        op("mem_read", mem="m", n=4, width=4), op("mem_write", mem="m", hex="00"),
        op("mem_write", mem="m", hex="00", width=1),
    ])  # fmt: skip
    assert [errno.errorcode.get(r.errno) for r in records[2:]] == ["EFAULT"] * 4


def test_threads_meet_at_barriers(agent):
    others = [
        thread(
            "b",
            (
                op("barrier", name="x", parties=2),
                op("pipe", out=["r", "w"]),
                op("barrier", name="y", parties=2),
            ),
        )
    ]
    records = run(
        agent,
        [
            op("barrier", name="x", parties=2),
            op("barrier", name="y", parties=2),
            op("write", fd="w", hex="31"),
        ],
        others=others,
    )
    assert all(r.ok for r in records)
    assert {r.thread for r in records} == {"main", "b"}


def test_a_barrier_that_not_all_reach_times_out(agent):
    records = run(agent, [op("barrier", name="x", parties=2), op("pipe", out=["a", "b"])], deadline_ms=600)
    assert errno.errorcode[records[0].errno] == "ETIMEDOUT"


def test_an_operation_that_does_not_return_is_reported_by_name(agent):
    """Verify: the hung read is named, the trace before it is there, and the agent goes on."""
    result = agent.run(program([op("pipe", out=["r", "w"]), op("read", fd="r", n=1)], op_ms=300, session="h"))
    assert result.hung is not None
    assert (result.hung["thread"], result.hung["i"], result.hung["op"]) == ("main", 1, "read")
    assert "pipe" in result.hung["stack"]
    assert [r["op"] for r in result.trace] == ["pipe"]
    assert run(agent, [op("poll", fd="w")], session="h")[0].skipped == "no slot w"
    assert agent.call("host_info")["uid"] == agent.hello["uid"]


def test_the_guilty_thread_is_reported_and_not_the_one_that_waits(agent):
    others = [
        thread(
            "stuck", (op("pipe", out=["r", "w"]), op("read", fd="r", n=1), op("barrier", name="x", parties=2))
        )
    ]
    result = agent.run(program([op("barrier", name="x", parties=2)], others=others, op_ms=600))
    assert result.hung is not None
    assert (result.hung["thread"], result.hung["op"]) == ("stuck", "read")


def test_a_program_that_advances_is_cut_at_its_end_in_time_and_never_hung(agent):
    """Verify: each operation returns in time, all together do not: the trace says where it was cut."""
    result = agent.run(program([op("sleep", ms=150)] * 20, deadline_ms=400, op_ms=5000))
    assert result.hung is None
    assert [bool(r.get("cut")) for r in result.trace[-2:]] == [False, True]
    assert len(result.trace) < 20


def test_an_operation_of_many_steps_may_take_longer_than_one_step_may(agent, tmp_path):
    """Verify: a slow source is cut at the program's end; its reads came one after the other: none hung."""
    os.mkfifo(tmp_path / "slow")

    def feed():
        with contextlib.suppress(BrokenPipeError), open(tmp_path / "slow", "wb", buffering=0) as pipe:
            for _ in range(40):
                time.sleep(0.1)
                pipe.write(b"1")

    source = threading.Thread(target=feed, daemon=True)
    source.start()
    ops = [op("open", path=str(tmp_path / "slow"), out="r"), op("read_all", fd="r", keep="k")]
    result = agent.run(program(ops, deadline_ms=2000, op_ms=1000))
    assert result.hung is None
    record = result.trace[1]
    assert (record["end"], record["cut"]) == ("deadline", True)
    assert record["n"] > 3


def test_a_stream_longer_than_memory_holds_is_kept_and_given_back_in_any_pieces(agent, tmp_path):
    """Verify: 40 MB, most of them in a file without a name, come back the same, also cut and with flips."""
    data = hashlib.sha256(b"seed").digest() * (40_000_000 // 32)
    (tmp_path / "in").write_bytes(data)
    records = run(agent, [
        op("open", path=str(tmp_path / "in"), out="in"),
        op("read_all", fd="in", chunks=[7, 4096], fine=[[0, 1000], [39_999_000, 40_000_000]], keep="s"),
        op("bytes", out="tail", from_="s", off=20_000_000, flip=[[5, 0xFF]]),
        op("bytes", out="both", concat=["s", "tail"]),
        op("open", path=str(tmp_path / "out"), flags=["O_RDWR", "O_CREAT"], mode=0o600, out="out"),
        op("write_all", fd="out", from_="both", chunks=[3, 65536], fine=[[0, 99], [40_000_000, 40_000_500]]),
    ])  # fmt: skip
    tail = bytearray(data[20_000_000:])
    tail[5] ^= 0xFF
    assert records[1]["sha256"] == hashlib.sha256(data).hexdigest()
    assert records[1]["end"] == "eof"
    assert records[2]["sha256"] == hashlib.sha256(tail).hexdigest()
    assert records[5]["n"] == len(data) + len(tail)
    assert (tmp_path / "out").read_bytes() == data + tail


def test_many_programs_in_one_request_end_with_the_first_that_hangs(agent):
    fine = program([op("pipe", out=["r", "w"])])
    stuck = program([op("pipe", out=["r", "w"]), op("read", fd="r", n=1)], op_ms=200)
    assert [len(r.trace) for r in agent.run_many([fine] * 3)] == [1, 1, 1]
    results = agent.run_many([fine, stuck, fine])
    assert [bool(r.hung) for r in results] == [False, True]
    assert [len(r.trace) for r in agent.run_many([fine] * 2)] == [1, 1]


def test_an_actor_has_its_own_descriptors_and_dies_by_signal(agent):
    """Steps: fork, close in the parent, use in the child, kill.  Verify: the copy lived on its own."""
    actor = thread("child", (
        op("barrier", name="closed", parties=2), op("write", fd="w", hex="37"),
        op("barrier", name="wrote", parties=2),
        op("barrier", name="killed", parties=2), op("write", fd="w", hex="38"),
    ), "a1")  # fmt: skip
    records = run(agent, [
        op("pipe", out=["r", "w"]), op("fork", actor="a1"), op("close", fd="w"),
        op("barrier", name="closed", parties=2),
        op("barrier", name="wrote", parties=2), op("read", fd="r", n=9), op("kill", actor="a1"),
        op("wait", actor="a1"), op("read", fd="r", n=9), op("barrier", name="killed", parties=2),
    ], others=[actor])  # fmt: skip
    main = {r.index: r for r in records if r.thread == "main"}
    child = {r.index: r for r in records if r.thread == "child"}
    assert main[5]["hex"] == "37"
    assert (main[7]["signal"], main[7]["code"]) == (9, None)
    assert main[8]["n"] == 0  # the last writer is gone
    assert child[1].ok
    assert child[4].skipped is not None
    assert "actor a1" in child[4].skipped


def test_an_actor_is_forked_for_a_thread_that_names_one(agent):
    run(agent, [op("pipe", out=["r", "w"])], session="act", keep=["r", "w"])
    others = [thread("child", (op("close", fd="w"), op("fcntl", fd="r", cmd="F_GETFD")), "a2")]
    records = run(agent, [op("sleep", ms=1)], others=others, session="act")
    assert [r.ok for r in records if r.thread == "child"] == [True, True]
    assert run(agent, [op("fcntl", fd="w", cmd="F_GETFD")], session="act")[0].ok
    agent.session_end("act")


def test_an_actor_that_is_told_to_exit_ends_with_status_0(agent):
    records = run(
        agent,
        [
            op("fork", actor="a"),
            op("wait", actor="a", timeout_ms=1),
            op("exit", actor="a"),
            op("wait", actor="a"),
        ],
    )
    assert errno.errorcode[records[1].errno] == "ETIMEDOUT"
    assert (records[3]["code"], records[3]["signal"]) == (0, 0)


def test_an_actor_does_not_hold_what_is_the_agents(agent):
    """A lease must end with the agent, even where a forked process outlives it."""

    def forked(name):
        ready = thread(
            "child",
            (op("sleep", ms=1), op("pipe", out=["r", "w"]), op("close", fd="r"), op("close", fd="w")),
            name,
        )
        records = run(agent, [op("fork", actor=name)], session="held", keep=[name], others=[ready])
        return next(r["pid"] for r in records if r.op == "fork")

    first = forked("a")
    agent.call("lease", keys=["some-device"], holder="a test")
    for pid in (first, forked("b")):
        targets = {str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()}
        assert not any("lease" in t for t in targets)
        assert len(targets) <= 4  # 0, 1, 2 and the command channel
    agent.call("release", keys=["some-device"])
    agent.session_end("held")
    assert not Path(f"/proc/{first}").exists()


@pytest.mark.parametrize(
    ("ops", "words"),
    [
        ([["bogus", {}]], "'bogus' is not an operation; valid are"),
        ([["read", {"fd": "f"}]], "read needs n"),
        ([["read", {"fd": "f", "n": -1}]], "n=-1 is not a number from 0"),
        ([["read", {"fd": "f", "n": True}]], "n=True is not"),
        ([["read", {"fd": 0, "n": 1}]], "fd=0 is not the name of a slot"),
        ([["read", {"fd": "f", "n": 1, "size": 2}]], "takes no argument 'size'; valid are fd, n, keep"),
        ([["open_cdev", {"dev": "dev7", "out": "d"}]], "dev='dev7' is not in devices; known: none"),
        ([["write", {"fd": "f", "hex": "0"}]], "is not bytes in hex"),
        ([["read", []]], "is not [name, {arguments}]"),
        ("x", "is not a list of operations"),
    ],
)
def test_a_malformed_program_is_refused_before_anything_runs(agent, ops, words):
    wanted = {"threads": [{"name": "main", "ops": ops}]}
    with pytest.raises(HarnessError) as caught:
        agent.run(wanted)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_arguments_that_only_the_operation_can_judge_end_the_program(agent):
    with pytest.raises(HarnessError, match="'O_BOGUS' is not an open flag"):
        agent.run(program([op("open", path="/dev/null", flags=["O_BOGUS"], out="f")]))
    assert run(agent, [op("pipe", out=["r", "w"])])[0].ok


@pytest.mark.parametrize("value", [None, {}, {"threads": []}, {"threads": [{"name": "m"}]},
{"threads": [{}], "x": 1},
                                   {"threads": [{"name": "m", "ops": []}] * 2},
                                   {"threads": [{"name": "m", "ops": []}], "deadline_ms": 0}])  # fmt: skip
def test_what_is_no_program_is_refused(value):
    assert check_program(value)


def test_the_agent_is_python_3_8():
    python = old_python()
    if python is None:
        pytest.skip("no Python 3.8 on this machine")
    root = Path(__file__).resolve().parents[3] / "harness"
    files = [str(p) for part in ("agent", "uapi") for p in sorted((root / part).rglob("*.py"))]
    code = "import ast,sys\nfor f in sys.argv[1:]: ast.parse(open(f, encoding='utf-8').read(), f)"
    done = subprocess.run(
        [python, "-c", code, *files], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
