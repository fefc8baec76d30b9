# SPDX-License-Identifier: Apache-2.0
"""The closed language of programs as one table: all that is to know of an operation stands here.

An entry is `name time marks: arguments | what it does | result fields`, and goes on in indented lines.  An
argument is `name:type` (the types are in `validation.py`), and optional with a question mark.

* The time it may take: `quick` (the kernel answers at once), `transfer` (grows with the bytes), `works` (as
  long as the device or the process that is told to do it needs), `waits` (until something else happens or
  its own time is over, so it is never the cause of a hang).
* Mark `device`: it makes a system call that a driver, VFIO or iommufd answers, or touches memory that may be
  mapped from a device.  What does not come back from there is a finding about the device, and no fault of
  the lab.
* Mark `agent`: about actors, so an actor is never told to do it.
* Mark `here`: in the thread of an actor the agent does it, where the barriers are.

The documents' table (docs/operations.md) is made from this one.
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing is dear to import, and only checkers need it
if TYPE_CHECKING:
    from typing import Any

__all__ = [
    "ACTOR_OPS",
    "DEADLINE_CLASSES",
    "HERE_OPS",
    "OPERATIONS",
    "WAITING_OPS",
    "Operation",
    "touches_device",
]

DEADLINE_CLASSES = ("quick", "transfer", "works", "waits")

_TEXT = """
open quick device: path:str flags?:strs mode?:u32 out:slot
  | opens a file; flags are names such as O_RDWR, default O_RDONLY |
open_cdev works device: dev:str out:slot flags?:strs
  | opens the device's node below /dev/vfio/devices, default O_RDWR and O_CLOEXEC |
open_group works device: dev:str out:slot flags?:strs
  | opens the node of the device's group, default O_RDWR and O_CLOEXEC |
open_container quick device: out:slot | opens /dev/vfio/vfio |
open_iommufd quick device: out:slot | opens /dev/iommu |
ioas_alloc quick device: fd:fd out?:slot flags?:u32 | IOMMU_IOAS_ALLOC; out is an integer slot | ioas
ioas_map transfer device: fd:fd ioas:id mem:slot off?:n n:u64 iova?:u64 flags?:u32 out?:slot
  | IOMMU_IOAS_MAP; at a fixed iova where one is given | iova
ioas_unmap transfer device: fd:fd ioas:id iova:u64 n:u64 | IOMMU_IOAS_UNMAP | length
hwpt_alloc quick device: fd:fd devid:id pt:id flags?:u32 out?:slot | IOMMU_HWPT_ALLOC | hwpt
destroy quick device: fd:fd id:id | IOMMU_DESTROY |
iommu transfer device: fd:fd cmd:str set?:obj fds?:obj mems?:obj bufs?:obj at?:obj outs?:obj out_fds?:obj
  tail?:hex nth?:n
  | the iommufd or type1 ioctl, or the IOMMU_TEST_OP_*, named by cmd, on its struct; nth: its n-th allocation
  fails | every field of the struct, buf_FIELD for each buffer, guard (nothing beside them changed), tail,
  injected
pinned_memory quick: | memory that the process has locked and pinned | locked_kib, pinned_kib
rlimit_memlock quick: bytes:int | sets the soft RLIMIT_MEMLOCK | was
bind works device: fd:fd iommufd:fd flags?:u32 argsz?:u32 out?:slot token?:hex
  | VFIO_DEVICE_BIND_IOMMUFD; out is an integer slot | devid
attach works device: fd:fd pt:id flags?:u32 pasid?:u32 argsz?:u32 | VFIO_DEVICE_ATTACH_IOMMUFD_PT | pt
detach works device: fd:fd pt?:id flags?:u32 pasid?:u32 argsz?:u32 | VFIO_DEVICE_DETACH_IOMMUFD_PT |
group_set_container quick device: fd:fd container:fd | VFIO_GROUP_SET_CONTAINER |
group_unset_container quick device: fd:fd | VFIO_GROUP_UNSET_CONTAINER |
group_get_device_fd works device: fd:fd dev?:str name?:str out:slot
  | VFIO_GROUP_GET_DEVICE_FD of a device of the program, or of any name |
group_status quick device: fd:fd argsz?:u32 | VFIO_GROUP_GET_STATUS | flags
container_set_iommu works device: fd:fd type:u32 | VFIO_SET_IOMMU |
check_extension quick device: fd:fd ext:u32 | VFIO_CHECK_EXTENSION; its answer is ret |
api_version quick device: fd:fd | VFIO_GET_API_VERSION; its answer is ret |
dma_map transfer device: fd:fd mem:slot off?:n n:u64 iova:u64 flags?:u32 | VFIO_IOMMU_MAP_DMA |
dma_unmap transfer device: fd:fd iova:u64 n:u64 flags?:u32 | VFIO_IOMMU_UNMAP_DMA | length
device_info quick device: fd:fd argsz?:u32 | VFIO_DEVICE_GET_INFO | all fields of the struct, caps_hex
region_info quick device: fd:fd index:u32 argsz?:u32
  | VFIO_DEVICE_GET_REGION_INFO | all fields of the struct, caps_hex
irq_info quick device: fd:fd index:u32 argsz?:u32 | VFIO_DEVICE_GET_IRQ_INFO | all fields of the struct
set_irqs quick device: fd:fd index:u32 start:u32 count:u32 flags:u32 fds?:fds hex?:hex argsz?:u32
  | VFIO_DEVICE_SET_IRQS, with eventfds or plain data |
feature works device: fd:fd flags:u32 payload?:hex argsz?:u32 ptrs?:list
  | VFIO_DEVICE_FEATURE; flags is all 32 bits, argsz by default 8 and the payload; ptrs: [[offset in the
  payload, mem slot, offset in it]..] | flags, payload (hex)
feature_fd works device: fd:fd flags:u32 eventfd:fd | VFIO_DEVICE_FEATURE whose data is an fd |
feature_new_fd works device: fd:fd flags:u32 payload:hex out:slot
  | VFIO_DEVICE_FEATURE whose result is an fd |
ioeventfd quick device: fd:fd off:u64 value:u64 eventfd:fd flags:u32 argsz?:u32
  | VFIO_DEVICE_IOEVENTFD; eventfd is a slot or a number |
gfx_plane quick device: fd:fd flags:u32 plane:u32 argsz?:u32 out?:slot
  | VFIO_DEVICE_QUERY_GFX_PLANE; out is an integer slot, for the id of the dma-buf | drm_format, width,
  height, stride, size, x_hot, y_hot, region_index
gfx_dmabuf quick device: fd:fd id:id out:slot | VFIO_DEVICE_GET_GFX_DMABUF |
set_state works device: fd:fd state:u32 out?:slot argsz?:u32 fd_in?:int
  | SET of MIG_DEVICE_STATE; out takes the data fd, fd_in is what the struct holds before | state (written
  back), data_fd (-1; 1: an fd came; -2: what came is none, and raw_fd is its number), cloexec (bool)
get_state quick device: fd:fd argsz?:u32 | GET of MIG_DEVICE_STATE | state, data_fd
data_size quick device: fd:fd | GET of MIG_DATA_SIZE | size
precopy_info quick device: fd:fd argsz?:u32 flags?:u32
  | VFIO_MIG_GET_PRECOPY_INFO on a data fd | flags, initial_bytes, dirty_bytes
reset works device: fd:fd | VFIO_DEVICE_RESET |
hot_reset_info quick device: fd:fd argsz?:u32
  | VFIO_DEVICE_GET_PCI_HOT_RESET_INFO | flags, count, devices ([[group id or devid, BDF]..])
hot_reset works device: fd:fd fds:fds argsz?:u32 flags?:u32
  | VFIO_DEVICE_PCI_HOT_RESET; fds are group slots |
dma_logging_start works device: fd:fd page_size:u64 ranges:list num_ranges?:u32 reserved?:u32
  | SET of DMA_LOGGING_START; ranges: [[iova, length]..] | page_size (written back)
dma_logging_stop works device: fd:fd | SET of DMA_LOGGING_STOP |
dma_logging_report transfer device: fd:fd iova:u64 length:u64 page_size:u64 bitmap_bytes:n off?:n preset?:hex
  | GET of DMA_LOGGING_REPORT; the bitmap starts off bytes from a page and holds preset before | bitmap (hex)
  or zbitmap (base64 of zlib, above 1 KiB), guard (nothing beside it changed)
debugfs_state quick device: dev:str
  | reads migration/state of the device's debugfs; ENOENT where there is none | text (RUNNING, ...)
ioctl works device: fd:fd nr:u32 buf?:hex arg?:int ptrs?:list
  | any ioctl, on a buffer or with a number; ptrs as for feature | buf (hex)
ioctl_readonly works device: fd:fd nr:u32 buf:hex fds?:list
  | an ioctl on a struct in memory that can only be read; fds: [[offset, slot]..] |
read transfer device: fd:fd n:n keep?:slot
  | one read; keep is the bytes slot that takes it | n, hex (first 256 bytes), sha256
read_all transfer device: fd:fd chunks?:ns fine?:windows max_bytes?:stream partial?:bool keep?:slot
  | reads to the end, in sizes that are cycled (with fine only inside those windows, else in large ones);
  partial: the end is not expected within max_bytes
  | n, reads, end ("eof", "errno", "max"; "deadline", "full": cut), errno, sha256
write transfer device: fd:fd hex?:hex from?:slot off?:stream n?:n
  | one write, of hex or a part of a bytes slot | n
write_all transfer device: fd:fd from:slot chunks?:ns fine?:windows off?:stream n?:stream flip?:list
  repeat?:n
  | writes a bytes slot, in sizes that are cycled; flip: [[byte offset, xor]..]; errno is that of the first
  write that fails | n, writes
bytes transfer: out:slot hex?:hex from?:slot off?:stream n?:stream flip?:list concat?:strs
  | fills a bytes slot with hex or a part of another; then concat and flip | n, sha256
pread transfer device: fd:fd off:u64 n:n keep?:slot | one pread | n, hex (first 256 bytes), sha256
pwrite transfer device: fd:fd off:u64 hex?:hex from?:slot | one pwrite | n
lseek quick device: fd:fd off:int whence?:str | whence is a name, default SEEK_SET | n
poll waits device: fd:fd events?:strs timeout_ms?:n
  | events: IN, OUT, PRI, ERR, HUP, NVAL, RDHUP | revents (list)
fcntl quick: fd:fd cmd:str arg?:int | cmd: F_GETFD, F_SETFD, F_GETFL, F_SETFL | value
dup quick: fd:fd out:slot cloexec?:bool | F_DUPFD, or F_DUPFD_CLOEXEC |
close works device: fd:slot | closes it; the last one of a file releases the device |
pipe quick: out:pair | out: the reading and the writing end |
socketpair quick: out:pair | two SOCK_SEQPACKET sockets |
send_fd quick: sock:fd fd:fd | sends an fd over a socket |
recv_fd waits: sock:fd out:slot timeout_ms?:n | receives an fd, close-on-exec; ETIMEDOUT where none comes |
memfd quick: out:slot size?:u64 | memfd_create |
mmap works device: out:slot n:n fd?:fd off?:u64 off_from?:slot region?:u32 prot?:strs flags?:strs align?:n
  | maps an fd, from the start of a region or from off_from, an integer slot; without fd anonymous memory |
  aligned (bool)
munmap works device: mem:slot | unmaps it |
mem_read transfer device: mem:slot off?:n n:n width?:u32
  | reads mapped memory, in units of width; EFAULT where it may not | n, hex (first 64 KiB), sha256
mem_write transfer device: mem:slot off?:n hex:hex width?:u32 | writes mapped memory likewise | n
region_read transfer device: fd:fd region:u32 off:u64 n:n width?:u32
  | pread in a region, in units of width | n, hex
region_write transfer device: fd:fd region:u32 off:u64 hex:hex width?:u32
  | pwrite in a region, in units of width | n
fingerprint transfer device: fd:fd regions:list
  | reads parts of regions: [[region, off, n, width]..] | n, sha256, hex (first 4 KiB)
eventfd quick: out:slot init?:u32 nonblock?:bool | makes an eventfd, by default one that does not block |
eventfd_read works: fd:fd timeout_ms?:n | waits for it so long, then reads it | value
eventfd_write quick device: fd:fd value?:u64 | signals it, by 1 where nothing else is said |
barrier waits agent here: name:str parties:u32 | waits until so many threads are there; ETIMEDOUT |
sleep waits here: ms:n | sleeps |
fork works device agent: actor:slot | starts an actor: a child process with its own table of fds | pid
act works device agent: actor:slot do:op
  | has the actor perform an operation now, so that processes act in a definite order | the operation's
exec works device agent: actor:slot
  | the actor becomes a program that idles, with the fds that are not close-on-exec |
exec_self works: fds:strs | starts a program that says which of the fds it has | open ({name: bool})
drop_capability quick: caps:list | an actor gives up capabilities, by their numbers, for good |
kill quick agent: actor:slot signal?:str | signals an actor, default SIGKILL |
exit quick agent: actor:slot | tells an actor to exit, and does not wait |
wait waits agent: actor:slot timeout_ms?:n | waits until an actor has ended; ETIMEDOUT | code, signal
walk works device: fd:fd targets:b64 stream?:slot limit_ms?:u32
  | requests many states one after the other, as many as limit_ms allows: see architecture.md
  | recs (base64, 4 bytes a step)
stat quick: fd:fd | fstat | rdev (major:minor), mode
fdinfo quick device: fd:fd | reads /proc/self/fdinfo of it, which the file's driver may add to | text
read_text quick: path:str | reads the start of a file below /proc or /sys | text
region_poll works device: fd:fd region:u32 off:u64 width:u32 mask:u64 value:u64 timeout_ms:n
  | reads a register until value is there under mask | done, value
mem_poll works device: mem:slot off?:n width:u32 mask:u64 value:u64 timeout_ms:n differs?:bool
  | the same of memory; with differs until it is no longer value | done, value
mem_fill transfer device: mem:slot off?:n n?:n value:u32 | fills memory with a byte | n
mem_dirty transfer device: mem:slot off?:n n?:n value:u32 page?:n
  | which pages differ from the fill | pages, ranges ([[first page, count]..]), more
dma works device: fd:fd steps:list effect?:obj
  | tells a device to do DMA: accesses and waits, in order; effect is for the judge | done, value, values
"""


class Operation:
    """An entry of the table."""

    __slots__ = ("_text", "args", "deadline", "marks", "name", "required", "touches_device")

    def __init__(self, entry: str) -> None:
        head, _, self._text = entry.partition("|")
        title, _, arguments = head.partition(":")
        self.name, self.deadline, *self.marks = title.split()
        self.touches_device = "device" in self.marks
        self.args: dict[str, str] = {}  # argument -> type
        required = []
        for item in arguments.split():
            arg, _, kind = item.partition(":")
            if arg[-1] == "?":
                arg = arg[:-1]
            else:
                required.append(arg)
            self.args[arg] = kind
        self.required = frozenset(required)

    # For readers only, so not taken apart on every start of an agent.
    @property
    def does(self) -> str:
        """What it does, for the reader of the documents."""
        return self._text.partition("|")[0].strip()

    @property
    def gives(self) -> str:
        """Its result fields, likewise."""
        return self._text.partition("|")[2].strip()


def _parse(text: str) -> dict[str, Operation]:
    entries = text.strip().replace("\n  ", " ").splitlines()
    return {one.name: one for one in map(Operation, entries)}


OPERATIONS = _parse(_TEXT)
ACTOR_OPS = frozenset([name for name, one in OPERATIONS.items() if "agent" in one.marks])
HERE_OPS = frozenset([name for name, one in OPERATIONS.items() if "here" in one.marks])
WAITING_OPS = frozenset([name for name, one in OPERATIONS.items() if one.deadline == "waits"])


def touches_device(name: Any) -> bool:
    """Whether a device may be to blame when operation `name` does not come back; False for no operation."""
    return name in OPERATIONS and OPERATIONS[name].touches_device
