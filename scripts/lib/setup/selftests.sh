# shellcheck shell=bash
# The kernel's own selftests of MTE (tools/testing/selftests/arm64/mte), as static programs in $cache/selftests/mte. They run on
# the lab host and in a guest, and must say the same in both. One is changed: check_gcr_el1_cswitch forks 64 processes in place of
# 1,024, which in emulation take minutes.

build_selftests() {
    [ -e "$cache/selftests/shortened" ] || unpack selftests linux-source-6.12 compile_selftests
}

# compile_selftests FOLDER: FOLDER holds the unpacked source package; afterwards only what was built from it.
compile_selftests() {
    local folder=$1 tests program mte shared
    tests=tools/testing/selftests mte=$tests/arm64/mte
    say "building the kernel's MTE selftests"
    mkdir "$folder/source"
    tar -C "$folder/source" --strip-components=1 --wildcards -xf "$folder"/usr/src/linux-source-*.tar.xz \
        "*/$mte/*" "*/$tests/*.h" '*/tools/include/*'
    rm -r "${folder:?}/usr"
    sed -i 's/\(define NUM_ITERATIONS\).*/\1 64/' "$folder/source/$mte/check_gcr_el1_cswitch.c"
    grep -q 'NUM_ITERATIONS 64' "$folder/source/$mte/check_gcr_el1_cswitch.c" || fail "check_gcr_el1_cswitch has changed"
    : >"$folder/shortened"
    mkdir "$folder/mte"
    (
        cd "$folder/source"
        shared=("$mte/mte_common_util.c" "$mte/mte_helper.S")
        for program in "$mte"/check_*.c; do
            aarch64-linux-gnu-gcc -static -O2 -w -std=gnu99 -pthread -I"$mte" -I"$tests" -Itools/include \
                -o "$folder/mte/$(basename "$program" .c)" "$program" "${shared[@]}"
        done
    ) || fail "the kernel's MTE selftests do not compile"
    rm -r "$folder/source"
}
