# shellcheck shell=bash
# Where downloads are kept, and the Rust that scripts/setup chose for this machine.

cache=${GRANULE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/granule}
rust_target=aarch64-unknown-linux-gnu
# Settings that a toolchain from Debian needs, one NAME=VALUE a line; not there with rustup's.
rust_env=$cache/rust-env

# load_rust_env: takes over what was recorded; what the caller has set stays.
load_rust_env() {
    local name value
    # Where rustup puts cargo, which a shell that was open before does not know.
    [ -d "$HOME/.cargo/bin" ] && PATH=$PATH:$HOME/.cargo/bin
    [ -e "$rust_env" ] || return 0
    while IFS='=' read -r name value; do
        if [ -n "$name" ] && [ -z "${!name:-}" ]; then
            export "$name=$value"
        fi
    done <"$rust_env"
}
