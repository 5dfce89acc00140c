# shellcheck shell=bash
# Rust: the cargo on PATH if it is recent enough, with the aarch64 standard library from rustup or, where rustup's server is out
# of reach, from Debian. Settings that the second way needs are recorded in $cache/rust-env, one NAME=VALUE a line.

rust_wanted=1.88
# rustup waits for ever for a server that does not answer.
rustup_seconds=${GRANULE_RUSTUP_SECONDS:-60}

install_rust() {
    load_rust_env
    command -v cargo >/dev/null || install_cargo
    recent_enough "$(cargo --version)" || fail "$(cargo --version) is too old: $rust_wanted or later is needed (rustup update)"
    # Native on arm64: there the standard library is part of the compiler.
    has_target && return
    add_target_by_rustup || add_target_by_debian
    has_target || fail "rustc still has no standard library for $rust_target"
}

has_target() {
    local folder
    folder=$("${RUSTC:-rustc}" --print target-libdir --target "$rust_target" 2>/dev/null) || return 1
    compgen -G "$folder/libstd-*.rlib" >/dev/null
}

# recent_enough "cargo 1.95.0 (…)"
recent_enough() {
    local version=${1#* }
    [ "$(printf '%s\n' "$rust_wanted" "${version%% *}" | sort -V | sed -n 1p)" = "$rust_wanted" ]
}

add_target_by_rustup() {
    command -v rustup >/dev/null || return 1
    say "adding Rust's standard library for $rust_target"
    timeout "$rustup_seconds" rustup target add "$rust_target" >&2 && return
    say "rustup could not get it within $rustup_seconds s; trying Debian's"
    return 1
}

# Debian's compiler with its own library, run by whichever cargo there is.
add_target_by_debian() {
    apt_has rustc-web || fail "neither rustup nor this machine's apt has Rust's standard library for $rust_target"
    [ "$arch" = aarch64 ] || as_root dpkg --add-architecture arm64
    apt_updated=
    if [ "$arch" = aarch64 ]; then
        apt_install rustc-web
    else
        apt_install rustc-web libstd-rust-web-dev:arm64 rust-web-clippy
    fi
    # Debian's rustup and Debian's compiler exclude each other; then cargo has gone with rustup.
    hash -r
    command -v cargo >/dev/null || apt_install cargo-web rustfmt-web
    cat >"$rust_env" <<EOF
RUSTC=/usr/bin/rustc
RUSTDOC=/usr/bin/rustdoc
GRANULE_CARGO_CLIPPY=/usr/bin/cargo-clippy
EOF
    load_rust_env
}

# No cargo at all.
install_cargo() {
    apt_has rustup || apt_has cargo-web || apt_update_once
    if apt_has rustup; then
        apt_install rustup
        say "installing the stable toolchain with rustup"
        if timeout $((rustup_seconds * 10)) rustup toolchain install stable --profile minimal \
            --component clippy --component rustfmt --target "$rust_target" >&2; then
            rustup default stable >&2
            return
        fi
        say "rustup could not get it; trying Debian's"
    fi
    apt_has cargo-web || fail "there is no cargo here and apt has none that is recent enough: install Rust $rust_wanted or later"
    apt_install cargo-web rustc-web rustfmt-web rust-web-clippy
}

# apt_has PACKAGE: whether apt knows a version that it could install.
apt_has() {
    [[ $(apt-cache policy "$1" 2>/dev/null) =~ Candidate:\ [0-9] ]]
}
