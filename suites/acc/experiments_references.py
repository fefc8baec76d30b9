# SPDX-License-Identifier: Apache-2.0
"""Experiments on what keeps a device in use, and what frees it: dup, fork, SCM_RIGHTS, exec, SIGKILL."""

from __future__ import annotations

from collections.abc import Iterator

from fixtures.experiment import experiment
from fixtures.subject import Subject
from suites.acc.program import MAIN, History


def _kept(h: History, device: str = "", proc: str = MAIN) -> None:
    """Try to open a device that is held: others are refused, and (with `device`) the holder can use it."""
    h.try_group()
    h.try_cdev()
    if device:
        h.uses(device, proc)


@experiment("ACC-060", "ACC-065", "ACC-070", own_open=True)
def copies_of_a_descriptor_keep_the_device(subject: Subject) -> Iterator[History]:
    h = History(subject)
    d, i = h.bound()
    h.op("dup", fd=d, out="copy")
    h.op("dup", fd="copy", out="third", cloexec=True)
    h.close(d)
    _kept(h, "copy")
    h.close("copy")
    _kept(h, "third")
    h.close("third", i)
    h.free()
    yield h
    if subject.has("group"):
        h = History(subject)
        g = h.group()
        h.op("dup", fd=g, out="copy")
        h.close(g)
        _kept(h)
        h.close("copy")
        h.free()
        yield h


@experiment("ACC-061", "ACC-066", "ACC-067", "ACC-070", own_open=True)
def a_forked_process_keeps_the_device(subject: Subject) -> Iterator[History]:
    for how in ("kill", "exit"):
        h = History(subject)
        d, i = h.bound()
        child = h.fork()
        h.close(d, i)
        _kept(h, d, child)
        h.ends(child, how)
        h.free()
        yield h
    if subject.has("legacy"):
        for how in ("kill", "exit"):
            h = History(subject)
            g = h.group()
            c = h.container(g)
            d = h.given(g)
            child = h.fork()
            h.close(g, c, d)
            _kept(h, d, child)
            h.close(g, proc=child)
            _kept(h, d, child)
            h.ends(child, how)
            h.free()
            yield h


@experiment("ACC-062", "ACC-063", "ACC-066", "ACC-069", "ACC-070", own_open=True)
def a_process_that_got_the_descriptor_keeps_the_device(subject: Subject) -> Iterator[History]:
    h = History(subject)
    h.op("socketpair", out=["ours", "theirs"])
    child = h.fork()
    h.close("theirs")
    d, i = h.bound(child)
    h.do(child, "send_fd", sock="theirs", fd=d)
    h.ends(child)
    _kept(h)
    h.op("recv_fd", sock="ours", out="got", timeout_ms=1000)
    _kept(h, "got")
    h.close("got", "ours")
    h.free()
    yield h
    h = History(subject)
    h.op("socketpair", out=["ours", "theirs"])
    d, i = h.bound()
    h.op("send_fd", sock="ours", fd=d)
    h.close(d, i)
    _kept(h)
    h.close("ours")
    _kept(h)
    h.close("theirs")
    h.free()
    yield h
    h = History(subject)
    h.op("socketpair", out=["ours", "theirs"])
    child = h.fork()
    d, i = h.bound()
    h.op("send_fd", sock="ours", fd=d)
    h.do(child, "recv_fd", sock="theirs", out="got", timeout_ms=1000)
    h.close(d, i, "ours", "theirs")
    _kept(h, "got", child)
    h.close("got", proc=child)
    h.ends(child, "exit")
    h.free()
    yield h


@experiment("ACC-064", "ACC-066", "ACC-068", "ACC-070", own_open=True)
def exec_keeps_what_is_not_close_on_exec(subject: Subject) -> Iterator[History]:
    for kept in (True, False):
        h = History(subject)
        child = h.fork()
        flags = ["O_RDWR"] if kept else ["O_RDWR", "O_CLOEXEC"]
        h.bound(child, flags=flags)
        h.op("exec", actor=child)
        if kept:
            _kept(h)
        else:
            h.free()
        h.ends(child)
        h.free()
        yield h
        if subject.has("group"):
            h = History(subject)
            child = h.fork()
            h.group(child, flags=flags)
            h.op("exec", actor=child)
            if kept:
                _kept(h)
            else:
                h.free()
            h.ends(child)
            h.free()
            yield h


@experiment("ACC-009", "ACC-050", "ACC-052", "ACC-054", "ACC-066", "ACC-070", own_open=True)
def who_is_killed_frees_the_device(subject: Subject) -> Iterator[History]:
    h = History(subject)
    one, two = h.fork(), h.fork()
    d, _ = h.bound(one)
    h.bound(two)
    _kept(h, d, one)
    h.ends(one)
    e, _ = h.bound(two)
    h.uses(e, two)
    _kept(h)
    h.ends(two)
    h.free()
    yield h
    if subject.has("legacy"):
        h = History(subject)
        child = h.fork()
        g = h.group(child)
        h.container(g, child)
        d = h.given(g, child)
        _kept(h, d, child)
        h.ends(child)
        h.free()
        yield h


@experiment("ACC-065", "ACC-076", own_open=True)
def a_mapping_keeps_the_device(subject: Subject) -> Iterator[History]:
    if not subject.has("mmap_region"):
        return
    h = History(subject)
    d, i = h.bound()
    h.op("mmap", fd=d, region=int(subject.capabilities["mmap_region"]) - 1, n=4096, out="bar")
    h.close(d, i)
    _kept(h)
    h.op("munmap", mem="bar")
    h.free()
    yield h


@experiment(
    "ACC-019", "ACC-051", "ACC-053", "ACC-056", "ACC-057", "ACC-062", "ACC-065", "ACC-070", "ACC-094",
    "ACC-095", own_open=True,
)  # fmt: skip
def devices_of_a_group_have_one_owner(subject: Subject) -> Iterator[History]:
    if not subject.has("shared_group"):
        return
    h = History(subject)
    d, i = h.bound()
    other = h.cdev(dev="dev1")
    foreign = h.iommufd()
    h.op("bind", fd=other, iommufd=foreign)
    h.group(dev="dev1")
    h.op("bind", fd=other, iommufd=i)
    h.uses(other)
    space, elsewhere = h.ioas(i), h.ioas(i)
    h.op("attach", fd=d, pt=space)
    h.op("attach", fd=other, pt=space)
    h.op("detach", fd=d)
    h.op("destroy", fd=i, id=space)
    h.op("detach", fd=other)
    h.op("attach", fd=other, pt=elsewhere)
    h.close(d)
    h.group(dev="dev0")
    h.try_cdev()
    h.uses(other)
    h.close(other)
    h.op("bind", fd=h.cdev(dev="dev1"), iommufd=foreign)
    h.try_cdev()
    yield h
    h = History(subject)
    child = h.fork()
    d, i = h.bound(child)
    h.try_cdev("dev1")
    h.op("socketpair", out=["a", "b"])
    h.ends(child)
    h.free()
    yield h
    if subject.has("legacy"):
        h = History(subject)
        g = h.group(dev="dev1")
        h.try_cdev("dev0")
        c = h.container(g)
        one = h.given(g, dev="dev0")
        h.try_cdev("dev1")
        two = h.given(g, dev="dev1")
        h.uses(one)
        h.uses(two)
        h.close(g, one)
        h.try_cdev("dev0")
        h.uses(two)
        h.close(two, c)
        h.free()
        yield h
