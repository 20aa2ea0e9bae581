# Shared by the scripts: where things are, and what they are made of. Sourced, not run.

FTD_CACHE=${FTD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ftd}
export FTD_CACHE

say() { printf '\033[1m%s\033[0m\n' "$*" >&2; }

# need PACKAGE...: installs the Debian packages that are missing.
need() {
    local missing=() package
    for package in "$@"; do
        dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed ||
            missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return
    if [ "$(id -u)" -ne 0 ]; then
        echo "please install, or run this as root: ${missing[*]}" >&2
        exit 1
    fi
    say "installing ${missing[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        "${missing[@]}" >/dev/null
}

# build_ftd: builds the program; its path is in $FTD afterwards.
build_ftd() {
    need gcc libc6-dev
    say "building ftd"
    cargo build --release --locked -p ftd >&2 || return 1
    FTD=${CARGO_TARGET_DIR:-target}/release/ftd
}

# guest_image: builds the Debian guest if it isn't there; its path is in $IMAGE afterwards.
guest_image() {
    mkdir -p "$FTD_CACHE"
    IMAGE=$FTD_CACHE/debian-guest.raw
    say "Debian guest image"
    guest-images/build --output "$IMAGE" >&2 || return 1
}
