"""A GUID partition table with one partition (UEFI 2.10, section 5.3) and a protective MBR."""

import struct
import uuid
import zlib

SECTOR_BYTES = 512
ENTRIES = 128
ENTRY_BYTES = 128
ENTRIES_SECTORS = ENTRIES * ENTRY_BYTES // SECTOR_BYTES
ALIGN_BYTES = 1 << 20

DISK_GUID = uuid.UUID("f7d0d15c-0001-4000-8000-000000000000")
PARTITION_GUID = uuid.UUID("f7d0d15c-0002-4000-8000-000000000000")
# "Linux root (x86-64)" of the Discoverable Partitions Specification.
ROOT_X86_64_TYPE = uuid.UUID("4f68bce3-e8cd-4db1-96e7-fbcaf984b709")


def partition_range(disk_bytes):
    """Byte offset and length of the root partition on a disk of `disk_bytes`."""
    return ALIGN_BYTES, disk_bytes - 2 * ALIGN_BYTES


def write(image, disk_bytes):
    """Writes the protective MBR and both copies of the table into the open file `image`."""
    sectors = disk_bytes // SECTOR_BYTES
    start, length = partition_range(disk_bytes)
    first, last = start // SECTOR_BYTES, (start + length) // SECTOR_BYTES - 1
    entry = ROOT_X86_64_TYPE.bytes_le + PARTITION_GUID.bytes_le
    entry += struct.pack("<QQQ", first, last, 0) + "root".encode("utf-16-le").ljust(72, b"\0")
    entries = entry.ljust(ENTRIES * ENTRY_BYTES, b"\0")

    backup = sectors - 1
    copies = [
        (1, backup, 2),
        (backup, 1, backup - ENTRIES_SECTORS),
    ]
    _put(image, 0, _protective_mbr(sectors))
    for here, other, table in copies:
        _put(image, here, _header(here, other, table, sectors, entries))
        _put(image, table, entries)


def _put(image, sector, data):
    image.seek(sector * SECTOR_BYTES)
    image.write(data)


def _protective_mbr(sectors):
    size = min(sectors - 1, 0xFFFFFFFF)
    record = struct.pack("<B3sB3sII", 0, b"\x00\x02\x00", 0xEE, b"\xff\xff\xff", 1, size)
    return bytes(446) + record.ljust(64, b"\0") + b"\x55\xaa"


def _header(here, other, table, sectors, entries):
    usable = 2 + ENTRIES_SECTORS, sectors - 2 - ENTRIES_SECTORS

    def pack(crc):
        return struct.pack(
            "<8sIIIIQQQQ16sQIII",
            b"EFI PART", 0x10000, 92, crc, 0,
            here, other, *usable, DISK_GUID.bytes_le,
            table, ENTRIES, ENTRY_BYTES, zlib.crc32(entries),
        )  # fmt: skip

    return pack(zlib.crc32(pack(0))).ljust(SECTOR_BYTES, b"\0")
