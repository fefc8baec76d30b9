# SPDX-License-Identifier: Apache-2.0
"""The kernel's sample serial port (samples/vfio-mdev/mtty.c): an mdev with one or two 16550 UARTs, no DMA.

Each port is an 8-byte BAR; both migrate (`struct serial_port`: registers, loop-back FIFO, divisor, FCR),
configuration space does not.  Only byte accesses mean a register.  Reading offset 0 (RX) pops the FIFO, and
on an empty FIFO gives whatever was on the kernel's stack, so it is never part of the state that is compared;
offsets 1-7 read without a side effect.  Every write keeps interrupts harmless: without an eventfd nothing is
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
        # LSR shows DR, and the bytes themselves come out in the drain.
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
    "mtty_log_start(), mtty_log_stop() and mtty_log_read_and_clear() return 0 and keep nothing; "
    "include/linux/vfio.h, struct vfio_log_ops, asks the driver to reject a second log_start and to handle "
    "the others in invalid states, for the core does not track whether a log is kept"
)
_AS_107 = "the cause of MIG-107: the header was refused at write(), its data was kept and loaded"


_FULL = (
    "handle_bar_read() takes head == tail for an empty FIFO, also when all 16 bytes of it are used; what was "
    "there is neither announced nor given"
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
            "mtty_close() ends the data fds but leaves mdev_state->state as it is; nothing sets it at open: "
            "only mtty_init_dev() does, when the mdev is made. The next user finds the device in the last "
            "one's state"
        ),
        "MIG-078": (
            "mtty_save_read() returns 0 when all that is there has been read, in PRE_COPY as in STOP_COPY; "
            "ENOMSG is not in the driver"
        ),
        "MIG-107": (
            "mtty_resume_write() returns -EFAULT for a header that fails validation, but has copied the data "
            "and adds its length to filled_size all the same; mtty_load_state() trusts that the header was "
            "tested and checks only filled_size"
        ),
        "MIG-166": (
            "mtty_load_state() copies struct serial_port from the stream without a look: rxtx.head and "
            "rxtx.tail then index fifo[16] with any byte; dlab and overrun hold values that no bool has"
        ),
        "MIG-164": (
            "the cause of MIG-166: bytes written behind fifo[16] reach the mutexes and the pointers to the "
            "data files, mtty_disable_files() faults on one, and whoever comes next waits for state_mutex"
        ),
        "MIG-167": "the kernel's words of MIG-166 taint",
        "DIRTY-012": _LOG_STUB,
        "DIRTY-016": f"{_LOG_STUB}; page_size goes back as it came",
        "DIRTY-039": _LOG_STUB,
        "DEV-015": "MTTY_CONFIG_SPACE_SIZE is 0xff, one byte short of the space",
        "DEV-044": "handle_pci_cfg_write() ignores writes to the command register",
        "DEV-060": "mtty_get_irq_info() knows INTx and MSI only and refuses MSI-X",
        "DEV-068": (
            "mtty_set_irqs() switches on the action without a default: no action, or several, succeeds "
            "and does nothing"
        ),
        "DEV-100": "mtty_get_device_info() does not set VFIO_DEVICE_FLAGS_RESET, but mtty_ioctl() can reset",
        "DEV-131": "handle_bar_write() ors into the divisor, which only setting DLAB makes 0",
        "DEV-132": _FULL,
        "DEV-133": _FULL,
        "DEV-028": (
            "mdev_access() copies from vconfig + offset with an offset that nobody compared with the 256 "
            "bytes of vconfig: the kernel's memory behind it is read, and far enough away the host crashes"
        ),
        "DEV-030": (
            "handle_bar_read() and handle_bar_write() index s[], which has two ports, with the number of any "
            "of six address registers"
        ),
        "DEV-034": (
            "handle_bar_read() leaves the buffer as it is when the FIFO is empty, and mtty_read() has that "
            "buffer on its stack, uninitialised"
        ),
        "MIG-109": _AS_107,
        "MIG-110": _AS_107,
    },
    source="samples/vfio-mdev/mtty.c",
)
