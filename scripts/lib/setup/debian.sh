# shellcheck shell=bash
# Debian's arm64 packages, unpacked into the cache and never installed. They come through an apt of their own, with its own lists
# in the cache: neither the machine's sources nor its architectures change, no root is needed, and Debian 12's kernels (which is
# where both 6.12 and 6.1 are) can be had on Debian 13 and Ubuntu too.

debian_release=bookworm
debian_state=$cache/apt

# cache folder → package whose dependency names the real one
declare -A kernel_packages=(
    [6.12]=linux-image-6.12-arm64
    [6.12-cloud]=linux-image-6.12-cloud-arm64
    [6.1]=linux-image-arm64
    [6.1-cloud]=linux-image-cloud-arm64
)
# For a guest of QEMU on an x86-64 machine, which our device processes serve as they serve our own.
[ "$(uname -m)" != x86_64 ] || kernel_packages[6.12-cloud-amd64]=linux-image-6.12-cloud-amd64:amd64

# What is kept of the drivers' modules; the rest, most of the package, is for hardware that no emulated machine has.
kept_drivers=(net block char vhost virtio vfio nvdimm md dax input gpio watchdog)

fetch_kernels() {
    local folder
    for folder in "${!kernel_packages[@]}"; do
        [ "$(cat "$cache/kernels/$folder/drivers" 2>/dev/null)" = "${kept_drivers[*]}" ] || fetch_kernel "$folder" "${kernel_packages[$folder]}"
    done
}

# fetch_kernel FOLDER METAPACKAGE
fetch_kernel() {
    local folder=$1 meta=$2 real
    debian_apt_ready
    real=$(debian_apt apt-cache depends "$meta" 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[^ ]*\).*/\1/p' | sed -n 1p)
    case $real in
    linux-image-"${folder%%-*}"*) ;;
    *)
        # 6.12 is what everything else stands on; without 6.1 only the tests of an old host cannot run.
        [ "${folder%%-*}" = 6.1 ] || fail "Debian's sources have no $meta"
        say "Debian's sources have no kernel 6.1 ($meta): --host 6.1 will not work here"
        return 0
        ;;
    esac
    unpack "kernels/$folder" "$real" finish_kernel
}

# finish_kernel FOLDER: names the Image, and drops modules that nobody needs.
finish_kernel() {
    local modules name kept=()
    mv "$1"/boot/vmlinuz-* "$1/Image"
    modules=$(echo "$1"/lib/modules/*/kernel)
    rm -rf "$modules/sound"
    for name in "${kept_drivers[@]}"; do
        kept+=(! -name "$name")
    done
    find "$modules/drivers" -mindepth 1 -maxdepth 1 "${kept[@]}" -exec rm -r {} +
    echo "${kept_drivers[*]}" >"$1/drivers"
}

fetch_busybox() {
    [ "$(uname -m)" != x86_64 ] || [ -e "$cache/busybox-amd64/package" ] || unpack busybox-amd64 busybox-static:amd64 true
    [ -e "$cache/busybox/package" ] || unpack busybox busybox-static true
}

# unpack FOLDER PACKAGES FINISH: downloads packages and unpacks them to $cache/FOLDER; FINISH is called with the folder before it
# gets its name. The file "package" in it says which package it is, and that it is whole.
unpack() {
    local folder=$1 finish=$3 work package
    local -a packages
    read -ra packages <<<"$2"
    debian_apt_ready
    say "fetching ${packages[*]}"
    work=$(mktemp -d "$cache/unpack.XXXXXX")
    (cd "$work" && debian_apt apt-get download -qq "${packages[@]}" >&2) || fail "cannot download ${packages[*]}"
    mkdir "$work/tree"
    for package in "$work"/*.deb; do
        dpkg -x "$package" "$work/tree"
    done
    "$finish" "$work/tree"
    (cd "$work" && echo *.deb) >"$work/tree/package"
    mkdir -p "$(dirname "$cache/$folder")"
    rm -rf "${cache:?}/$folder"
    mv "$work/tree" "$cache/$folder"
    rm -r "$work"
}

# debian_apt apt-get|apt-cache ARGUMENT…
debian_apt() {
    local tool=$1
    shift
    "$tool" -o Dir::Etc::SourceList="$debian_state/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::State="$debian_state" -o Dir::State::Lists="$debian_state/lists" -o Dir::State::status="$debian_state/status" \
        -o Dir::Cache="$debian_state" -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o APT::Architectures::=amd64 -o APT::Sandbox::User="$(id -un)" "$@"
}

# arm64_closure PACKAGE…: the names of packages and of all that they depend on.
arm64_closure() {
    debian_apt apt-get install -s --no-install-recommends "$@" | sed -n 's/^Inst \([^ ]*\) .*/\1/p'
}

debian_ready=
debian_apt_ready() {
    local options key
    [ -n "$debian_ready" ] && return
    find_debian_mirrors
    options="targets=Packages lang=none"
    key=/usr/share/keyrings/debian-archive-keyring.gpg
    [ -e "$key" ] || apt_install debian-archive-keyring
    options+=" signed-by=$key"
    mkdir -p "$debian_state/lists/partial" "$debian_state/archives/partial"
    : >"$debian_state/status"
    cat >"$debian_state/sources.list" <<EOF
deb [$options] $main $debian_release main
deb [$options] $security $debian_release-security main
EOF
    say "reading Debian's package lists"
    debian_apt apt-get update -qq >&2 || fail "cannot read the package lists of $main and $security"
    debian_ready=yes
}

# find_debian_mirrors: sets main and security, from what was given, else from the machine's own apt sources, else from
# mmdebstrap, which knows where Debian is.
find_debian_mirrors() {
    [ -z "${main:-}" ] || return 0
    main=${GRANULE_DEBIAN_MIRROR:-} security=${GRANULE_DEBIAN_SECURITY_MIRROR:-}
    [ -n "$main" ] || main=$(machine_mirror Debian)
    [ -n "$security" ] || security=$(machine_mirror Debian-Security)
    if [ -z "$main" ] || [ -z "$security" ]; then
        apt_update_once
        [ -n "$main" ] || main=$(machine_mirror Debian)
        [ -n "$security" ] || security=$(machine_mirror Debian-Security)
    fi
    if [ -z "$main" ] || [ -z "$security" ]; then
        known_mirrors
    fi
    if [ -z "$main" ] || [ -z "$security" ]; then
        fail "no Debian mirror is known here: set GRANULE_DEBIAN_MIRROR and GRANULE_DEBIAN_SECURITY_MIRROR"
    fi
}

# machine_mirror LABEL: the address of the machine's first apt source with that label.
machine_mirror() {
    # shellcheck disable=SC2016 # these are apt's variables
    apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        sed -n "s/^Debian|$1|//p" | sed -n 1p
}

# known_mirrors: has mmdebstrap write the sources that it would use, and stop before it fetches anything.
known_mirrors() {
    local sources
    command -v mmdebstrap >/dev/null || apt_install mmdebstrap
    # shellcheck disable=SC2016 # $1 is for mmdebstrap's hook
    sources=$(mmdebstrap --mode=chrootless --variant=custom \
        --setup-hook='cat "$1"/etc/apt/sources.list >&2; exit 1' "$debian_release" - 2>&1) || true
    main=$(sed -n "s/^deb .*\(http[^ ]*\) $debian_release .*/\1/p" <<<"$sources" | sed -n 1p)
    security=$(sed -n "s/^deb .*\(http[^ ]*\) $debian_release-security .*/\1/p" <<<"$sources" | sed -n 1p)
}
