# shellcheck shell=bash
# virtiofsd, which serves a folder of the lab host to a guest, with the libraries that it is linked to: $cache/virtiofsd/virtiofsd
# is to be started as "ld.so --library-path lib virtiofsd". Debian has the one that container runtimes use from 13 on.

fetch_virtiofsd() {
    [ -e "$cache/virtiofsd/package" ] || (
        # An apt of its own again: beside the older release's lists this one's packages would all win.
        debian_release=trixie debian_state=$cache/apt-trixie debian_ready=
        unpack virtiofsd "virtiofsd libc6 libcap-ng0 libgcc-s1 libseccomp2" finish_virtiofsd
    )
}

# finish_virtiofsd FOLDER: keeps the program, the loader and the libraries that it names.
finish_virtiofsd() {
    local from=$1/usr/lib/aarch64-linux-gnu name
    mkdir "$1/lib"
    for name in ld-linux-aarch64.so.1 libc.so.6 libcap-ng.so.0 libgcc_s.so.1 libseccomp.so.2; do
        cp -L "$from/$name" "$1/lib/$name"
    done
    mv "$1/lib/ld-linux-aarch64.so.1" "$1/ld.so"
    mv "$1/usr/libexec/virtiofsd" "$1/virtiofsd"
    rm -r "${1:?}/usr"
    rm -rf "${1:?}/etc"
}
