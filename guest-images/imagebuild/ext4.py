"""The root file system: `mke2fs -d` from an unpacked tree, then every trace of the build removed.

The tree is unpacked as whoever runs the build, so owners are wrong there and change times are
those of the build. Both are set inode by inode with debugfs, from the archive's own records: no
root rights and no user namespace are needed for it, and every way of building ends in the same
bytes.
"""

import os
import re
import subprocess
import tarfile

UUID = "f7d0d15c-0003-4000-8000-000000000000"
HASH_SEED = "f7d0d15c-0004-4000-8000-000000000000"
JOURNAL_MIB = 16
# Only what the kernel's devtmpfs, and systemd at its start, make anew.
SKIPPED = ("./dev/", "./proc/", "./sys/", "./run/")


def unpack(archive, tree):
    """Unpacks the root archive into the new directory `tree`."""
    os.mkdir(tree)
    skip = [f"--exclude={prefix}*" for prefix in SKIPPED]
    command = ["tar", "--no-same-owner", "--same-permissions", *skip, "-C", tree, "-xf", archive]
    subprocess.run(command, check=True)


def make(image, offset, length, tree, archive, epoch, config):
    """Makes the file system at byte `offset` of the file `image`, `length` bytes long."""
    env = dict(os.environ, E2FSPROGS_FAKE_TIME=str(epoch), MKE2FS_CONFIG=str(config), TZ="UTC")
    options = f"offset={offset},hash_seed={HASH_SEED},root_owner=0:0"
    options += ",lazy_itable_init=0,lazy_journal_init=0,nodiscard"
    command = ["mke2fs", "-q", "-F", "-t", "ext4", "-L", "root", "-U", UUID, "-E", options]
    command += ["-J", f"size={JOURNAL_MIB}", "-m", "1", "-d", str(tree)]
    command += [str(image), f"{length // 1024}k"]
    subprocess.run(command, check=True, env=env)

    target = f"{image}?offset={offset}"
    script = "\n".join(_corrections(_inodes_used(target, env), archive, epoch))
    done = subprocess.run(
        ["debugfs", "-w", "-f", "-", target],
        input=script, capture_output=True, text=True, env=env, check=False,
    )  # fmt: skip
    complaints = [line for line in done.stderr.splitlines() if not line.startswith("debugfs ")]
    if done.returncode or complaints:
        raise subprocess.CalledProcessError(done.returncode, "debugfs", stderr="\n".join(complaints[:5]))


def _inodes_used(target, env):
    stats = subprocess.run(
        ["debugfs", "-R", "stats -h", target], capture_output=True, text=True, env=env, check=True
    ).stdout
    count = int(re.search(r"^Inode count:\s+(\d+)", stats, re.M).group(1))
    free = int(re.search(r"^Free inodes:\s+(\d+)", stats, re.M).group(1))
    return count - free


def _corrections(inodes, archive, epoch):
    # A fresh file system hands inodes out one after another; below 11 are the reserved ones.
    for inode in [2, *range(11, inodes + 1)]:
        for field in ("atime", "ctime"):
            yield f"sif <{inode}> {field} @{epoch}"
        for field in ("uid", "gid"):
            yield f"sif <{inode}> {field} 0"
    with tarfile.open(archive) as members:
        for member in members:
            if member.name.startswith(SKIPPED) or (member.uid, member.gid) == (0, 0):
                continue
            path = member.name.removeprefix(".")
            yield f'sif "{path}" uid {member.uid}'
            yield f'sif "{path}" gid {member.gid}'
