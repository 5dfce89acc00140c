# shellcheck shell=bash
# The program that tests the API against its own document, in a Python environment of its own: $cache/schemathesis/bin/schemathesis

install_schemathesis() {
    local folder=$cache/schemathesis list=$here/lib/setup/schemathesis.txt log=$cache/schemathesis.log
    cmp -s "$list" "$folder/installed.txt" && return
    say "installing schemathesis"
    rm -rf "$folder"
    if ! { python3 -m venv "$folder" && "$folder/bin/pip" install -q --disable-pip-version-check --no-deps -r "$list"; } \
        >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        fail "cannot install schemathesis"
    fi
    cp "$list" "$folder/installed.txt"
}
