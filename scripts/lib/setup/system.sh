# shellcheck shell=bash
# System packages, by apt. What is there already is found by looking for what the package brings, so that a machine that got it
# in another way is left alone.

# as_root COMMAND…
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    else
        sudo -n env DEBIAN_FRONTEND=noninteractive "$@"
    fi
}

# apt_install PACKAGE…
apt_install() {
    command -v apt-get >/dev/null || fail "this machine has no apt; install what corresponds to: $*"
    if [ "$(id -u)" != 0 ] && ! sudo -n true 2>/dev/null; then
        fail "root is needed to install packages. Run this once as root, or: apt-get install $*"
    fi
    local log=$cache/apt.log
    say "installing $*"
    apt_update_once
    if ! as_root apt-get install -y -qq --no-install-recommends "$@" >"$log" 2>&1 </dev/null; then
        tail -n 20 "$log" >&2
        fail "apt could not install: $*"
    fi
}

apt_updated=
apt_update_once() {
    [ -n "$apt_updated" ] && return
    # A third-party source that is out of reach must not stop us: apt-get install will say what it misses.
    as_root apt-get update -qq >&2 || say "apt-get update had errors; going on"
    apt_updated=yes
}

install_system_packages() {
    local missing=()
    # need PACKAGE COMMAND-OR-FILE
    need() { command -v "$2" >/dev/null || [ -e "$2" ] || missing+=("$1"); }

    need python3 python3
    need xz-utils xz
    need ca-certificates /etc/ssl/certs/ca-certificates.crt
    need shellcheck shellcheck
    need gcc cc
    need libc6-dev "/usr/include/$arch-linux-gnu/sys/types.h"
    need qemu-system-arm qemu-system-aarch64
    if [ "$arch" = x86_64 ]; then
        need gcc-aarch64-linux-gnu aarch64-linux-gnu-gcc
        need libc6-dev-arm64-cross /usr/aarch64-linux-gnu/lib/libc.a
        need linux-libc-dev-arm64-cross /usr/aarch64-linux-gnu/include/linux/kvm.h
    fi
    [ ${#missing[@]} = 0 ] || apt_install "${missing[@]}"
    python3 -c 'import sys, lzma; sys.exit(sys.version_info < (3, 10))' ||
        fail "$(command -v python3) is older than 3.10 or lacks lzma; put another python3 first on PATH"
}
