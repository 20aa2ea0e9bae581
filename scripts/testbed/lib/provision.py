"""What hosts are made of, made once and cached: packages, QEMU, kernel, initramfs."""

import contextlib
import fcntl
import glob
import hashlib
import lzma
import os
import re
import shutil
import signal
import struct
import subprocess
import time

from common import HERE, TestbedError, cache_dir, die_with_parent, need_root, run, say, tail

PACKAGES = """busybox-static iproute2 nftables tcpdump python3 qemu-system-data seabios libglib2.0-0
    libpixman-1-0 libfdt1 zlib1g libattr1 libcap-ng0""".split()
ROM_DIRS = ["/usr/share/qemu", "/usr/share/seabios"]
KERNEL_PACKAGE = "linux-image-amd64"
# what a host loads at boot, in addition to what these depend on
MODULES = """virtio_pci virtio_rng 9pnet_virtio 9p virtio_net virtio_blk virtio_console tun veth bridge
    sch_netem kvm_amd dm_mod""".split()
PROGRESS_SECONDS = 20
INITRAMFS_KEPT_SECONDS = 86400
KERNEL_LAYOUT = 2  # raise it when what is kept of the kernel package changes
SIGNATURE_MAGIC = b"~Module signature appended~\n"
SIGNATURE_INFO_BYTES = 12  # struct module_signature, whose last field is the signature's length
XZ_MAGIC = b"\xfd7zXZ\0"


@contextlib.contextmanager
def locked(path):
    """Holds a lock file, so that two instances starting at once make each thing only once."""
    with open(path + ".lock", "w", encoding="ascii") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def missing_packages(packages):
    listing = run(["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *packages], check=False)
    present = {line.split()[0] for line in listing.splitlines() if line.endswith(" installed")}
    return [package for package in packages if package not in present]


def ensure_packages():
    missing = missing_packages(PACKAGES)
    if not missing:
        return
    need_root()
    say(f"installing {' '.join(missing)}")
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
    for command in (install, ["apt-get", "update", "-qq"], install):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if command is install and done.returncode == 0:
            return
    raise TestbedError(f"apt-get install {' '.join(missing)} failed: {done.stderr.strip()}")


def qemu_path():
    """Where the finished QEMU of these patches and build script is, or will be."""
    digest = hashlib.sha256()
    folder = os.path.join(HERE, "qemu")
    for name in sorted(os.listdir(folder)):
        if name != "build" and not name.endswith(".patch"):
            continue
        with open(os.path.join(folder, name), "rb") as handle:
            digest.update(handle.read())
    return cache_dir("qemu", digest.hexdigest()[:16], "qemu-system-x86_64")


def ensure_qemu():
    """Builds QEMU unless the cache has it; returns the program's path."""
    path = qemu_path()
    if os.path.exists(path):
        return path
    need_root()
    with locked(os.path.dirname(path)):
        if not os.path.exists(path):
            say("building QEMU from Debian's source package (about 2 to 4 minutes, once)")
            script = os.path.join(HERE, "qemu", "build")
            build = subprocess.Popen(
                [script, os.path.dirname(path)],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                preexec_fn=lambda: die_with_parent(signal.SIGTERM),
            )
            while True:
                try:
                    output, _ = build.communicate(timeout=PROGRESS_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    say("building QEMU " + tail(os.path.join(os.path.dirname(path), "build.log"), 1)[:60])
            if build.returncode != 0 or not os.path.exists(path):
                raise TestbedError(f"{script} failed:\n{output}")
            say("built " + output.strip())
    return path


def kernel_suffix():
    """Tells this layout and set of modules from others' in the same cache."""
    return "-" + hashlib.sha256(repr((KERNEL_LAYOUT, MODULES)).encode()).hexdigest()[:8]


def ensure_kernel():
    """Fetches Debian's kernel unless the cache has one; returns its directory."""
    base = cache_dir("kernel", "")

    def newest():
        found = glob.glob(os.path.join(base, "*" + kernel_suffix(), "vmlinux"))
        return os.path.dirname(max(found, key=os.path.getmtime)) if found else None

    if newest():
        return newest()
    with locked(cache_dir("kernel")):
        return newest() or fetch_kernel()


def fetch_kernel():
    work = cache_dir("kernel", ".work", "")
    shutil.rmtree(work)
    os.makedirs(work)
    say(f"fetching Debian's {KERNEL_PACKAGE}")
    listing = run(["apt-cache", "depends", KERNEL_PACKAGE], check=False)
    found = re.search(r"Depends: (linux-image-\S+)", listing)
    fetched = found and not subprocess.run(
        ["apt-get", "download", "-qq", found[1]], cwd=work, capture_output=True, check=False
    ).returncode
    if not fetched:  # no package lists, or lists older than the archive
        need_root()
        run(["apt-get", "update", "-qq"])
        found = re.search(r"Depends: (linux-image-\S+)", run(["apt-cache", "depends", KERNEL_PACKAGE]))
        if not found:
            raise TestbedError(f"apt-cache knows no {KERNEL_PACKAGE}: the testbed needs a Debian machine")
        subprocess.run(["apt-get", "download", "-qq", found[1]], cwd=work, capture_output=True, check=True)
    (package,) = glob.glob(os.path.join(work, "*.deb"))
    run(["dpkg-deb", "-x", package, os.path.join(work, "tree")])
    (image,) = glob.glob(os.path.join(work, "tree", "boot", "vmlinuz-*"))
    release = os.path.basename(image).removeprefix("vmlinuz-")
    made = os.path.join(work, release)
    os.makedirs(os.path.join(made, "modules"))
    copy_modules(os.path.join(work, "tree", "lib", "modules", release), os.path.join(made, "modules"))
    shutil.copy(image, os.path.join(made, "vmlinuz"))
    unpack_kernel(image, os.path.join(made, "vmlinux"))
    target = cache_dir("kernel", release + kernel_suffix())
    shutil.rmtree(target, ignore_errors=True)
    os.rename(made, target)
    shutil.rmtree(work)
    say(f"kernel {release} is ready")
    return target


def unpack_kernel(image, target):
    """Takes the ELF out of a bzImage: emulated decompression would cost each start two seconds."""
    with open(image, "rb") as handle:
        data = handle.read()
    setup_sectors = data[0x1F1] or 4
    offset, length = struct.unpack_from("<II", data, 0x248)  # payload_offset, payload_length
    payload = data[(setup_sectors + 1) * 512 + offset :][:length]
    if not payload.startswith(XZ_MAGIC):
        raise TestbedError(f"{image}: the payload is not xz, as Debian's was when this was written")
    with open(target, "wb") as handle:
        handle.write(lzma.LZMADecompressor().decompress(payload))


def without_signature(module):
    """The module itself: checking thirty signatures would cost each emulated start a second."""
    if not module.endswith(SIGNATURE_MAGIC):
        return module
    body = module[: -len(SIGNATURE_MAGIC)]
    (length,) = struct.unpack(">I", body[-4:])
    return body[: -SIGNATURE_INFO_BYTES - length]


def copy_modules(source, target):
    """Copies MODULES and their dependencies, and writes `order`: dependencies first."""
    paths = {}
    for path in glob.glob(os.path.join(source, "kernel", "**", "*.ko"), recursive=True):
        paths[os.path.basename(path)[:-3].replace("-", "_")] = path
    order = []

    def visit(name):
        if name in order:
            return
        if name not in paths:
            return  # built in
        with open(paths[name], "rb") as handle:
            depends = re.search(rb"\0depends=([^\0]*)\0", handle.read())
        for other in (depends[1].decode() if depends else "").split(","):
            if other:
                visit(other.replace("-", "_"))
        order.append(name)

    for name in MODULES:
        visit(name)
    for name in order:
        with open(paths[name], "rb") as handle:
            module = without_signature(handle.read())
        with open(os.path.join(target, name + ".ko"), "wb") as handle:
            handle.write(module)
    with open(os.path.join(target, "order"), "w", encoding="ascii") as handle:
        handle.write("\n".join(order) + "\n")


def cpio_entry(name, mode, content=b"", device=(0, 0)):
    """One member of a newc archive."""
    encoded = name.encode() + b"\0"
    fields = [0, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(encoded), 0]
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
    return head + b"\0" * (-len(head) % 4) + content + b"\0" * (-len(content) % 4)


def ensure_initramfs(kernel):
    """Packs the initramfs unless the cache has the same; returns its path."""
    files = {
        "init": os.path.join(HERE, "host-init"),
        "testbed/stage2": os.path.join(HERE, "host-stage2"),
        "testbed/agent.py": os.path.join(HERE, "agent.py"),
        "bin/busybox": "/bin/busybox",
    }
    for path in sorted(glob.glob(os.path.join(kernel, "modules", "*"))):
        files["modules/" + os.path.basename(path)] = path
    archive = [cpio_entry(name, 0o040755) for name in
               ("bin", "dev", "proc", "sys", "newroot", "stage", "modules", "testbed")]
    archive.append(cpio_entry("dev/console", 0o020600, device=(5, 1)))
    for applet in run(["/bin/busybox", "--list"]).split():
        if applet != "busybox":
            archive.append(cpio_entry("bin/" + applet, 0o120777, b"busybox"))
    for name, path in files.items():
        with open(path, "rb") as handle:
            archive.append(cpio_entry(name, 0o100755, handle.read()))
    archive.append(cpio_entry("TRAILER!!!", 0))
    data = b"".join(archive)
    path = cache_dir("initramfs", hashlib.sha256(data).hexdigest()[:16] + ".cpio")
    if not os.path.exists(path):
        partial = f"{path}.{os.getpid()}"
        with open(partial, "wb") as handle:
            handle.write(data)
        os.rename(partial, path)
        for old in glob.glob(os.path.join(os.path.dirname(path), "*.cpio*")):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - os.path.getmtime(old) > INITRAMFS_KEPT_SECONDS:
                    os.unlink(old)
    return path


def ensure_all():
    """Everything a host needs: (qemu, kernel directory, initramfs)."""
    ensure_packages()
    qemu = ensure_qemu()
    kernel = ensure_kernel()
    return qemu, kernel, ensure_initramfs(kernel)
