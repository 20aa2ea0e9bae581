"""Debian's root file system as a tar archive, made by mmdebstrap as root or not."""

import io
import os
import pathlib
import pwd
import re
import shutil
import subprocess
import tarfile

from . import apt

# Every file of the image carries a time no later than this (2025-01-01). An image must not depend
# on when it was built; the Debian packages in it keep their own, older times.
EPOCH = 1735689600


class BootstrapError(Exception):
    """mmdebstrap failed, or can't work here."""


def choose_mode(wanted):
    """mmdebstrap's mode: the machine's root, a user namespace, or library interposition."""
    if wanted != "auto":
        return wanted
    if os.geteuid() == 0:
        return "root"
    if _may_map_ids():
        return "unshare"
    if shutil.which("fakechroot") and shutil.which("fakeroot"):
        return "fakechroot"
    raise BootstrapError(
        "not root, and no user namespace with subordinate ids: install uidmap and add lines for "
        f"{_user()} to /etc/subuid and /etc/subgid, or install fakechroot and fakeroot"
    )


def _user():
    return pwd.getpwuid(os.getuid()).pw_name


def _may_map_ids():
    names = (_user(), str(os.getuid()))
    for path in ("/etc/subuid", "/etc/subgid"):
        try:
            lines = pathlib.Path(path).read_text().splitlines()
        except OSError:
            return False
        if not any(line.split(":")[0] in names for line in lines):
            return False
    if not shutil.which("newuidmap"):
        return False
    return subprocess.run(["unshare", "-Ur", "true"], capture_output=True, check=False).returncode == 0


def packages(recipe):
    """The package names of the recipe directory's list."""
    lines = (recipe / "packages").read_text().splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def _overlay(recipe, generated, target):
    """Packs the overlay and the generated files, all root's and all of one time."""
    files = {}
    for path in sorted((recipe / "overlay").rglob("*")):
        if path.is_file():
            mode = 0o755 if os.access(path, os.X_OK) else 0o644
            files[str(path.relative_to(recipe / "overlay"))] = (mode, path.read_bytes())
    for name, text in generated.items():
        files[name] = (0o644, text.encode())
    for name in ("setup", "masked-units", "masked-generators"):
        mode = 0o755 if name == "setup" else 0o644
        files[f"var/tmp/{name}"] = (mode, (recipe / name).read_bytes())
    directories = {str(parent) for name in files for parent in pathlib.PurePath(name).parents}
    with tarfile.open(target, "w") as archive:
        for name in sorted(directories - {".", "etc", "var", "var/tmp"}):
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, EPOCH
            archive.addfile(info)
        for name, (mode, data) in sorted(files.items()):
            info = tarfile.TarInfo(name)
            info.mode, info.mtime, info.size = mode, EPOCH, len(data)
            archive.addfile(info, io.BytesIO(data))


def run(recipe, more, generated, work, debs, mode, say):
    """Makes `work`/root.tar, with the recipe's packages and `more`, and returns its path; `debs` keeps downloaded packages."""
    _overlay(recipe, generated, work / "overlay.tar")
    debs.mkdir(parents=True, exist_ok=True)
    archives = "/var/cache/apt/archives"
    target = work / "root.tar"
    command = [
        "mmdebstrap", f"--mode={mode}", "--variant=essential", "--format=tar", "--architectures=amd64",
        f"--include={','.join([*packages(recipe), *more])}",
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-include=/usr/share/doc/*/copyright",
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
        "--dpkgopt=path-exclude=/usr/share/i18n/*",
        "--aptopt=Acquire::Languages \"none\"",
        *apt.proxy_options(),
        # Downloaded packages are kept between builds.
        "--skip=essential/unlink",
        f"--setup-hook=mkdir -p \"$1\"{archives}",
        f"--setup-hook=sync-in {debs} {archives}",
        "--essential-hook=tar-in overlay.tar /",
        # Some packages' alternatives want it, although manuals are left out.
        "--essential-hook=mkdir -p \"$1\"/usr/share/man/man1",
        f"--customize-hook=sync-out {archives} {debs}",
        "--customize-hook=chroot \"$1\" /var/tmp/setup",
        "bookworm", str(target), "-",
    ]  # fmt: skip
    env = dict(os.environ, SOURCE_DATE_EPOCH=str(EPOCH), LC_ALL="C.UTF-8", TZ="UTC", PWD=str(work))
    log = work / "mmdebstrap.log"
    with log.open("w") as record:
        process = subprocess.Popen(
            command, cwd=work, env=env, text=True, errors="replace",
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        process.stdin.write("\n".join(apt.sources()) + "\n")
        process.stdin.close()
        for line in process.stdout:
            record.write(line)
            step = re.match(r"I: (.*?)\.*$", line)
            if step:
                say(f"  {step.group(1)}")
    if process.wait():
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-25:])
        raise BootstrapError(f"mmdebstrap failed:\n{tail}")
    _forget_old(debs, target)
    return target


def _forget_old(debs, archive):
    """Removes kept packages that the image does not hold, and apt's own files beside them."""
    with tarfile.open(archive) as members:
        status = members.extractfile("./var/lib/dpkg/status").read().decode()
    held = set()
    for stanza in status.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Version|Architecture): (.*)$", stanza, re.M))
        if fields:
            version = fields["Version"].replace(":", "%3a")
            held.add(f"{fields['Package']}_{version}_{fields['Architecture']}.deb")
    for path in debs.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name not in held:
            path.unlink()
    return held
