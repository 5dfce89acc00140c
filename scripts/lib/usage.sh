# shellcheck shell=bash
# What a script says when it is asked, or called in a way that it does not know.

# explain SCRIPT: what it says of itself at its beginning.
explain() {
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$1"
}

# take_words SCRIPT KNOWN WORD…: ends with an explanation where a word asks for one, or is none of the known ones.
take_words() {
    local script=$1 known=$2 word
    shift 2
    for word in "$@"; do
        case $word in
        -h | --help)
            explain "$script"
            exit 0
            ;;
        esac
        case " $known " in
        *" $word "*) ;;
        *)
            printf '%s: %s is not understood; --help tells what is\n' "$(basename "$script")" "$word" >&2
            exit 2
            ;;
        esac
    done
}
