#!/usr/bin/env python3
"""A second reader of snapshots, written from docs/snapshot-format.md alone.

reader.py DIR prints, as JSON, for each page that is not zero and untagged: CRC-32 of its data and its packed tags in hex.
"""
import json
import os
import struct
import sys
import zlib


def need(condition, what):
    if not condition:
        raise SystemExit("refused: " + what)


def numbered(number, data):
    return zlib.crc32(data, zlib.crc32(struct.pack("<Q", number)))


def read_manifest(directory):
    with open(os.path.join(directory, "manifest.json"), "rb") as file:
        data = file.read((1 << 20) + 1)
    need(len(data) <= 1 << 20, "manifest too long")
    line, _, rest = data.partition(b"\n")
    need(len(line) < 64 and line.startswith(b'{"granule-snapshot":'), "no manifest")
    head = json.loads(line.rstrip(b",") + b"}")
    need(head["granule-snapshot"] == 1, "unknown version")
    need(zlib.crc32(rest) == int(head["crc32"], 16), "manifest sum")
    manifest = json.loads(b"{" + rest)
    need(len(manifest["regions"]) > 0 and manifest["page_size"] in (4096, 16384, 65536), "regions or page size")
    need((manifest["mte"] is None) == (manifest["files"]["tags"] is None), "tags and mte")
    return manifest


class Blocks:
    """A file `pages` or `tags`."""

    def __init__(self, directory, name, magic, manifest, pages):
        with open(os.path.join(directory, name), "rb") as file:
            self.data = file.read()
        said = manifest["files"][name]
        need(len(self.data) == said["size"], name + " size")
        header = self.data[:64]
        found, version, page_size, count, per_block, diff, at, entries, total = struct.unpack_from("<8sIIQIIQQI", header)
        (own,) = struct.unpack_from("<I", header, 60)
        need(found == magic and version == 1, name + " magic")
        need(own == zlib.crc32(header[:60]) == int(said["crc32"], 16), name + " header sum")
        need(page_size == manifest["page_size"] and count == pages and per_block == 64, name + " header")
        need(diff == (manifest["parent"] is not None) and header[52:60] == bytes(8), name + " header")
        need(at >= 64 and at + 24 * entries == len(self.data), name + " directory place")
        directory_bytes = self.data[at:]
        need(zlib.crc32(directory_bytes) == total, name + " directory sum")
        self.entries, before, ranges = {}, -1, []
        for index in range(entries):
            number, offset, length, block_sum = struct.unpack_from("<QQII", directory_bytes, 24 * index)
            need(before < number < (pages + 63) // 64, name + " block number")
            need(length > 0 and 64 <= offset and offset + length <= at, name + " block place")
            ranges.append((offset, length))
            before = number
            self.entries[number] = (offset, length, block_sum)
        ranges.sort()
        need(all(a + b <= c for (a, b), (c, _) in zip(ranges, ranges[1:])), name + " overlap")

    def block(self, number):
        if number not in self.entries:
            return None
        offset, length, block_sum = self.entries[number]
        data = self.data[offset : offset + length]
        need(numbered(number, data) == block_sum, "block sum")
        return data


class Bits:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        value = 0
        for index in range(count):
            need(self.at < 8 * len(self.data), "bits end")
            value |= (self.data[self.at // 8] >> (self.at % 8) & 1) << index
            self.at += 1
        return value

    def number(self, order):
        zeros = 0
        while self.take(1) == 0:
            zeros += 1
            need(zeros <= 12, "number too long")
        return ((1 << zeros) + self.take(zeros) - 1 << order) + self.take(order)

    def finish(self):
        while self.at % 8:
            need(self.take(1) == 0, "padding")
        return self.at // 8


def pack(tags):
    return bytes(low | high << 4 for low, high in zip(tags[::2], tags[1::2]))


def read_runs(first, data, granules):
    """Tags of a page and bytes used after the first."""
    used, common = 0, None
    if first & 8:
        need(data, "common length")
        used, common = 1, data[0] + 1
    bits, tags = Bits(data[used:]), []
    while len(tags) < granules:
        tag = bits.take(4)
        if common is not None and bits.take(1):
            length = common
        else:
            length = bits.number(first & 3) + 1
        tags += [tag] * length
        if first & 4 and tag and len(tags) < granules:
            tags.append(0)
        need(len(tags) <= granules, "runs too long")
    return tags, used + bits.finish()


def read_tags(data, pages, page_size, diff):
    """Packed tags of each page of a block; None: as in the parent."""
    size, found, at = page_size // 32, [], 0
    while len(found) < pages:
        need(at < len(data), "tags end")
        first = data[at]
        at += 1
        if first <= 0x3F:
            found += [bytes(size)] * (first + 1)
        elif first <= 0x7F:
            need(diff, "inherited tags in a full snapshot")
            found += [None] * (first - 0x40 + 1)
        elif 0x81 <= first <= 0x8F:
            found.append(bytes([(first & 15) * 0x11]) * size)
        elif first == 0x90:
            need(at + size <= len(data), "packed tags end")
            found.append(data[at : at + size])
            at += size
        elif 0xA0 <= first <= 0xAF:
            tags, used = read_runs(first, data[at:], page_size // 16)
            found.append(pack(tags))
            at += used
        else:
            need(False, "unknown record")
    need(len(found) == pages and at == len(data), "tags do not fit the block")
    return found


def read_data(data, pages, diff):
    """For each page of a block its sum, 0 for zero as "zero", None: as in the parent."""
    raw, at = struct.unpack_from("<Q", data)[0], 8
    zero = ~raw
    if diff:
        zero, at = struct.unpack_from("<Q", data, 8)[0], 16
        need(raw & zero == 0, "raw and zero")
        need(zero >> pages == 0, "bits beyond the last page")
    need(raw >> pages == 0, "bits beyond the last page")
    found = []
    for page in range(pages):
        if raw >> page & 1:
            found.append(struct.unpack_from("<I", data, at)[0])
            at += 4
        else:
            found.append("zero" if zero >> page & 1 else None)
    need(at == len(data), "data block length")
    return found


class Snapshot:
    def __init__(self, directory, known=()):
        self.manifest = manifest = read_manifest(directory)
        need(manifest["id"] not in known, "cycle")
        self.size = manifest["page_size"]
        total = sum(region["size"] for region in manifest["regions"])
        self.pages = total // self.size
        self.diff = manifest["parent"] is not None
        self.memory = open(os.path.join(directory, "memory"), "rb")
        need(os.fstat(self.memory.fileno()).st_size == total == manifest["files"]["memory"]["size"], "memory size")
        with open(os.path.join(directory, "state.json"), "rb") as file:
            state = file.read()
        need(zlib.crc32(state) == int(manifest["files"]["state.json"]["crc32"], 16), "state sum")
        self.state = json.loads(state)
        self.data_blocks = Blocks(directory, "pages", b"GRANPAGE", manifest, self.pages)
        self.tag_blocks = None
        if manifest["mte"] is not None:
            self.tag_blocks = Blocks(directory, "tags", b"GRANTAGS", manifest, self.pages)
        self.decoded = {}
        self.parent = None
        if self.diff:
            path = os.path.join(directory, manifest["parent"]["path"])
            self.parent = Snapshot(path, (*known, manifest["id"]))
            theirs = self.parent.manifest
            need(theirs["id"] == manifest["parent"]["id"], "other parent")
            for key in ("arch", "page_size", "mte", "regions"):
                need(theirs[key] == manifest[key], "parent differs in " + key)

    def in_block(self, number):
        return min(64, self.pages - 64 * number)

    def page_of(self, blocks, page, default, read):
        """What `blocks` says of a page. Blocks are decoded once."""
        number, index = divmod(page, 64)
        key = (blocks, number)
        if key not in self.decoded:
            block = blocks.block(number)
            self.decoded[key] = None if block is None else read(block, self.in_block(number))
        block = self.decoded[key]
        return (None if self.diff else default) if block is None else block[index]

    def data(self, page):
        kind = self.page_of(self.data_blocks, page, "zero", lambda block, pages: read_data(block, pages, self.diff))
        if kind is None:
            return self.parent.data(page)
        self.memory.seek(page * self.size)
        data = self.memory.read(self.size)
        if kind == "zero":
            need(data == bytes(self.size), "page not zero")
        else:
            need(numbered(page, data) == kind, "page sum")
        return data

    def tags(self, page):
        if self.tag_blocks is None:
            return bytes(self.size // 32)
        read = lambda block, pages: read_tags(block, pages, self.size, self.diff)
        tags = self.page_of(self.tag_blocks, page, bytes(self.size // 32), read)
        return self.parent.tags(page) if tags is None else tags


def main():
    snapshot = Snapshot(sys.argv[1])
    pages = {}
    for page in range(snapshot.pages):
        data, tags = snapshot.data(page), snapshot.tags(page)
        if any(data) or any(tags):
            pages[page] = [zlib.crc32(data), tags.hex()]
    print(json.dumps({"id": snapshot.manifest["id"], "components": len(snapshot.state["components"]), "pages": pages}))


main()
