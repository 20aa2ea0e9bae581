"""The machine's own Debian mirrors, read from its apt sources."""

import pathlib
import re
import subprocess

SUITES = ("bookworm", "bookworm-updates", "bookworm-security")


class AptError(Exception):
    """The apt configuration of this machine names no usable mirror."""


def sources(root=pathlib.Path("/etc/apt")):
    """One-line `deb` entries for bookworm's main component, in a fixed order.

    Entries for other distributions, suites and components are left out, so that a third party's
    repository on the build machine never gets into an image.
    """
    entries = []
    for path in [root / "sources.list", *sorted((root / "sources.list.d").glob("*"))]:
        if not path.is_file():
            continue
        text = path.read_text(errors="replace")
        if path.suffix == ".sources":
            entries += _deb822(text)
        elif path.suffix == ".list":
            entries += _one_line(text)
    lines = []
    for suite in SUITES:
        for signed_by, uri in sorted({(s, u) for s, u, name in entries if name == suite}):
            option = f"[signed-by={signed_by}] " if signed_by else ""
            lines.append(f"deb {option}{uri} {suite} main")
    if not any(line.endswith(" bookworm main") for line in lines):
        raise AptError(f"{root} configures no mirror of Debian bookworm's main component")
    return lines


def _wanted(types, uris, suites, components, signed_by):
    if "deb" not in types or "main" not in components:
        return []
    keyring = signed_by if signed_by.startswith("/") else ""
    return [(keyring, uri, suite) for uri in uris for suite in suites if suite in SUITES]


def _deb822(text):
    found = []
    text = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for stanza in re.split(r"\n\s*\n", text):
        fields, name = {}, None
        for line in stanza.splitlines():
            if line[:1].isspace() and name:
                fields[name] += " " + line.strip()
            elif ":" in line:
                name, value = line.split(":", 1)
                name = name.lower()
                fields[name] = value.strip()
        if fields.get("enabled", "yes").lower() in ("no", "false", "0"):
            continue
        split = {key: fields.get(key, "").split() for key in ("types", "uris", "suites", "components")}
        found += _wanted(**split, signed_by=fields.get("signed-by", ""))
    return found


def _one_line(text):
    found = []
    for line in text.splitlines():
        match = re.match(r"\s*(deb)\s+(?:\[([^]]*)\]\s+)?(\S+)\s+(\S+)\s+([^#]*)", line)
        if match:
            kind, options, uri, suite, components = match.groups()
            signed_by = re.search(r"signed-by=(\S+)", options or "")
            found += _wanted(
                [kind], [uri], [suite], components.split(), signed_by.group(1) if signed_by else ""
            )
    return found


def proxy_options():
    """The machine's apt proxy settings as mmdebstrap `--aptopt` arguments."""
    dump = subprocess.run(
        ["apt-config", "dump", "--format", '%f "%v";%n'], capture_output=True, text=True, check=False
    )
    wanted = re.compile(r"^Acquire::(https?::Proxy|Retries)\S* ")
    return [f"--aptopt={line}" for line in dump.stdout.splitlines() if wanted.match(line)]
