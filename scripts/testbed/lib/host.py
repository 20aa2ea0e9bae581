"""One emulated host: a QEMU process, from its command line to its end."""

import os
import select
import signal
import subprocess
import time

import network
from common import TestbedError, die_with_parent, enter_namespace, tail
from provision import ROM_DIRS

READY_MARK = b"testbed: the agent is ready"
KILL_SECONDS = 10
# A frame leaves as a wire would carry it: no partial checksums, no segments above the MTU.
NIC_OPTIONS = (
    "romfile=,csum=off,gso=off,host_tso4=off,host_tso6=off,host_ecn=off,host_ufo=off,guest_csum=off,"
    "guest_tso4=off,guest_tso6=off,guest_ecn=off,guest_ufo=off"
)
# panic=-1 ends the process at a kernel panic (-no-reboot). The rest shortens an emulated boot: acpi=noirq
# spares the AML of the PCI links (a fifth of a second a device), rodata=off the splitting of huge pages,
# mitigations=off their price; none of them changes what KVM does.
CMDLINE = (
    "console=ttyS0 panic=-1 quiet loglevel=3 mitigations=off nokaslr nmi_watchdog=0 tsc=reliable "
    "acpi=noirq rodata=off cryptomgr.notests=1 ipv6.disable=1 audit=0 rcupdate.rcu_expedited=1 "
    "random.trust_cpu=on i8042.noaux"
)


def stat(pid):
    """What proc(5) tells of a process in its `stat`, from the state on; None if it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as handle:
            fields = handle.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields


def start_time(pid):
    """When the process started, in ticks since boot, or None if it is gone; with the pid, its identity."""
    fields = stat(pid)
    return fields and int(fields[19])


def boot_id():
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as handle:
        return handle.read().strip()


class Host:
    def __init__(self, number, directory, namespace):
        self.number = number
        self.name = f"host{number}"
        self.namespace = namespace
        self.console = os.path.join(directory, f"{self.name}.console")
        self.qemu_log = os.path.join(directory, f"{self.name}.qemu.log")
        self.pid_file = os.path.join(directory, f"{self.name}.pid")
        self.netem_file = os.path.join(directory, f"{self.name}.netem.json")

    def pid(self):
        """The pid of the running QEMU, or None: never that of another process which got its number."""
        try:
            with open(self.pid_file, encoding="ascii") as handle:
                pid, started, boot = handle.read().split()
        except (OSError, ValueError):
            return None
        alive = boot == boot_id() and start_time(int(pid)) == int(started)
        return int(pid) if alive else None

    def command(self, machine, options):
        qemu, kernel, initramfs = machine
        argv = [qemu, "-name", f"{self.namespace}-{self.name}"]
        for directory in ROM_DIRS:
            argv += ["-L", directory]
        # TCG runs `rep stosb` and `rep movsb` byte by byte; without ERMS and FSRM the kernel and libc
        # take wider instructions: fresh memory costs a third, copies inside the kernel less still.
        argv += ["-machine", "pc", "-cpu", "max,+svm,+npt,-erms,-fsrm", "-m", str(options["memory_mib"])]
        argv += ["-smp", str(options["cpus"])]
        if options["pmu"]:
            argv += ["-accel", "tcg", "-icount", "shift=0,sleep=on"]
        else:
            argv += ["-accel", "tcg,thread=multi"]
        argv += ["-nodefaults", "-no-user-config", "-display", "none", "-vga", "none", "-no-reboot"]
        argv += ["-chardev", f"file,id=console,path={self.console},append=on"]
        argv += ["-serial", "chardev:console", "-device", "virtio-rng-pci"]
        argv += ["-kernel", os.path.join(kernel, "vmlinux"), "-initrd", initramfs]
        own = (
            f"TB_HOST={self.number} TB_HOSTS={options['hosts']} TB_CACHE={options['root_cache']} "
            f"TB_SHARES={':'.join(options['shares'])}"
        )
        argv += ["-append", f"{CMDLINE} {own}"]
        for tag, path in (("root", "/"), ("usr", "/usr")):
            argv += ["-virtfs", f"local,path={path},mount_tag={tag},security_model=none,multidevs=remap"]
        for net in network.NETS:
            tap = network.tap(self.number, net)
            argv += ["-netdev", f"tap,id={net},ifname={tap},script=no,downscript=no"]
            mac = network.mac(self.number, net)
            argv += ["-device", f"virtio-net-pci,netdev={net},mac={mac},{NIC_OPTIONS}"]
        for index, disk in enumerate(options["disks"]):
            # O_DIRECT and no lock: every host opens the same file and must see the others' writes
            where = disk.replace(",", ",,")
            argv += [
                "-drive",
                f"file={where},format=raw,if=none,id=disk{index},cache=none,file.locking=off",
                "-device",
                f"virtio-blk-pci,drive=disk{index},share-rw=on",
            ]
        return argv

    def start(self, machine, options, with_parent):
        """Powers the host on; `with_parent`: it goes down with the calling process, however that ends."""
        if self.pid():
            raise TestbedError(f"{self.name} is already on")
        for path in (self.console, self.netem_file):
            if os.path.exists(path):
                os.unlink(path)

        def prepare():
            enter_namespace(self.namespace)
            if with_parent:
                die_with_parent(signal.SIGKILL)

        with open(self.qemu_log, "wb") as log:
            process = subprocess.Popen(
                self.command(machine, options),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=prepare,
            )
        with open(self.pid_file, "w", encoding="ascii") as handle:
            handle.write(f"{process.pid} {start_time(process.pid) or 0} {boot_id()}\n")
        return process

    def is_ready(self):
        """Whether the agent of this start listens; an error if the host has died on the way."""
        try:
            with open(self.console, "rb") as handle:
                if READY_MARK in handle.read():
                    return True
        except OSError:
            pass
        if not self.pid():
            raise TestbedError(f"{self.name} ended while starting\n{self.evidence()}")
        return False

    def load(self):
        """Of one CPU, what the host takes right now: near 0 if it waits for something, 1 if it spins."""
        def ticks():
            fields = stat(self.pid())
            return int(fields[11]) + int(fields[12]) if fields else 0

        before = ticks()
        time.sleep(1)
        return (ticks() - before) / os.sysconf("SC_CLK_TCK")

    def evidence(self):
        """What is known of a host that failed."""
        parts = []
        for title, path in (("console", self.console), ("qemu", self.qemu_log)):
            text = tail(path, 40)
            if text:
                parts.append(f"--- {self.name} {title}, last lines of {path}\n{text}")
        return "\n".join(parts) or "its console is empty and QEMU said nothing"

    def signal(self, number):
        """Sends a signal to the QEMU process and no other. Returns whether it was there."""
        pid = self.pid()
        if pid is None:
            return False
        descriptor = os.pidfd_open(pid)
        try:
            if self.pid() != pid:  # the number was reused between the two looks
                return False
            signal.pidfd_send_signal(descriptor, number)
            if number == signal.SIGKILL:
                select.select([descriptor], [], [], KILL_SECONDS)
            return True
        except ProcessLookupError:
            return False
        finally:
            os.close(descriptor)

    def kill(self):
        """Cuts the power: nothing in the host gets a say. Returns whether it was on."""
        return self.signal(signal.SIGKILL)
