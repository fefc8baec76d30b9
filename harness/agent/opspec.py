# SPDX-License-Identifier: Apache-2.0
"""The closed language of programs: every operation with its arguments and their types.

One line an operation, `name: arg:type arg?:type`; a question mark makes the argument optional.  The
controller
(`harness.program.rendering`) and the agent validate against this same table.
"""

from __future__ import annotations

import binascii

TYPE_CHECKING = False  # typing is dear to import, and only checkers need it
if TYPE_CHECKING:
    from typing import Any, Callable

__all__ = [
    "ACTOR_OPS",
    "MAX_IO_BYTES",
    "MAX_STREAM_BYTES",
    "SPECS",
    "TYPES",
    "check_op",
    "check_ops",
    "check_program",
]

MAX_DEADLINE_MS = 3_600_000
MAX_THREADS = 64
MAX_IO_BYTES = 64 << 20  # one read, write or mapping larger than this is a mistake, not a test
MAX_STREAM_BYTES = 512 << 20  # of a migration stream kept on the host; only its digest travels

ACTOR_OPS = frozenset(
    ["act", "barrier", "exec", "exit", "fork", "kill", "wait"]
)  # the agent's own, not an actor's

_TEXT = """
open: path:str flags?:strs mode?:u32 out:slot
open_cdev: dev:str out:slot flags?:strs
open_group: dev:str out:slot flags?:strs
open_container: out:slot
open_iommufd: out:slot
ioas_alloc: fd:fd out?:slot flags?:u32
ioas_map: fd:fd ioas:id mem:slot off?:n n:u64 iova?:u64 flags?:u32 out?:slot
ioas_unmap: fd:fd ioas:id iova:u64 n:u64
hwpt_alloc: fd:fd devid:id pt:id flags?:u32 out?:slot
destroy: fd:fd id:id
iommu: fd:fd cmd:str set?:obj fds?:obj mems?:obj bufs?:obj at?:obj outs?:obj out_fds?:obj tail?:hex nth?:n
pinned_memory:
rlimit_memlock: bytes:int
bind: fd:fd iommufd:fd flags?:u32 argsz?:u32 out?:slot token?:hex
attach: fd:fd pt:id flags?:u32 pasid?:u32 argsz?:u32
detach: fd:fd pt?:id flags?:u32 pasid?:u32 argsz?:u32
group_set_container: fd:fd container:fd
group_unset_container: fd:fd
group_get_device_fd: fd:fd dev?:str name?:str out:slot
group_status: fd:fd argsz?:u32
container_set_iommu: fd:fd type:u32
check_extension: fd:fd ext:u32
api_version: fd:fd
dma_map: fd:fd mem:slot off?:n n:u64 iova:u64 flags?:u32
dma_unmap: fd:fd iova:u64 n:u64 flags?:u32
device_info: fd:fd argsz?:u32
region_info: fd:fd index:u32 argsz?:u32
irq_info: fd:fd index:u32 argsz?:u32
set_irqs: fd:fd index:u32 start:u32 count:u32 flags:u32 fds?:fds hex?:hex argsz?:u32
feature: fd:fd flags:u32 payload?:hex argsz?:u32 ptrs?:list
feature_fd: fd:fd flags:u32 eventfd:fd
feature_new_fd: fd:fd flags:u32 payload:hex out:slot
ioeventfd: fd:fd off:u64 value:u64 eventfd:fd flags:u32 argsz?:u32
gfx_plane: fd:fd flags:u32 plane:u32 argsz?:u32 out?:slot
gfx_dmabuf: fd:fd id:id out:slot
set_state: fd:fd state:u32 out?:slot argsz?:u32 fd_in?:int
get_state: fd:fd argsz?:u32
data_size: fd:fd
precopy_info: fd:fd argsz?:u32 flags?:u32
reset: fd:fd
hot_reset_info: fd:fd argsz?:u32
hot_reset: fd:fd fds:fds argsz?:u32 flags?:u32
dma_logging_start: fd:fd page_size:u64 ranges:list num_ranges?:u32 reserved?:u32
dma_logging_stop: fd:fd
dma_logging_report: fd:fd iova:u64 length:u64 page_size:u64 bitmap_bytes:n off?:n preset?:hex
debugfs_state: dev:str
ioctl: fd:fd nr:u32 buf?:hex arg?:int ptrs?:list
ioctl_readonly: fd:fd nr:u32 buf:hex fds?:list
read: fd:fd n:n keep?:slot
read_all: fd:fd chunks?:ns max_bytes?:stream keep?:slot
write: fd:fd hex?:hex from?:slot off?:n n?:n
write_all: fd:fd from:slot chunks?:ns off?:stream n?:stream flip?:list repeat?:n
bytes: out:slot hex?:hex from?:slot off?:n n?:n flip?:list concat?:strs
pread: fd:fd off:u64 n:n keep?:slot
pwrite: fd:fd off:u64 hex?:hex from?:slot
lseek: fd:fd off:int whence?:str
poll: fd:fd events?:strs timeout_ms?:n
fcntl: fd:fd cmd:str arg?:int
dup: fd:fd out:slot cloexec?:bool
close: fd:slot
pipe: out:pair
socketpair: out:pair
send_fd: sock:fd fd:fd
recv_fd: sock:fd out:slot timeout_ms?:n
memfd: out:slot size?:u64
mmap: out:slot n:n fd?:fd off?:u64 off_from?:slot region?:u32 prot?:strs flags?:strs align?:n
munmap: mem:slot
mem_read: mem:slot off?:n n:n width?:u32
mem_write: mem:slot off?:n hex:hex width?:u32
region_read: fd:fd region:u32 off:u64 n:n width?:u32
region_write: fd:fd region:u32 off:u64 hex:hex width?:u32
fingerprint: fd:fd regions:list
eventfd: out:slot init?:u32 nonblock?:bool
eventfd_read: fd:fd timeout_ms?:n
eventfd_write: fd:fd value?:u64
barrier: name:str parties:u32
sleep: ms:n
fork: actor:slot
act: actor:slot do:op
exec: actor:slot
exec_self: fds:strs
drop_capability: caps:list
kill: actor:slot signal?:str
exit: actor:slot
wait: actor:slot timeout_ms?:n
walk: fd:fd targets:b64 stream?:slot
stat: fd:fd
fdinfo: fd:fd
read_text: path:str
region_poll: fd:fd region:u32 off:u64 width:u32 mask:u64 value:u64 timeout_ms:n
mem_poll: mem:slot off?:n width:u32 mask:u64 value:u64 timeout_ms:n differs?:bool
mem_fill: mem:slot off?:n n?:n value:u32
mem_dirty: mem:slot off?:n n?:n value:u32 page?:n
dma: fd:fd steps:list effect?:obj
"""


def _is_slot(value: Any) -> bool:
    return type(value) is str and 0 < len(value) <= 64


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(1 << 63) <= value < 1 << 64


def _is_fd(value: Any) -> bool:
    if type(value) is str:  # nearly always: this is checked for every operation of every program
        return 0 < len(value) <= 64
    # A raw number is for negative tests and must not be able to name a descriptor of the agent itself.
    return _is_int(value) and (-(1 << 31) <= value < 0 or 1_000_000 <= value < 1 << 31)


def _is_hex(value: Any) -> bool:
    if not isinstance(value, str) or len(value) > 2 * MAX_IO_BYTES:
        return False
    try:
        binascii.unhexlify(value)
    except (ValueError, binascii.Error):
        return False
    return True


def _is_b64(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        binascii.a2b_base64(value)
    except (ValueError, binascii.Error):
        return False
    return True


def _unsigned(limit: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and 0 <= value <= limit  # type: a bool is no number here


def _list_of(check: Callable[[Any], bool], length: int = 0) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, list) and all(check(v) for v in value) and (not length or len(value) == length)
    )


_is_n = _unsigned(MAX_IO_BYTES)

TYPES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "fd": (_is_fd, "the name of a slot, or a number below 0 or from 1000000"),
    "fds": (_list_of(_is_fd), "a list of slot names or numbers below 0"),
    "slot": (_is_slot, "the name of a slot (1 to 64 characters)"),
    "pair": (_list_of(_is_slot, 2), "a list of two slot names"),
    "id": (lambda v: _is_slot(v) or _unsigned(0xFFFFFFFF)(v), "an integer slot or a number of 32 bits"),
    "int": (_is_int, "an integer of 64 bits"),
    "u32": (_unsigned(0xFFFFFFFF), "an unsigned number of 32 bits"),
    "u64": (_unsigned(0xFFFFFFFFFFFFFFFF), "an unsigned number of 64 bits"),
    "stream": (_unsigned(MAX_STREAM_BYTES), "a number from 0 to %d" % MAX_STREAM_BYTES),
    "n": (_is_n, "a number from 0 to %d" % MAX_IO_BYTES),
    "ns": (
        lambda v: _list_of(_is_n)(v) and bool(v) and all(v),
        "a list of numbers from 1 to %d" % MAX_IO_BYTES,
    ),
    "hex": (_is_hex, "bytes in hex"),
    "b64": (_is_b64, "bytes in base64"),
    "str": (lambda v: isinstance(v, str) and len(v) <= 4096, "a string of up to 4096 characters"),
    "strs": (_list_of(lambda v: isinstance(v, str)), "a list of strings"),
    "list": (lambda v: isinstance(v, list), "a list"),
    "op": (
        lambda v: check_op(v, "do") is None and v[0] not in ACTOR_OPS,
        "an operation an actor can perform",
    ),
    "bool": (lambda v: isinstance(v, bool), "true or false"),
    "obj": (lambda v: isinstance(v, dict), "an object"),
}


def _parse(text: str) -> dict[str, tuple[dict[str, str], frozenset[str]]]:
    specs = {}
    for line in text.strip().splitlines():
        name, _, rest = line.partition(":")
        args = {}
        required = []
        for item in rest.split():
            arg, _, kind = item.partition(":")
            if not arg.endswith("?"):
                required.append(arg)
            args[arg.rstrip("?")] = kind
        specs[name] = (args, frozenset(required))
    return specs


SPECS = _parse(_TEXT)  # {operation: ({argument: type}, required arguments)}

_CHECKS = {name: {arg: TYPES[kind][0] for arg, kind in args.items()} for name, (args, _) in SPECS.items()}


def check_op(op: Any, where: str) -> str | None:
    """Return None when `op` (`[name, args]`) is well formed, else one line that says what is wrong.

    `where` is the op's place, such as `threads[0].ops[3]`.
    """
    if not isinstance(op, (list, tuple)) or len(op) != 2 or not isinstance(op[1], dict):
        return "%s is not [name, {arguments}]" % where
    name, args = op
    if not isinstance(name, str) or name not in SPECS:
        return "%s: %r is not an operation; valid are %s" % (where, name, ", ".join(sorted(SPECS)))
    checks = _CHECKS[name]
    for arg, value in args.items():
        check = checks.get(arg)
        if check is None:
            return "%s: %s takes no argument %r; valid are %s" % (where, name, arg, ", ".join(checks))
        if not check(value):
            shown = repr(value)
            shown = shown if len(shown) <= 60 else shown[:57] + "..."
            return "%s: %s: %s=%s is not %s" % (where, name, arg, shown, TYPES[SPECS[name][0][arg]][1])
    if not SPECS[name][1] <= args.keys():
        missing = sorted(SPECS[name][1] - args.keys())
        return "%s: %s needs %s" % (where, name, ", ".join(missing))
    return None


def check_ops(ops: Any, where: str) -> str | None:
    """Return None when `ops` is a list of well formed operations, else the first thing that is wrong."""
    if not isinstance(ops, list):
        return "%s is not a list of operations" % where
    for index, op in enumerate(ops):
        wrong = check_op(op, "")
        if wrong is not None:
            return check_op(op, "%s[%d]" % (where, index))
    return None


_PROGRAM_KEYS = frozenset(["devices", "session", "keep", "deadline_ms", "busy_ms", "threads"])
_THREAD_KEYS = frozenset(["name", "actor", "ops"])


def check_program(program: Any) -> str | None:
    """Return None when `program` is well formed (docs/architecture.md), else the first thing that is
    wrong."""
    if not isinstance(program, dict):
        return "program is not an object"
    extra = sorted(program.keys() - _PROGRAM_KEYS)
    if extra:
        return "program: unknown key %r; valid are %s" % (extra[0], ", ".join(sorted(_PROGRAM_KEYS)))
    deadline = program.get("deadline_ms", 1)
    if not _unsigned(MAX_DEADLINE_MS)(deadline) or not deadline:
        return "program: deadline_ms=%r is not a number from 1 to %d" % (deadline, MAX_DEADLINE_MS)
    if not _unsigned(MAX_DEADLINE_MS)(program.get("busy_ms", 0)):
        return "program: busy_ms=%r is not a number up to %d" % (program["busy_ms"], MAX_DEADLINE_MS)
    session = program.get("session")
    if session is not None and not _is_slot(session):
        return "program: session=%r is not a name" % (session,)
    if not _list_of(_is_slot)(program.get("keep", [])):
        return "program: keep is not a list of slot names"
    devices = program.get("devices", {})
    if not isinstance(devices, dict) or not all(isinstance(d, dict) for d in devices.values()):
        return "program: devices is not an object of objects"
    threads = program.get("threads")
    if not isinstance(threads, list) or not 1 <= len(threads) <= MAX_THREADS:
        return "program: threads is not a list of 1 to %d threads" % MAX_THREADS
    names = set()
    for number, thread in enumerate(threads):
        where = "threads[%d]" % number
        wrong = _check_thread(thread, where) or _check_devices(thread["ops"], devices, where)
        if wrong is not None:
            return wrong
        if thread["name"] in names:
            return "%s: name=%r is taken by another thread" % (where, thread["name"])
        names.add(thread["name"])
    return None


def _check_thread(thread: Any, where: str) -> str | None:
    if not isinstance(thread, dict) or not thread.keys() <= _THREAD_KEYS:
        return "%s is not an object of %s" % (where, ", ".join(sorted(_THREAD_KEYS)))
    if not _is_slot(thread.get("name")):
        return "%s: name=%r is not a name" % (where, thread.get("name"))
    if thread.get("actor") is not None and not _is_slot(thread["actor"]):
        return "%s: actor=%r is not a name" % (where, thread["actor"])
    return check_ops(thread.get("ops"), where + ".ops")


def _check_devices(ops: list[Any], devices: dict[str, Any], where: str) -> str | None:
    for index, (name, args) in enumerate(ops):
        if name == "act":
            name, args = args["do"]
        if "dev" in args and args["dev"] not in devices:
            known = ", ".join(sorted(devices)) or "none"
            return "%s.ops[%d]: %s: dev=%r is not in devices; known: %s" % (
                where,
                index,
                name,
                args["dev"],
                known,
            )
    return None
