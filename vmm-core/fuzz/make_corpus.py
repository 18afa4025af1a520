#!/usr/bin/env python3
"""Writes the seeds of this folder's fuzz targets. Run by hand when a target's input changes: make_corpus.py [FOLDER]

A seed opens one path through the code that a fuzzer would need long to find; the rest is the fuzzer's work.
"""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from typing import NamedTuple

IMAGE_BASE = 0x1000_0000  # abi::kImageBase
PT_LOAD, PT_NOTE, PT_TLS = 1, 4, 7
PF_X, PF_W, PF_R = 1, 2, 4
EHDR_BYTES, PHDR_BYTES = 64, 56


class Program(NamedTuple):
    """A program header and what lies at its file offset."""

    kind: int
    flags: int
    address: int
    content: bytes
    memory_bytes: int
    align: int = 1


def elf(programs: list[Program], entry: int = IMAGE_BASE) -> bytes:
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01", 2, 62, 1, entry, EHDR_BYTES, 0, 0, EHDR_BYTES, PHDR_BYTES, len(programs), 0, 0, 0,
    )
    table = b""
    contents = b""
    first = EHDR_BYTES + PHDR_BYTES * len(programs)
    for p in programs:
        offset = first + len(contents)
        table += struct.pack(
            "<IIQQQQQQ", p.kind, p.flags, offset, p.address, p.address, len(p.content), p.memory_bytes, p.align
        )
        contents += p.content
    return header + table + contents


def note(name: bytes, kind: int, value: bytes, align: int) -> bytes:
    def pad(data: bytes) -> bytes:
        return data + b"\0" * (-len(data) % align)

    return pad(pad(struct.pack("<III", len(name), len(value), kind) + name) + value)


def elf_seeds() -> dict[str, bytes]:
    text = Program(PT_LOAD, PF_R | PF_X, IMAGE_BASE, b"\xc3" * 16, 16)
    data = Program(PT_LOAD, PF_R | PF_W, IMAGE_BASE + 0x1000, b"data", 0x2000)
    pvh_4 = note(b"GNU\0", 3, b"id", 4) + note(b"Xen\0", 18, struct.pack("<I", IMAGE_BASE), 4)
    pvh_8 = note(b"Xen\0", 18, struct.pack("<Q", IMAGE_BASE), 8)
    return {
        "text": elf([text]),
        "text-data": elf([text, data]),
        "pvh-note-32": elf([text, Program(PT_NOTE, PF_R, 0, pvh_4, 0, 4)]),
        "pvh-note-64": elf([text, Program(PT_NOTE, PF_R, 0, pvh_8, 0, 8)]),
        "overlap": elf([text, Program(PT_LOAD, PF_R, IMAGE_BASE, b"", 0x1000)]),
        "writable-executable": elf([Program(PT_LOAD, PF_R | PF_W | PF_X, IMAGE_BASE, b"\xc3", 1)]),
        "outside": elf([Program(PT_LOAD, PF_R | PF_X, IMAGE_BASE - 0x1000, b"\xc3", 0x2000)]),
        "tls": elf([text, Program(PT_TLS, PF_R, IMAGE_BASE, b"", 8)]),
    }


# Steps of fuzz_bus.cc: the first byte modulo 8 says which.
READ_SERIAL, WRITE_SERIAL = 0x00, 0x80
READ_PORT, WRITE_PORT, READ_MMIO, WRITE_MMIO = 1, 2, 3, 4
PUSH, PUSH_BREAK, ADD_MMIO, ADD_PORT = 5, 6, 7, 0x87
EXACT = 2 << 5  # picks a device's first byte, not one before or behind it
SERIAL, DOORBELL, EVENT, PANIC = EXACT | 0, EXACT | 1, EXACT | 2, EXACT | 3
ANY_ADDRESS = 7


def bus_seeds() -> dict[str, bytes]:
    def serial_write(register: int, value: int) -> bytes:
        return bytes([WRITE_SERIAL, register, value])

    def serial_read(register: int) -> bytes:
        return bytes([READ_SERIAL, register, 0])

    ier, iir, fcr, mcr, lsr, msr = 1, 2, 2, 4, 5, 6
    ring = bytes([WRITE_PORT, DOORBELL, 4]) + bytes(4)
    ring_mmio = bytes([WRITE_MMIO, EXACT | 0, 4]) + bytes(4)
    panic = bytes([WRITE_PORT, PANIC, 4]) + struct.pack("<I", 14)
    return {
        "ring": ring + ring_mmio + ring,
        "panic": panic + panic,
        "serial-transmit": serial_write(ier, 2) + serial_read(iir) + serial_write(0, ord("x")) + serial_read(iir),
        "serial-fifo": serial_write(fcr, 0xC1) + serial_write(ier, 0x0F) + bytes([PUSH, 16]) + b"0123456789abcdef"
        + serial_read(iir) + serial_read(0) * 17 + serial_read(iir),
        "serial-break": serial_write(fcr, 1) + serial_write(ier, 7) + bytes([PUSH, 1]) + b"a" + bytes([PUSH_BREAK])
        + serial_read(0) + serial_read(iir) + serial_read(lsr) + serial_read(iir),
        "serial-loopback": serial_write(mcr, 0x1F) + serial_write(ier, 0x0F) + serial_write(0, 1) * 2 + serial_read(lsr)
        + serial_read(iir) + serial_read(0) + serial_read(iir) + serial_read(msr) + serial_read(iir),
        "wrong-widths": bytes([READ_PORT, SERIAL, 4, READ_PORT, DOORBELL, 4])
        + bytes([READ_MMIO, EXACT, 0, READ_MMIO, EXACT, 16]),
        "straddle": bytes([READ_PORT, 1 << 5, 2, WRITE_MMIO, 1 << 5, 4, 1, 2, 3, 4]),
        "add-ranges": bytes([ADD_PORT, EVENT, 4, READ_PORT, EVENT, 4, ADD_PORT, DOORBELL, 1])
        + bytes([ADD_MMIO, ANY_ADDRESS]) + struct.pack("<QQ", 0xFFFF_FFFF_FFFF_F000, 0x1000)
        + bytes([READ_MMIO, ANY_ADDRESS]) + struct.pack("<QB", 0xFFFF_FFFF_FFFF_FFFF, 1),
    }


def bzimage(version: int = 0x20F, flags: int = 1, setup_sectors: int = 1, load: int = 0x100_0000, paragraphs: int = 64,
            init_size: int = 0x10_0000) -> bytes:
    """A boot protocol header (kernel document "The Linux/x86 Boot Protocol") and a kernel of zeroes behind it."""
    image = bytearray((setup_sectors + 1) * 512 + 1024)
    for offset, form, value in (
        (0x1F1, "<B", setup_sectors), (0x1F4, "<I", paragraphs), (0x1FE, "<H", 0xAA55), (0x202, "<4s", b"HdrS"),
        (0x206, "<H", version), (0x22C, "<I", 0x7FFF_FFFF), (0x234, "<B", 1), (0x236, "<H", flags),
        (0x238, "<I", 2047), (0x258, "<Q", load), (0x260, "<I", init_size),
    ):  # fmt: skip
        struct.pack_into(form, image, offset, value)
    return bytes(image)


def linux_seeds() -> dict[str, bytes]:
    base = 0x100_0000

    def entry(address: int) -> Program:
        return Program(PT_NOTE, PF_R, 0, note(b"Xen\0", 18, struct.pack("<I", address), 4), 0, 4)

    text = Program(PT_LOAD, PF_R | PF_X, base, b"\xc3" * 16, 0x1000)
    data = Program(PT_LOAD, PF_R | PF_W, base + 0x1000, b"data", 0x2000)
    return {
        "bzimage": bzimage(),
        "old-protocol": bzimage(version=0x206),
        "cut-off": bzimage(paragraphs=0xFFFF),
        "too-high": bzimage(load=2**64 - 4096),
        "too-large": bzimage(init_size=0xFFFF_FFFF),
        "vmlinux": elf([text, data, entry(base)]),
        "no-entry": elf([text]),
        "entry-outside": elf([text, entry(base + 0x1000)]),
        "load-too-low": elf([text._replace(address=0x1000), entry(base)]),
    }


# Steps of fuzz_pc_ports.cc: the first byte modulo 3 says which device; 0x80 writes, 0x40 takes any offset.
def pc_ports_seeds() -> dict[str, bytes]:
    def access(device: int, offset: int, width: int, content: bytes = b"") -> bytes:
        return bytes([device | (0x80 if content else 0), offset, width - 1]) + content

    clock, keyboard, power = 0x81, 0x82, 0x80  # with the bit for writes: 129, 130, 128 modulo 3 are 0, 1, 2
    write = {"clock": clock, "keyboard": keyboard, "power": power}
    read = {"clock": 0, "keyboard": 1, "power": 2}
    times = b"".join(access(write["clock"], 0, 1, bytes([i])) + access(read["clock"], 1, 1) for i in (0, 2, 4, 7, 8, 9))
    return {
        "time": times,
        "ram": access(write["clock"], 0, 1, b"\x40") + access(write["clock"], 1, 1, b"\x5a")
        + access(read["clock"], 1, 1),
        "reset": access(write["keyboard"], 4, 1, b"\xfe") + access(read["keyboard"], 4, 1),
        "off": access(write["power"], 4, 2, struct.pack("<H", 5 << 10 | 1 << 13)) + access(read["power"], 4, 2),
        "timer": access(read["power"], 8, 4) + access(read["power"], 8, 2),
        "widths": access(read["clock"], 0, 1) + access(read["clock"], 1, 8) + access(read["keyboard"], 1, 2),
    }


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "corpus"
    for target, seeds in {"fuzz_elf_loader": elf_seeds(), "fuzz_bus": bus_seeds(), "fuzz_linux_loader": linux_seeds(),
                          "fuzz_pc_ports": pc_ports_seeds()}.items():
        (folder / target).mkdir(parents=True, exist_ok=True)
        for name, content in seeds.items():
            (folder / target / name).write_bytes(content)


if __name__ == "__main__":
    main()
