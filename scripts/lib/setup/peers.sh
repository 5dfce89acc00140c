# shellcheck shell=bash
# Other monitors, to be measured beside granule in the lab (scripts/bench). Unpacked into the cache; nothing of them runs here.

fetch_peers() {
    [ -e "$cache/peers/qemu/package" ] || fetch_arm64_program peers/qemu qemu-system-arm
}

# fetch_arm64_program FOLDER PACKAGE: a package and all it depends on, unpacked to $cache/FOLDER.
fetch_arm64_program() {
    local folder=$1 package=$2 work names
    debian_apt_ready
    mapfile -t names < <(arm64_closure "$package")
    [ ${#names[@]} -gt 0 ] || fail "Debian's sources have no $package"
    say "fetching $package for arm64 and what it needs (${#names[@]} packages)"
    work=$(mktemp -d "$cache/unpack.XXXXXX")
    (cd "$work" && debian_apt apt-get download -qq "${names[@]}" >&2) || fail "cannot download $package"
    mkdir "$work/tree"
    local deb
    for deb in "$work"/*.deb; do
        dpkg -x "$deb" "$work/tree"
    done
    (cd "$work" && echo "$package"_*.deb) >"$work/tree/package"
    mkdir -p "$(dirname "$cache/$folder")"
    rm -rf "${cache:?}/$folder"
    mv "$work/tree" "$cache/$folder"
    rm -r "$work"
}
