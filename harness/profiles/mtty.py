# SPDX-License-Identifier: Apache-2.0
"""The kernel's sample serial port (samples/vfio-mdev/mtty.c): an mdev with one or two 16550 UARTs, no DMA.

Each port is an 8-byte BAR.  Both ports migrate (`struct serial_port`: registers, loop-back FIFO, divisor,
FCR); configuration space does not.  Only byte accesses reach a register.  A read of offset 0 (RX) pops the
FIFO, and returns bytes of the kernel's stack if the FIFO is empty, so it is never part of the compared state;
reads of offsets 1-7 have no side effect.  The writes may raise interrupts, but without an eventfd none is
signalled.
"""

from __future__ import annotations

from harness.profiles import Drain, Mutation, Profile, RegionWrite, StateRegion

__all__ = ["PROFILE"]

# Offsets of include/uapi/linux/serial_reg.h.
_RX, _TX, _IER, _FCR, _LCR, _MCR, _SCR = 0, 0, 1, 2, 3, 4, 7
_LCR_DLAB = 0x80
_FCR_ENABLE_FIFO = 0x01

_FIFO_BYTES = 16


def _write(port: int, offset: int, *values: int) -> tuple[RegionWrite, ...]:
    return tuple(RegionWrite(port, offset, bytes([value])) for value in values)


def _rx(port: int, count: int) -> tuple[Drain, ...]:
    return (Drain(port, _RX, count),)


def _port(port: int) -> tuple[Mutation, ...]:
    return (
        Mutation(f"scratch{port}", _write(port, _SCR, 0x5A)),
        Mutation(f"line{port}", _write(port, _LCR, 0x1B) + _write(port, _MCR, 0x33)),
        # RDI is left out: its interrupt depends on the FIFO level, which other mutations change.
        Mutation(f"interrupt-enable{port}", _write(port, _IER, 0x0C)),
        # LSR shows DR; the drain reads the bytes themselves.
        Mutation(
            f"fifo{port}",
            _write(port, _FCR, _FCR_ENABLE_FIFO) + _write(port, _TX, 0x11, 0xA5, 0xFE),
            _rx(port, 3),
        ),
        # A full FIFO and one byte more: the overrun flag, shown in LSR. No drain: a full FIFO has head equal
        # to tail, which the driver reads as empty.
        Mutation(
            f"overrun{port}",
            _write(port, _FCR, _FCR_ENABLE_FIFO) + _write(port, _TX, *range(0x40, 0x40 + _FIFO_BYTES + 1)),
        ),
        # DLAB stays set: IER then reads the divisor's high byte, RX its low byte.
        Mutation(
            f"divisor{port}",
            _write(port, _LCR, _LCR_DLAB) + _write(port, _TX, 0x34) + _write(port, _IER, 0x12),
        ),
        # FCR is write-only. FIFO off leaves room for one byte: the second is an overrun.
        Mutation(f"no-fifo{port}", _write(port, _FCR, 0x00) + _write(port, _TX, 0x77, 0x78), _rx(port, 1)),
    )


_LOG_STUB = (
    "mtty_log_start(), mtty_log_stop() and mtty_log_read_and_clear() return 0 and keep no log; "
    "include/linux/vfio.h, struct vfio_log_ops, asks the driver to reject a second log_start and to handle "
    "the others in invalid states, because the core does not track whether a log is kept"
)
_AS_107 = "the cause of MIG-107: write() refused the header, but its data was kept and loaded"


_FULL = (
    "handle_bar_read() takes head == tail for an empty FIFO even when all 16 bytes of it are used; its "
    "bytes are neither announced nor returned"
)

PROFILE = Profile(
    module="mtty",
    driver="mtty",
    bus="mdev",
    description="sample serial port of the kernel (mdev, 1 or 2 ports, emulated, no DMA)",
    does_dma=False,
    op_limit_s=20.0,
    stream_limit_bytes=64 << 20,
    state_regions=(StateRegion(0, 1, 7, 1), StateRegion(1, 1, 7, 1)),
    mutate=_port(0) + _port(1),
    explanations={
        "MIG-020": (
            "mtty_close() ends the data fds but does not reset mdev_state->state, and open does not set it: "
            "only mtty_init_dev() does, when the mdev is created. The next user finds the device in the "
            "state that the last one left"
        ),
        "MIG-078": (
            "mtty_save_read() returns 0 when all available data has been read, in PRE_COPY as in STOP_COPY; "
            "the driver never returns ENOMSG"
        ),
        "MIG-178": (
            "mtty_save_fops has no poll, so vfs_poll() always says that the fd is readable; the read gives 0"
        ),
        "MIG-107": (
            "mtty_resume_write() returns -EFAULT for a header that fails validation, but has already copied "
            "the data and still adds its length to filled_size; mtty_load_state() assumes that the header "
            "was validated and checks only filled_size"
        ),
        "MIG-166": (
            "mtty_load_state() copies struct serial_port from the stream without a check: rxtx.head and "
            "rxtx.tail then index fifo[16] with any byte; the bools dlab and overrun may hold any byte too"
        ),
        "MIG-164": (
            "the cause of MIG-166: bytes written behind fifo[16] reach the mutexes and the pointers to the "
            "data files, mtty_disable_files() faults on one, and the next caller waits for state_mutex"
        ),
        "MIG-167": "the kernel reports of MIG-166 set the taint",
        "DIRTY-012": _LOG_STUB,
        "DIRTY-016": f"{_LOG_STUB}; page_size is returned unchanged",
        "DIRTY-039": _LOG_STUB,
        "DEV-015": "MTTY_CONFIG_SPACE_SIZE is 0xff, one byte short of the space",
        "DEV-044": "handle_pci_cfg_write() ignores writes to the command register",
        "DEV-060": "mtty_get_irq_info() accepts only INTx and MSI, and refuses MSI-X",
        "DEV-068": (
            "mtty_set_irqs() switches on the action without a default: a request with no action, or with "
            "several, succeeds and does nothing"
        ),
        "DEV-100": "mtty_get_device_info() does not set VFIO_DEVICE_FLAGS_RESET, but mtty_ioctl() can reset",
        "DEV-131": "handle_bar_write() ors into the divisor, which only setting DLAB clears",
        "DEV-132": _FULL,
        "DEV-133": _FULL,
        "DEV-028": (
            "mdev_access() copies from vconfig + offset without checking offset against the 256 bytes of "
            "vconfig: it reads the kernel memory behind it, and a large offset crashes the host"
        ),
        "DEV-030": (
            "handle_bar_read() and handle_bar_write() index s[], which has two ports, with the number of "
            "any of the six address registers"
        ),
        "DEV-034": (
            "handle_bar_read() does not fill the buffer when the FIFO is empty, and that buffer is "
            "uninitialised memory on the stack of mtty_read()"
        ),
        "MIG-109": _AS_107,
        "MIG-110": _AS_107,
    },
    source="samples/vfio-mdev/mtty.c",
)
