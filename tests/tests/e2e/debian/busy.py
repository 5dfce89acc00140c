# A busy interpreter: every object of it is a block of the C library's heap (PYTHONMALLOC=malloc), so that with
# glibc.mem.tagging=3 each has a tag of its own, and each wrong one would kill it.
import os


def content(seed):
    return bytes([seed % 251]) * (seed % 3000 + 1) + b"%d" % seed


kept, seed, turn = {}, 1, 0
while not os.path.exists("/tmp/stop"):
    for _ in range(300):
        seed = (seed * 1103515245 + 12345) % 2147483648
        old = kept.pop(seed // 64 % 512, None)
        if old is not None:
            assert old[1] == content(old[0]), "what was kept has changed"
            assert old[2] == [str(number) for number in range(old[0] % 20)], "a list has changed"
        kept[seed // 64 % 512] = seed, bytearray(content(seed)), [str(number) for number in range(seed % 20)]
    turn += 1
    # An object's id is its pointer.
    tags = {id(entry[1]) >> 56 & 15 for entry in kept.values()}
    print("GRANULE python", turn, len(kept), len(tags), flush=True)
assert all(entry[1] == content(entry[0]) for entry in kept.values()), "what was kept has changed"
