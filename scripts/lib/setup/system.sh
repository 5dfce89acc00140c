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

# apt_install PACKAGE…: with the options in apt_options, if there are any.
apt_options=()
apt_install() {
    command -v apt-get >/dev/null || fail "this machine has no apt; install what corresponds to: $*"
    if [ "$(id -u)" != 0 ] && ! sudo -n true 2>/dev/null; then
        fail "root is needed to install packages. Run this once as root, or: apt-get install $*"
    fi
    local log=$cache/apt.log
    say "installing $*"
    apt_update_once
    if ! as_root apt-get install -y -qq --no-install-recommends "${apt_options[@]}" "$@" >"$log" 2>&1 </dev/null; then
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
    need e2fsprogs /sbin/mke2fs
    need libc6-dev "/usr/include/$arch-linux-gnu/sys/types.h"
    if [ "$arch" = x86_64 ]; then
        need gcc-aarch64-linux-gnu aarch64-linux-gnu-gcc
        need libc6-dev-arm64-cross /usr/aarch64-linux-gnu/lib/libc.a
        need linux-libc-dev-arm64-cross /usr/aarch64-linux-gnu/include/linux/kvm.h
    fi
    # Debian has that part of Python in a package of its own.
    python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
    [ ${#missing[@]} = 0 ] || apt_install "${missing[@]}"
    emulator_fits || install_emulator
    python3 -c 'import sys, lzma; sys.exit(sys.version_info < (3, 10))' ||
        fail "$(command -v python3) is older than 3.10 or lacks lzma; put another python3 first on PATH"
}

# emulator_fits: QEMU is there, and is not version 7, which gives all granules of a page one tag.
emulator_fits() {
    command -v qemu-system-aarch64 >/dev/null && [[ ! $(qemu-system-aarch64 --version) =~ version\ 7\. ]] || return 1
    # The monitor that our device processes must serve, too.
    [ "$arch" != x86_64 ] || command -v qemu-system-x86_64 >/dev/null
}

# Debian 12 has version 7; a later one is among its backports, which are read by themselves: the machine's sources stay as they are.
install_emulator() {
    local folder=$cache/apt-backports packages=(qemu-system-arm)
    [ "$arch" != x86_64 ] || packages+=(qemu-system-x86)
    apt_update_once
    if ! [[ $(apt-cache policy "${packages[@]}") =~ Candidate:\ [0-9]+:7\. ]]; then
        apt_install "${packages[@]}"
    else
        find_debian_mirrors
        mkdir -p "$folder/lists/partial"
        cat >"$folder/sources.list" <<EOF
deb [targets=Packages lang=none] $main $debian_release main
deb [targets=Packages lang=none] $security $debian_release-security main
deb [targets=Packages lang=none] $main $debian_release-backports main
EOF
        apt_options=(-o "Dir::Etc::SourceList=$folder/sources.list" -o Dir::Etc::SourceParts=/dev/null
            -o "Dir::State::Lists=$folder/lists" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o APT::Sandbox::User=root)
        as_root apt-get update -qq "${apt_options[@]}" >&2 || fail "cannot read Debian's backports at $main"
        apt_options+=(-t "$debian_release-backports")
        apt_install "${packages[@]}" qemu-system-common qemu-system-data
        apt_options=()
    fi
    hash -r
    emulator_fits || fail "$(qemu-system-aarch64 --version | sed -n 1p) gives wrong tags and no later one is to be had: 8.0 is needed"
}
