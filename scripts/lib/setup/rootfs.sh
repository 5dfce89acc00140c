# shellcheck shell=bash
# A small Debian for arm64 as a disk image, $cache/debian/image: what guests of the tests and benchmarks boot from a disk or from
# persistent memory. Made of packages that are unpacked and never configured, so no arm64 program has to run here; no root and no
# mount are needed either. Its /sbin/init is scripts/lib/debian-init.sh. Beside it, in $cache/debian/iperf3, is what the lab host
# needs to be the other end of iperf3: "ld.so --library-path . iperf3".

rootfs_packages=(base-files bash coreutils grep mount util-linux python3-minimal fio iperf3)
# What the packages above ask for and nothing in the image uses: what configures packages, Perl, the rest of Python.
rootfs_without='adduser|debconf|dpkg|init-system-helpers|usrmerge|perl.*|lib[a-z-]*-perl|libperl.*|passwd|libsemanage.*|libsepol2|tar'
rootfs_without+='|media-types|python3|python3.11|libpython3-stdlib|libpython3.11-stdlib|dmsetup|libsqlite3-0|readline-common'
# A multiple of 2 MiB, which persistent memory has to be.
rootfs_mib=192

make_rootfs() {
    local made
    made=$(cat "$here/lib/setup/rootfs.sh" "$here/lib/debian-init.sh" | sha256sum)
    [ "$(cat "$cache/debian/made-by" 2>/dev/null)" = "$made" ] || build_rootfs "$made"
}

# build_rootfs MADE-BY
build_rootfs() {
    local work name names deb
    debian_apt_ready
    mapfile -t names < <(arm64_closure "${rootfs_packages[@]}" | grep -vxE "$rootfs_without")
    [ ${#names[@]} -gt ${#rootfs_packages[@]} ] || fail "Debian's sources have not all of ${rootfs_packages[*]}"
    say "making a Debian image for guests (${#names[@]} packages)"
    work=$(mktemp -d "$cache/unpack.XXXXXX")
    (cd "$work" && debian_apt apt-get download -qq "${names[@]}" >&2) || fail "cannot download ${names[*]}"
    mkdir -p "$work/tree/usr" "$work/image"
    for name in bin lib sbin; do
        mkdir "$work/tree/usr/$name"
        ln -s "usr/$name" "$work/tree/$name"
    done
    for deb in "$work"/*.deb; do
        # dpkg -x would put folders in the place of these links.
        dpkg-deb --fsys-tarfile "$deb" | tar -x --keep-directory-symlink --no-same-owner -C "$work/tree"
    done
    finish_rootfs "$work/tree"
    # Without a journal: nobody writes to this image.
    truncate -s "${rootfs_mib}M" "$work/image/image"
    /sbin/mke2fs -q -t ext4 -b 4096 -O '^has_journal' -E root_owner=0:0,lazy_itable_init=0 -m 0 -L debian -d "$work/tree" \
        "$work/image/image" >&2 || fail "the Debian image does not fit into $rootfs_mib MiB"
    mkdir "$work/image/iperf3"
    for name in bin/iperf3 lib/aarch64-linux-gnu/{libiperf.so.0,libc.so.6,libcrypto.so.3,libsctp.so.1}; do
        cp -L "$work/tree/usr/$name" "$work/image/iperf3/"
    done
    cp -L "$work/tree/usr/lib/aarch64-linux-gnu/ld-linux-aarch64.so.1" "$work/image/iperf3/ld.so"
    printf '%s\n' "$1" >"$work/image/made-by"
    rm -rf "$cache/debian"
    mv "$work/image" "$cache/debian"
    chmod -R u+w "$work"
    rm -r "$work"
}

# finish_rootfs FOLDER: drops what no guest of ours reads, adds what a package would have made when it was configured, and our init.
finish_rootfs() {
    local tree=$1 name
    chmod -R u+rwX "$tree"
    for name in doc doc-base man locale info lintian bash-completion gdb icu i18n zoneinfo; do
        rm -rf "$tree/usr/share/$name"
    done
    rm -rf "$tree"/usr/lib/aarch64-linux-gnu/{gconv,perl*} "$tree"/usr/lib/valgrind
    mkdir -p "$tree"/{dev,proc,sys,tmp,run,mnt,root}
    printf 'root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n' >"$tree/etc/passwd"
    printf 'root:x:0:\nnogroup:x:65534:\n' >"$tree/etc/group"
    ln -sf bash "$tree/usr/bin/sh"
    cp "$cache/busybox/bin/busybox" "$tree/usr/bin/busybox"
    install -m 755 "$here/lib/debian-init.sh" "$tree/usr/sbin/init"
}
