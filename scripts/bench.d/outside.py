"""What a guest is, seen from outside: its RAM and registers, read from ftd's memory while ftd stands
still. Shares no code with ftd."""

import os
import re
import signal
import struct
import time

# struct kvm_run: the registers that KVM_CAP_SYNC_REGS keeps (include/uapi/linux/kvm.h).
SYNC_REGS = 2048
REGISTERS = 18
# x86: RFLAGS.RF, which a debugger leaves behind.
RF = 1 << 16


def mappings(pid):
    with open(f"/proc/{pid}/maps", encoding="utf-8") as maps:
        for line in maps:
            fields = line.split(None, 5)
            low, high = (int(x, 16) for x in fields[0].split("-"))
            yield low, high, fields[1], fields[5].strip() if len(fields) > 5 else ""


def state_of(pid):
    with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
        return stat.read().rpartition(")")[2].split()[0]


def wait_until_held(process, seconds):
    """Waits until ftd has stopped itself (--hold)."""
    began = time.monotonic()
    while state_of(process.pid) != "T":
        if process.poll() is not None:
            return False
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"ftd did not end in {seconds} s")
        time.sleep(0.01)
    return True


def look(pid, ram_bytes):
    """(registers, RAM) of a process that stands still."""
    ram = registers = None
    with open(f"/proc/{pid}/mem", "rb") as memory:
        for low, high, rights, name in mappings(pid):
            if "kvm-vcpu" in name:
                memory.seek(low + SYNC_REGS)
                registers = list(struct.unpack(f"<{REGISTERS}Q", memory.read(8 * REGISTERS)))
                registers[17] &= ~RF
            elif name == "" and rights == "rw-p" and high - low == ram_bytes:
                memory.seek(low)
                ram = memory.read(ram_bytes)
    if ram is None or registers is None:
        raise RuntimeError(f"guest RAM of {ram_bytes} bytes or vCPU not found in process {pid}")
    return registers, ram


def go_on(process):
    os.kill(process.pid, signal.SIGCONT)


def symbols(elf):
    """Addresses of an ELF64 file's symbols."""
    with open(elf, "rb") as file:
        data = file.read()
    (shoff,) = struct.unpack_from("<Q", data, 0x28)
    shentsize, shnum = struct.unpack_from("<HH", data, 0x3A)
    found = {}
    for index in range(shnum):
        _, kind, _, _, offset, size, link = struct.unpack_from("<IIQQQQI", data, shoff + index * shentsize)
        if kind != 2:  # SHT_SYMTAB
            continue
        (names,) = struct.unpack_from("<Q", data, shoff + link * shentsize + 0x18)
        for at in range(offset, offset + size, 24):
            name, _, _, _, value, _ = struct.unpack_from("<IBBHQQ", data, at)
            text = data[names + name : data.index(b"\0", names + name)].decode()
            found[text] = value
    return found
