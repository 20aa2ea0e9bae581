"""Files into, and out of, the root file system of a guest's image, without mounting it."""

import json
import os
import subprocess
import tempfile


def root(image):
    """What debugfs calls the file system of the image's first partition."""
    dump = subprocess.run(["sfdisk", "--json", image], capture_output=True, text=True, check=True)
    start = json.loads(dump.stdout)["partitiontable"]["partitions"][0]["start"] * 512
    return f"{image}?offset={start}"


def copy(image, to):
    """A copy of the image that its guest may write to."""
    subprocess.run(["cp", "--sparse=always", image, to], check=True)
    os.chmod(to, 0o600)


def put(image, text, path, mode=0o644):
    with tempfile.TemporaryDirectory() as folder:
        source = os.path.join(folder, "file")
        with open(source, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(source, mode)
        debugfs(image, f"write {source} {path}")


def put_program(image, source, path):
    debugfs(image, f"write {source} {path}")
    debugfs(image, f"set_inode_field {path} mode 0100755")


def link(image, path, target):
    debugfs(image, f"symlink {path} {target}")


def debugfs(image, command):
    """A command that writes. debugfs ends with 0 whatever happens, and says what did on stderr, below its name."""
    done = subprocess.run(["debugfs", "-w", "-R", command, root(image)], capture_output=True, text=True, check=True)
    told = [line for line in done.stderr.splitlines() if not line.startswith("debugfs ")]
    if told:
        raise OSError(f"debugfs {command}: {told}")


def boot_files(image, folder):
    """The kernel, initrd and command line of the image, for QEMU."""
    disk = root(image)

    def read(path, into=None):
        command = f"cat {path}" if into is None else f"dump {path} {into}"
        done = subprocess.run(["debugfs", "-R", command, disk], capture_output=True, check=True)
        return done.stdout.decode()

    names = read("/boot/loader/entries/debian.conf")
    entry = dict(line.split(None, 1) for line in names.splitlines() if len(line.split(None, 1)) == 2)
    files = {}
    for key in ("linux", "initrd"):
        files[key] = os.path.join(folder, key)
        path = entry[key].strip()
        read(path if path.startswith("/boot") else "/boot" + path, files[key])
    return files["linux"], files["initrd"], entry["options"].strip()
