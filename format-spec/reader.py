#!/usr/bin/env python3
"""Reads a mailstrata store. Written from SPEC.md alone (the sections named here are its), it shares no code with the engine.

  reader.py STORE               every transaction as one JSON line, in LSN order
  reader.py STORE --blobs DIR   every blob, as a file of DIR named by its SHA-256
  reader.py STORE --check       verifies everything, prints nothing but findings

It never writes to the store. Findings go to stderr. Exit: 0 done, 10 no store, 13 damage (what verifies is given all the same).
Memory is bounded by the largest commit group and some hundred bytes for each transaction of a run, which is not in LSN
order, except with --check, which remembers the digests that transactions name.
"""

import argparse
import binascii
import bisect
import datetime
import hashlib
import io
import json
import os
import re
import struct
import sys
import uuid

try:
    import xxhash
    import zstandard
except ImportError as missing:
    sys.exit(f"{missing}: pip install -r requirements.txt")

BLOCK = 4096
VERSION = 1
GROUP_MAX, FRAME_MAX, BLOBS_MAX = 32 << 20, 24 << 20, 1024
CHUNK_RAW_MAX, CHUNK_STORED_MAX, ENTRY_BLOBS_MAX = 256 << 10, (256 << 10) + BLOCK, 4096
MAGIC = b"mstrat\x1a\n"
SUPERBLOCK, MANIFEST, SEGMENT, PACK, RUN, SEGMENT_INDEX, PACK_INDEX = range(1, 8)
ITEM_KINDS = "message folder contact group appointment task document tag account list domain cos config other".split()
CURSOR = 255
DELETED, UNSEEN, SOURCE, INTERVAL = 1, 2, 4, 8
SEALED, RETIRED = 1, 2
NAMESPACE = uuid.UUID("5a4b35dd-69de-505b-8d30-8be86c4327fa")

# §15, the codes this reader reports.
CODES = {
    "D01": "superblock copy does not verify",
    "D02": "file header does not verify or belongs to another file",
    "D03": "commit group header does not verify",
    "D04": "commit group content does not verify",
    "D05": "commit group does not continue the chain",
    "D06": "frame header does not verify",
    "D07": "frame content does not verify",
    "D08": "record is malformed",
    "D09": "record of an unknown required kind",
    "D10": "pack entry header does not verify",
    "D11": "blob chunk does not verify",
    "D12": "pack entry trailer does not verify",
    "D13": "blob does not have its digest",
    "D14": "blob is in no pack",
    "D15": "index block does not verify",
    "D16": "index disagrees with the data",
    "D17": "footer does not verify",
    "D18": "manifest does not verify",
    "D19": "file is missing",
    "D20": "file is shorter than it must be",
    "D21": "padding is not zero",
    "D22": "file does not belong to this store",
    "D27": "recipe of a composed blob is not possible",
}


class NoStore(Exception):
    """There is nothing here that this reader can read."""


class Stop(Exception):
    """A record that must be understood is not."""


class Layout:
    """A fixed structure: `fields` as in SPEC.md's tables, without names for what is skipped."""

    def __init__(self, form, names):
        self.struct = struct.Struct("<" + form)
        self.names = names.split()
        self.size = self.struct.size

    def read(self, data, offset=0):
        return dict(zip(self.names, self.struct.unpack_from(data, offset)))


SuperblockBody = Layout("8sII16s16sqQQI4s", "magic kind version store server created segment_size pack_size copy program")
Header = Layout("8sII16sQqQQ16sQII4sQQI8x",
                "magic kind version store number created first_lsn first_group previous capacity flags replaces program "
                "first_segment last_segment tier")
Replaced = Layout("IIQ16s", "kind reserved number root")
Group = Layout("4sIQQQIIII16sQQ12x16sI",
               "magic flags sequence first_lsn durable_lsn frame_count length used reserved previous pack pack_end check crc")
Frame = Layout("4sHBBHHIIQ16sI", "magic kind codec reserved envelope_len key payload_len raw_len lsn check crc")
Envelope = Layout("16s16sqqqqBBHHHQ",
                  "account item not_before happened moment recorded item_kind operation flags blob_count reserved source_hash")
BlobRef = Layout("32sQBB6x", "digest length algorithm role")
Entry = Layout("4sHHIIQQI8x16sI", "magic flags reserved blob_count chunk_count raw_len length trailer_len check crc")
Chunk = Layout("4sB3xIIIQ16sI", "magic codec index raw_len stored_len raw_offset check crc")
EntryTrailer = Layout("4sIIIQQ12x16sI", "magic blob_count chunk_count reserved raw_len entry_len check crc")
BlobRow = Layout("32sQQ", "digest raw_offset length")
RecipeHeader = Layout("4sIQ", "magic piece_count own_len")
Piece = Layout("B7sQ32s", "kind reserved length digest")
RAW_OFFSET, COMPOSED, PIECES_MAX = (1 << 56) - 1, 1, 1024
Row = struct.Struct("<16s16sQqIIBBHI")
PackRow = struct.Struct("<32sQQQQ")
Trailer = Layout("4sIQQQQQQQQQQQqqQQ16sQQQ16sQQQI",
                 "magic kind number data_end rows_offset row_count fences_offset fence_count filter_offset filter_lines "
                 "file_len first_lsn last_lsn first_moment last_moment records last_group root padding raw_bytes damaged "
                 "chain groups first_segment last_segment tier")
ManifestHead = Layout("QQQQQ16sQIIQQ40x",
                      "generation entry_count durable_lsn durable_segment durable_end durable_chain durable_group clean "
                      "reserved pack pack_end")
ManifestEntry = Layout("IIQQQQqqQ16sQq",
                       "kind state number length first_lsn last_lsn first_moment last_moment records root dead retired")
Root = struct.Struct("<iIiIIiIiIiIiIiIqQiIiIiIiIQ")


def up(n, unit):
    return (n + unit - 1) // unit * unit


# §3 Checksums.


def xxh128(data):
    return xxhash.xxh3_128_intdigest(data).to_bytes(16, "little")


def check_of(binding, header, body):
    return xxh128(binding + header + xxh128(body))


def crc_of(binding, header):
    return binascii.crc32(header, binascii.crc32(binding))


def block_is_sound(binding, block):
    return len(block) >= 16 and check_of(binding, b"", block[:-16]) == block[-16:]


class File:
    """A file of the store, and the bindings of its places."""

    def __init__(self, directory, store, kind, number, path):
        self.path, self.kind, self.number = path, kind, number
        self.prefix = store + struct.pack("<IIQ", kind, 0, number)
        self.file = open(os.path.join(directory, path), "rb")
        self.length = os.fstat(self.file.fileno()).st_size

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()

    def at(self, offset):
        return self.prefix + struct.pack("<Q", offset)

    def read(self, offset, length):
        """Up to `length` bytes; fewer at the end."""
        self.file.seek(offset)
        return self.file.read(max(0, min(length, self.length - offset)))

    def block(self, offset):
        block = self.read(offset, BLOCK)
        return block if len(block) == BLOCK and block_is_sound(self.at(offset), block) else None

    def first_nonzero(self, start, end):
        """Where the first byte lies that is not zero, or None."""
        for at in range(start, end, 1 << 20):
            data = self.read(at, min(1 << 20, end - at))
            rest = data.lstrip(b"\0")
            if rest:
                return at + len(data) - len(rest)
        return None


class Store:
    def __init__(self, directory):
        self.dir = directory
        self.damaged, self.reported = False, set()
        self.id = self.superblock()
        self.manifest, self.entries = self.read_manifest()

    def damage(self, code, path, offset):
        self.damaged = True
        if (code, path, offset) not in self.reported:
            # A chunk may be met more than once: for its blobs, and for those that a part of it makes.
            self.reported.add((code, path, offset))
            print(f"{code} {path} at {offset}: {CODES[code]}", file=sys.stderr)

    def note(self, text):
        print(f"note: {text}", file=sys.stderr)

    # §4, §9

    def superblock(self):
        try:
            with open(os.path.join(self.dir, "SUPERBLOCK"), "rb") as f:
                data = f.read(2 * BLOCK + 1)
        except OSError as e:
            raise NoStore(f"no superblock: {e.strerror}")
        if len(data) > 2 * BLOCK:
            self.damage("D21", "SUPERBLOCK", 2 * BLOCK)
        found = None
        for copy in (0, 1):
            block = data[copy * BLOCK:(copy + 1) * BLOCK]
            binding = bytes(16) + struct.pack("<IIQQ", SUPERBLOCK, 0, copy, copy * BLOCK)
            s = SuperblockBody.read(block) if len(block) == BLOCK and block_is_sound(binding, block) else None
            if s and s["magic"] == MAGIC and s["kind"] == SUPERBLOCK and s["copy"] == copy:
                found = found or s
            else:
                self.damage("D01", "SUPERBLOCK", copy * BLOCK)
        if not found:
            raise NoStore("neither copy of the superblock verifies")
        if found["version"] != VERSION:
            raise NoStore(f"the store has format version {found['version']}, this reader knows version {VERSION}")
        return found["store"]

    def read_manifest(self):
        try:
            with open(os.path.join(self.dir, "MANIFEST"), "rb") as f:
                data = f.read()
        except FileNotFoundError:
            self.note("there is no manifest: nothing vouches for the end of the log")
            return None, {}
        try:
            number = Header.read(data)["number"]
            prefix = self.id + struct.pack("<IIQ", MANIFEST, 0, number)
            first, body = data[:BLOCK], data[BLOCK:]
            head = Header.read(first)
            sound = (block_is_sound(prefix + struct.pack("<Q", 0), first)
                     and block_is_sound(prefix + struct.pack("<Q", BLOCK), body)
                     and (head["magic"], head["kind"], head["version"], head["store"]) == (MAGIC, MANIFEST, VERSION, self.id))
            m = ManifestHead.read(body)
            count = m["entry_count"]
            if not sound or m["generation"] != number or len(body) != 128 + 96 * count + 16:
                raise ValueError
        except (struct.error, ValueError):
            self.damage("D18", "MANIFEST", 0)
            return None, {}
        entries = (ManifestEntry.read(body, 128 + 96 * i) for i in range(count))
        return m, {(e["kind"], e["number"]): e for e in entries}

    # §2

    def numbers(self, folder, extension):
        try:
            names = os.listdir(os.path.join(self.dir, folder))
        except FileNotFoundError:
            names = []
        pattern = re.compile(rf"([0-9]{{8,19}})\.{extension}")
        return {int(m[1]) for m in map(pattern.fullmatch, names) if m and m[1] == f"{int(m[1]):08}"}

    def must_be_there(self, kind, folder, extension, numbers):
        named = {n for (k, n), e in self.entries.items() if k == kind and e["state"] != RETIRED}
        if self.manifest is not None:
            named.add({SEGMENT: self.manifest["durable_segment"], PACK: self.manifest["pack"]}.get(kind, 0))
        for n in sorted(named - numbers - {0}):
            self.damage("D19", f"{folder}/{n:08}.{extension}", 0)

    def packs(self):
        numbers = self.numbers("pack", "pack")
        self.must_be_there(PACK, "pack", "pack", numbers)
        return sorted(numbers)

    def log(self):
        """The live segments and runs in the order of what they cover: (first, last segment, kind, number)."""
        segments, runs = self.numbers("log", "seg"), self.numbers("run", "run")
        there = {(SEGMENT, n) for n in segments} | {(RUN, n) for n in runs}
        live = []
        hidden = lambda first, last: first and any(a <= first and last <= b for a, b, _, _ in live)

        def stand_in(lost):
            """Whether retired files are there that together hold what a lost run held."""
            after = lost["first_lsn"]
            for e in sorted(self.entries.values(), key=lambda e: e["first_lsn"]):
                if e["state"] == RETIRED and (e["kind"], e["number"]) in there and e["first_lsn"] <= after <= e["last_lsn"]:
                    after = e["last_lsn"] + 1
            return after > lost["last_lsn"] > 0

        for n in sorted(runs | {n for (k, n) in self.entries if k == RUN}, reverse=True):
            path, entry = f"run/{n:08}.run", self.entries.get((RUN, n))
            if n not in runs:
                if entry["state"] != RETIRED:
                    if stand_in(entry):
                        self.note(f"{path} is not there; the files that it replaced are")
                    else:
                        self.damage("D19", path, 0)
                continue
            with File(self.dir, self.id, RUN, n, path) as f:
                block, trailer = f.block(0), self.trailer_at(f, f.length)
            header = Header.read(block) if block else None
            covers = next(((x["first_segment"], x["last_segment"]) for x in (trailer, header) if x), (0, 0))
            if hidden(*covers):
                continue
            replaced = [Replaced.read(block, 128 + 32 * i) for i in range(min(header["replaces"], 123))] if header else []
            all_there = replaced and all((r["kind"], r["number"]) in there for r in replaced)
            if entry is None and (self.manifest is not None or not trailer) and all_there:
                self.note(f"{path} never became part of the store")
                continue
            if not trailer and entry is not None and stand_in(entry):
                self.damage("D17", path, 0)
                continue
            if not trailer and entry is None:
                self.damage("D17", path, 0)
                if self.manifest is not None and not header:
                    continue
            live.append((*covers, RUN, n))
        self.must_be_there(SEGMENT, "log", "seg", segments | {n for a, b, _, _ in live for n in range(a, b + 1)})
        return sorted(live + [(n, n, SEGMENT, n) for n in segments if not hidden(n, n)])

    def open(self, kind, folder, extension, number):
        return File(self.dir, self.id, kind, number, f"{folder}/{number:08}.{extension}")

    def header(self, f, suspects=None):
        """The file header, or None: what follows it is readable all the same. With `suspects` a fault goes there, to be judged later."""
        block = f.block(0)
        if block:
            h = Header.read(block)
            if (h["magic"], h["kind"], h["number"], h["store"], h["version"]) == (MAGIC, f.kind, f.number, self.id, VERSION):
                return h
        raw = f.read(0, BLOCK)
        if len(raw) == BLOCK and raw[:8] == MAGIC:
            h = Header.read(raw)
            own = h["store"] + struct.pack("<IIQQ", h["kind"], 0, h["number"], 0)
            if h["store"] != self.id and block_is_sound(own, raw):
                self.damage("D22", f.path, 0)
                return None
        if suspects is None:
            self.damage("D02", f.path, 0)
        else:
            suspects.append(("D02", f.path, 0))
        return None

    # §8

    def trailer(self, f):
        """The trailer of a sealed file, or None."""
        entry = self.entries.get((f.kind, f.number))
        sealed = entry is not None and entry["state"] in (SEALED, RETIRED)
        end = f.length
        if sealed and f.length > entry["length"]:
            self.damage("D21", f.path, entry["length"])
            end = entry["length"]
        if sealed and f.length < entry["length"]:
            self.damage("D20", f.path, f.length)
            return None
        t = self.trailer_at(f, end)
        if sealed and t is None:
            self.damage("D17", f.path, max(0, end - BLOCK))
        if sealed and t and t["root"] != entry["root"]:
            self.damage("D16", f.path, end - BLOCK)
        return t

    @staticmethod
    def trailer_at(f, end):
        block = f.block(end - BLOCK) if end >= 2 * BLOCK else None
        if block is None:
            return None
        t = Trailer.read(block)
        blocks = lambda count, per: up(count, per) // per * BLOCK
        fences = t["rows_offset"] + blocks(t["row_count"], 63)
        filters = fences + blocks(t["fence_count"], 126)
        fits = (t["magic"] == b"FTR1" and t["fences_offset"] == fences and t["filter_offset"] == filters
                and filters + blocks(t["filter_lines"], 63) + BLOCK == end == t["file_len"])
        if f.kind in (SEGMENT, PACK, RUN):
            fits = fits and BLOCK <= t["data_end"] <= t["rows_offset"]
            fits = fits and (t["kind"], t["number"]) == (f.kind, f.number)
        return t if fits else None

    def index_rows(self, f, t, form):
        """Rows of an index, block by block; a block that does not verify gives none."""
        for i in range(up(t["row_count"], 63) // 63):
            block = f.block(t["rows_offset"] + i * BLOCK)
            if block:
                for k in range(min(63, t["row_count"] - i * 63)):
                    yield form.unpack_from(block, k * 64)

    def check_index(self, f, t, rows, form):
        """Verifies an index block by block and compares its rows with those that the data give."""
        sound = True
        for at in range(t["rows_offset"], t["file_len"] - BLOCK, BLOCK):
            if f.block(at) is None:
                sound = False
                self.damage("D15", f.path, at)
        if sound and rows is not None and list(self.index_rows(f, t, form)) != rows:
            self.damage("D16", f.path, t["rows_offset"])

    def check_checkpoints(self):
        for name in sorted(os.listdir(os.path.join(self.dir, "index")) if os.path.isdir(os.path.join(self.dir, "index")) else []):
            m = re.fullmatch(r"([0-9]{8,19})\.(seg|pack)\.idx", name)
            if m:
                kind = SEGMENT_INDEX if m[2] == "seg" else PACK_INDEX
                with File(self.dir, self.id, kind, int(m[1]), f"index/{name}") as f:
                    self.header(f)
                    t = self.trailer_at(f, f.length)
                    if t is None:
                        self.damage("D17", f.path, max(0, f.length - BLOCK))
                    else:
                        self.check_index(f, t, None, Row)


# §5 and §12 Segments and runs.


def group_at(f, at, limit):
    """The valid group at a place: its header and bytes, or None."""
    head = f.read(at, Group.size)
    if len(head) < Group.size or head[:4] != b"GRP1":
        return None
    g = Group.read(head)
    if (g["crc"] != crc_of(f.at(at), head[:108]) or g["length"] > GROUP_MAX or at + g["length"] > limit
            or g["used"] < Group.size or up(g["used"], BLOCK) != g["length"]):
        return None
    data = f.read(at, g["length"])
    if len(data) != g["length"] or check_of(f.at(at), head[:92], data[Group.size:]) != g["check"]:
        return None
    return g, data


def frame_at(f, at, data, pos):
    """(header, envelope, blobs, payload, length) of the frame at `data[pos:]`, which lies at `at` in the file; else (code, length)."""
    head = data[pos:pos + Frame.size]
    if len(head) < Frame.size or head[:4] != b"FRM1":
        return "D06", None
    h = Frame.read(head)
    length = Frame.size + up(h["envelope_len"] + h["payload_len"], 8)
    if h["crc"] != crc_of(f.at(at), head[:44]) or length > FRAME_MAX:
        return "D06", None
    body = data[pos + Frame.size:pos + length]
    if len(body) != length - Frame.size or check_of(f.at(at), head[:28], body) != h["check"]:
        return "D07", length
    if len(body) < Envelope.size:
        return "D08", length
    e = Envelope.read(body)
    end = Envelope.size + BlobRef.size * e["blob_count"]
    if h["envelope_len"] != end or e["blob_count"] > BLOBS_MAX or body[end + h["payload_len"]:].strip(b"\0"):
        return "D08", length
    blobs = [BlobRef.read(body, Envelope.size + BlobRef.size * i) for i in range(e["blob_count"])]
    return h, e, blobs, body[end:end + h["payload_len"]], length


class Log:
    """Walks segments and runs and gives each frame that verifies to `visit(file, offset, header, envelope, blobs, payload)`."""

    def __init__(self, store, visit, check):
        self.store, self.visit, self.check = store, visit, check
        self.last_lsn = 0
        self.rows = []
        # Of a run: (LSN, offset, length) of its frames.
        self.places = []

    def run(self):
        files = self.store.log()
        before = None
        for i, (first, _, kind, n) in enumerate(files):
            with self.open(kind, n) as f:
                successor = self.start_of(*files[i + 1][2:]) if i + 1 < len(files) else None
                follows = i and files[i - 1][1] == first - 1
                walk = self.segment if kind == SEGMENT else self.merged
                before = walk(f, before if follows else None, successor)

    def open(self, kind, n):
        return self.store.open(kind, *(("log", "seg") if kind == SEGMENT else ("run", "run")), n)

    def start_of(self, kind, number):
        """What a file continues, as (check, sequence): from its header or its first group; None if neither verifies."""
        with self.open(kind, number) as f:
            block = f.block(0)
            if block:
                h = Header.read(block)
                return h["previous"], h["first_group"]
            if kind == RUN:
                return None
            found = group_at(f, BLOCK, f.length)
            return (found[0]["previous"], found[0]["sequence"]) if found else None

    def segment(self, f, before, successor):
        store = self.store
        entry = store.entries.get((SEGMENT, f.number))
        manifest = store.manifest
        self.rows = []
        damaged_before = store.damaged
        h = store.header(f)
        trailer = store.trailer(f)
        limit = trailer["data_end"] if trailer else f.length
        chain, sequence = (h["previous"], h["first_group"]) if h else before or (None, None)
        if h and before is None and manifest is None and (sequence, chain) != (1, bytes(16)):
            store.damage("D05", f.path, 0)
        if self.check and h and before and h["first_lsn"] > self.last_lsn + 1 and not damaged_before:
            store.note(f"{f.path}: LSN {self.last_lsn + 1} to {h['first_lsn'] - 1} are not there (purge, or damage of an earlier time)")
        at = BLOCK
        while True:
            found = group_at(f, at, limit) if at < limit else None
            if found:
                g, data = found
                known = chain is not None
                if known and (g["previous"] != chain or g["sequence"] != sequence or g["first_lsn"] <= self.last_lsn):
                    store.damage("D05", f.path, at)
                self.frames(f, at, g, data)
                chain, sequence = g["check"], g["sequence"] + 1
                at += g["length"]
                continue
            if trailer and at >= limit:
                wrong = chain is not None and (trailer["last_group"] >= sequence or trailer["root"] != chain)
                if wrong or (chain is not None and successor not in (None, (chain, sequence))):
                    store.damage("D05", f.path, at)
                break
            if trailer is None and chain is not None and successor == (chain, sequence):
                break
            later = next((p for p in range(up(at + 1, BLOCK), limit, BLOCK) if group_at(f, p, limit)), None)
            vouched = (later is not None
                       or (successor is not None and chain is not None)
                       or (manifest is not None and manifest["durable_segment"] == f.number and manifest["durable_end"] > at)
                       or (entry is not None and entry["state"] in (SEALED, RETIRED) and entry["last_lsn"] > self.last_lsn)
                       or trailer is not None)
            dirty = f.first_nonzero(at, limit)
            if not vouched:
                if dirty is not None:
                    store.note(f"{f.path} at {at}: torn tail, never acknowledged")
                break
            if at >= limit:
                if not (entry and entry["state"] in (SEALED, RETIRED)):
                    store.damage("D20", f.path, at)
                break
            head = f.read(at, Group.size)
            sound_head = head[:4] == b"GRP1" and len(head) == Group.size and Group.read(head)["crc"] == crc_of(f.at(at), head[:108])
            store.damage("D04" if sound_head else "D03", f.path, at)
            stop = limit if later is None else later
            self.salvage(f, at, stop)
            if later is None:
                break
            at, chain = later, None
        if self.check and trailer:
            rows = sorted(self.rows, key=lambda r: r[:3]) if store.damaged == damaged_before else None
            store.check_index(f, trailer, rows, Row)
        return (chain, sequence) if chain is not None else None

    def merged(self, f, before, successor):
        """A run: its groups have a chain of their own, its frames come by account and item."""
        store = self.store
        self.rows, self.places = [], []
        damaged_before = store.damaged
        h, trailer = store.header(f), store.trailer(f)
        limit = trailer["data_end"] if trailer else f.length
        if h and before and (h["previous"], h["first_group"]) != before:
            store.damage("D05", f.path, 0)
        if h and trailer and any(h[k] != trailer[k] for k in ("first_segment", "last_segment", "tier")):
            store.damage("D16", f.path, trailer["file_len"] - BLOCK)
        at, chain, sequence = BLOCK, bytes(16), 1
        while at < limit:
            found = group_at(f, at, limit)
            if found:
                g, data = found
                if chain is not None and (g["previous"] != chain or g["sequence"] != sequence or g["flags"] != 1):
                    store.damage("D05", f.path, at)
                self.frames(f, at, g, data)
                chain, sequence = g["check"], g["sequence"] + 1
                at += g["length"]
                continue
            later = next((p for p in range(at + BLOCK, limit, BLOCK) if group_at(f, p, limit)), None)
            if later is None and trailer is None:
                break
            head = f.read(at, Group.size)
            sound_head = head[:4] == b"GRP1" and len(head) == Group.size and Group.read(head)["crc"] == crc_of(f.at(at), head[:108])
            store.damage("D04" if sound_head else "D03", f.path, at)
            stop = limit if later is None else later
            self.salvage(f, at, stop)
            at, chain = stop, None
        end = None
        if trailer:
            if chain is not None and (trailer["root"], trailer["groups"]) != (chain, sequence - 1):
                store.damage("D05", f.path, at)
            end = trailer["chain"], trailer["last_group"] + 1
            if successor not in (None, end):
                store.damage("D05", f.path, at)
            if self.check:
                rows = self.rows if store.damaged == damaged_before else None
                store.check_index(f, trailer, rows, Row)
        last = self.last_lsn
        for lsn, at, length in sorted(self.places):
            if lsn > last:
                found = frame_at(f, at, f.read(at, length), 0)
                if len(found) == 5:
                    self.last_lsn = lsn
                    self.visit(f, at, *found[:4])
        self.places = []
        return end

    def frames(self, f, at, g, data):
        data, pos, count = data[:g["used"]], Group.size, 0
        while pos < g["used"]:
            found = frame_at(f, at + pos, data, pos)
            if len(found) == 2:
                code, length = found
                self.store.damage(code, f.path, at + pos)
                if length is None:
                    return
                pos += length
            else:
                if found[0]["lsn"] != g["first_lsn"] + count and (f.kind == SEGMENT or count == 0):
                    self.store.damage("D05", f.path, at + pos)
                self.take(f, at + pos, found)
                pos += found[4]
            count += 1
        if count != g["frame_count"]:
            self.store.damage("D06", f.path, at + pos)

    def take(self, f, at, found):
        h, e, blobs, payload, length = found
        if self.check:
            self.rows.append((e["account"], e["item"], h["lsn"], e["moment"], at, length, e["item_kind"], e["operation"],
                              e["flags"], e["source_hash"] & 0xFFFFFFFF))
        if f.kind == RUN:
            self.places.append((h["lsn"], at, length))
            return
        if h["lsn"] <= self.last_lsn:
            return
        self.last_lsn = h["lsn"]
        self.visit(f, at, h, e, blobs, payload)

    def salvage(self, f, start, stop):
        """Takes single frames out of a damaged stretch."""
        at = start
        while at < stop:
            window = f.read(at, 1 << 20)
            pos = window.find(b"FRM1")
            while pos >= 0 and (pos % 8 or len(window) - pos < Frame.size):
                pos = window.find(b"FRM1", pos + 1)
            if pos < 0:
                at += (1 << 20) - Frame.size
                continue
            at += pos
            if at >= stop:
                break
            head = f.read(at, Frame.size)
            h = Frame.read(head)
            length = Frame.size + up(h["envelope_len"] + h["payload_len"], 8)
            sound = h["crc"] == crc_of(f.at(at), head[:44]) and length <= FRAME_MAX
            found = frame_at(f, at, f.read(at, length), 0) if sound else ("D06", None)
            if len(found) == 5:
                self.take(f, at, found)
                at += length
            else:
                if found[0] != "D06":
                    self.store.damage(found[0], f.path, at)
                at += 8


# §6 The payload.


class Malformed(Exception):
    pass


def inflate(codec, stored, raw_len):
    """Undoes a codec; never gives more than `raw_len` bytes."""
    if codec == 0:
        raw = stored
    elif codec == 1:
        try:
            with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(stored)) as reader:
                raw = reader.read(raw_len + 1)
        except zstandard.ZstdError as e:
            raise Malformed(str(e))
    else:
        raise Malformed(f"codec {codec}")
    if len(raw) != raw_len:
        raise Malformed("length")
    return raw


class Archive:
    def __init__(self, data):
        self.data = data

    def vector(self, at, width):
        """Where the elements of the vector at `at` start, and how many there are."""
        relative, count = struct.unpack_from("<iI", self.data, at)
        start = at + relative
        if count and not (0 <= start and start + count * width <= len(self.data)):
            raise Malformed("pointer")
        return start, count

    def bytes(self, at):
        start, count = self.vector(at, 1)
        return self.data[start:start + count] if count else b""

    def list(self, at):
        start, count = self.vector(at, 8)
        return [self.bytes(start + 8 * i) for i in range(count)]

    def attributes(self, at):
        start, count = self.vector(at, 17)
        return [(self.bytes(p), self.data[p + 8], self.bytes(p + 9)) for p in range(start, start + 17 * count, 17)]


def transaction(payload):
    root = len(payload) - 116
    if root < 0:
        raise Malformed("short")
    a = Archive(payload)
    return {
        "account": a.bytes(root), "item": a.bytes(root + 8), "present": struct.unpack_from("<I", payload, root + 16)[0],
        "folder": a.bytes(root + 20), "flags": a.list(root + 28), "tags": a.list(root + 36), "name": a.bytes(root + 44),
        "sender": a.bytes(root + 52), "date": struct.unpack_from("<q", payload, root + 60)[0],
        "uid": struct.unpack_from("<Q", payload, root + 68)[0], "attributes": a.attributes(root + 76),
        "roles": a.list(root + 84), "source_name": a.bytes(root + 92), "source_position": a.bytes(root + 100),
    }


# §14 Event lines.


def text(data):
    """Bytes as text: `%XX` for what is not UTF-8 and for `%`."""
    decoded = data.replace(b"%", b"%25").decode("utf-8", "surrogateescape")
    return re.sub("[\udc80-\udcff]", lambda m: f"%{ord(m[0]) - 0xDC00:02X}", decoded)


ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def quoted(data):
    plain = data if isinstance(data, str) else text(data)
    return '"' + re.sub(r'[\x00-\x1f"\\]', lambda m: ESCAPES.get(m[0]) or f"\\u{ord(m[0]):04x}", plain) + '"'


MOMENT_MIN, MOMENT_MAX = -62_135_596_800_000_000, 253_402_300_799_999_999


def moment(micros, digits=6):
    """A moment as text; with `digits` 0 as many digits of a second as it takes. The calendar ends with the years 1 and 9999."""
    seconds, fraction = divmod(max(MOMENT_MIN, min(micros, MOMENT_MAX)), 1_000_000)
    t = datetime.datetime(1970, 1, 1) + datetime.timedelta(seconds=seconds)
    shown = f".{fraction:06}" if digits else f".{fraction:06}".rstrip("0").rstrip(".")
    return quoted(f"{t.isoformat()}{shown}Z")


def listed(items):
    return "[" + ",".join(items) + "]"


def members(pairs):
    return "{" + ",".join(f"{quoted(k)}:{v}" for k, v in pairs) + "}"


def json_value(raw):
    try:
        value = raw.decode("utf-8")
        json.loads(value)
    except (UnicodeDecodeError, ValueError, RecursionError):
        raise Malformed("JSON")
    return value.strip().replace("\r", " ").replace("\n", " ")


def state(t):
    texts = lambda items: listed(map(quoted, items))
    fields = [("folder", 1, quoted), ("flags", 2, texts), ("tags", 4, texts), ("name", 8, quoted), ("sender", 16, quoted),
              ("date", 32, lambda date: moment(date, 0)), ("uid", 64, str)]
    pairs = [(name, show(t[name])) for name, bit, show in fields if t["present"] & bit]
    if t["attributes"]:
        values = []
        for name, kind, value in t["attributes"]:
            if kind > 1:
                raise Malformed("attribute")
            values.append((name, json_value(value) if kind else quoted(value)))
        pairs.append(("attributes", members(values)))
    return pairs


def kind_name(code):
    if not 1 <= code <= len(ITEM_KINDS):
        raise Malformed("item kind")
    return ITEM_KINDS[code - 1]


def blob_of(blob, roles):
    if blob["algorithm"] != 1:
        raise Malformed("digest algorithm")
    pairs = [("digest", quoted("sha256:" + blob["digest"].hex())), ("length", str(blob["length"]))]
    if blob["role"] != 255:
        if blob["role"] >= len(roles):
            raise Malformed("role")
        pairs.insert(0, ("role", quoted(roles[blob["role"]])))
    return members(pairs)


def account_id(e):
    return str(uuid.UUID(bytes=e["account"]))


class Lines:
    """Transactions as event lines."""

    def __init__(self):
        # Accounts whose own item was deleted: from then on their address alone means another account.
        self.ended = set()

    def line(self, h, e, blobs, payload):
        if h["key"] or e["operation"] not in (1, 2, 3) or h["raw_len"] > FRAME_MAX:
            raise Malformed("frame")
        t = transaction(inflate(h["codec"], payload, h["raw_len"]))
        deleted = e["flags"] & DELETED
        kind = kind_name(e["item_kind"])
        pairs = [("account", quoted(t["account"])), ("item", quoted(t["item"])), ("kind", quoted(kind)),
                 ("op", quoted("delete" if deleted else "put")), ("at", moment(e["happened"]))]
        if e["flags"] & INTERVAL:
            pairs.append(("not_before", moment(e["not_before"])))
        # uuid.uuid5 takes text only, and an address is bytes.
        derived = uuid.UUID(bytes=hashlib.sha1(NAMESPACE.bytes + t["account"]).digest()[:16], version=5)
        if e["account"] != derived.bytes or e["account"] in self.ended:
            pairs.append(("account_id", quoted(account_id(e))))
        if not deleted:
            fields = state(t)
            if fields:
                pairs.append(("state", members(fields)))
            shown = [blob_of(b, t["roles"]) for b in blobs]
            if len(blobs) == 1 and blobs[0]["role"] == 255:
                pairs.append(("blob", shown[0]))
            elif shown:
                pairs.append(("blobs", listed(shown)))
        if e["flags"] & SOURCE:
            pairs.append(("source", members([("name", quoted(t["source_name"])), ("position", quoted(t["source_position"]))])))
        if e["flags"] & UNSEEN and not deleted:
            pairs.append(("content", '"unseen"'))
        if deleted and kind == "account" and t["item"] == t["account"]:
            self.ended.add(e["account"])
        return members(pairs + [("lsn", str(h["lsn"])), ("recorded", moment(e["recorded"]))])

    @staticmethod
    def damaged(h, e, code):
        kind = ITEM_KINDS[e["item_kind"] - 1] if 1 <= e["item_kind"] <= len(ITEM_KINDS) else "other"
        return members([("account", quoted(account_id(e))), ("item", quoted(e["item"].hex())), ("kind", quoted(kind)),
                        ("op", '"damaged"'), ("code", quoted(code)), ("account_id", quoted(account_id(e))),
                        ("lsn", str(h["lsn"]))])


def read_log(store, out, needed, check):
    """Prints transactions to `out` and adds the digests they name to `needed`; either may be None."""

    lines = Lines()

    def visit(f, at, h, e, blobs, payload):
        if h["kind"] not in (1, 2):
            if h["kind"] & 0x8000:
                store.damage("D09", f.path, at)
                raise Stop(f"LSN {h['lsn']} is a record of kind {h['kind']:#x}, which must be understood")
            known = False
        else:
            known = True
        if needed is not None:
            for b in blobs:
                needed.setdefault(b["digest"], (h["lsn"], f.path, at))
        if not known:
            return
        try:
            if h["kind"] == 2:
                transaction(inflate(h["codec"], payload, min(h["raw_len"], FRAME_MAX)))
                return
            shown = lines.line(h, e, blobs, payload)
        except Malformed:
            store.damage("D08", f.path, at)
            if h["kind"] == 2:
                return
            shown = lines.damaged(h, e, "D08")
        if out:
            out.write(shown.encode("utf-8") + b"\n")

    Log(store, visit, check).run()


# §7 and §12 Packs.


class Packs:
    """Walks the packs; each blob goes to `sink(digest)`, which gives an object with write(bytes) and done(sound)."""

    def __init__(self, store, sink, check):
        self.store, self.sink, self.check = store, sink, check
        # By pack: places that do not verify and that nothing vouches for, the digests in the pack. And blobs that are damaged.
        self.suspects, self.lost = [], set()
        # Of the pack at hand, when it was asked: the rows of its footer by entry.
        self.footer = None
        # Composed blobs, and where the plain ones lie that may be their parts: (pack, entry, its end, row).
        self.composed, self.places = [], {}

    def run(self):
        for n in self.store.packs():
            with self.store.open(PACK, "pack", "pack", n) as f:
                self.pack(f)
        for n, at, end, row in self.composed:
            self.compose(n, at, end, row)

    def raw(self, n, at, end, start, stop):
        """The raw bytes of an entry from start to stop, piece by piece; less than that when chunks do not verify."""
        with self.store.open(PACK, "pack", "pack", n) as f:
            for offset, raw in self.chunks(f, at + Entry.size, end):
                if offset >= stop:
                    return
                if offset <= start < offset + len(raw):
                    part = raw[start - offset:stop - offset]
                    start += len(part)
                    yield part

    def compose(self, n, at, end, row):
        """Gives a composed blob, once all packs are known (§7)."""
        path = f"pack/{n:08}.pack"
        sink, digest, code = self.sink(row["digest"]), hashlib.sha256(), None
        start = row["raw_offset"] & RAW_OFFSET
        take = lambda length: b"".join(self.raw(n, at, end, start, start + length))
        damaged_before, self.store.damaged = self.store.damaged, False
        head = take(RecipeHeader.size)
        h = RecipeHeader.read(head) if len(head) == RecipeHeader.size else None
        pieces = []
        if h and h["magic"] == b"RCP1" and 0 < h["piece_count"] <= PIECES_MAX:
            body = take(RecipeHeader.size + Piece.size * h["piece_count"])[RecipeHeader.size:]
            if len(body) == Piece.size * h["piece_count"]:
                pieces = [Piece.read(body, Piece.size * i) for i in range(h["piece_count"])]
        possible = (pieces and sum(p["length"] for p in pieces) == row["length"]
                    and sum(p["length"] for p in pieces if p["kind"] == 0) == h["own_len"]
                    and all(p["kind"] <= 1 and p["length"] > 0 and p["reserved"] == bytes(7) for p in pieces)
                    and not any(p["kind"] == 0 and p["digest"] != bytes(32) for p in pieces))
        if not possible:
            code = None if self.store.damaged else "D27"
            pieces = []
        start += RecipeHeader.size + Piece.size * len(pieces)
        sound = bool(pieces)
        for p in pieces:
            place = self.places.get((p["digest"], p["length"])) if p["kind"] else (n, at, end, start)
            if place is None:
                sound, code = False, "D14"
                break
            given = 0
            for part in self.raw(*place[:3], place[3], place[3] + p["length"]):
                sink.write(part)
                digest.update(part)
                given += len(part)
            if p["kind"] == 0:
                start += p["length"]
            if given != p["length"]:
                sound = False
                break
        if sound and digest.digest() != row["digest"]:
            sound, code = False, "D13"
        if not sound:
            self.lost.add(row["digest"])
            if code or not self.store.damaged:
                self.store.damage(code or "D13", path, at)
        sink.done(sound)
        self.store.damaged |= damaged_before

    def pack(self, f):
        store = self.store
        damaged_before = store.damaged
        trailer = store.trailer(f)
        entry = store.entries.get((PACK, f.number))
        vouched = trailer["data_end"] if trailer else f.length if entry and entry["state"] in (SEALED, RETIRED) else 0
        limit = trailer["data_end"] if trailer else f.length
        if store.manifest and store.manifest["pack"] == f.number:
            vouched = max(vouched, store.manifest["pack_end"])
            if f.length < vouched and not (entry and entry["state"] in (SEALED, RETIRED)):
                store.damage("D20", f.path, f.length)
        suspects, self.footer = [], None
        store.header(f, None if vouched else suspects)
        rows, at = {}, BLOCK
        while at < limit:
            found = self.entry(f, at, limit, trailer)
            if found is not None:
                code, end, blobs = found
                if code:
                    store.damage(code, f.path, at)
                for b in blobs:
                    if b["raw_offset"] <= RAW_OFFSET:
                        self.places.setdefault((b["digest"], b["length"]), (f.number, at, end, b["raw_offset"]))
                    elif b["raw_offset"] >> 56 == COMPOSED:
                        self.composed.append((f.number, at, end, b))
                    else:
                        store.damage("D27", f.path, at)
                        self.lost.add(b["digest"])
                    rows.setdefault(b["digest"], (b["digest"], at, end - at, b["raw_offset"], b["length"]))
                self.blobs(f, at, end, [b for b in blobs if b["raw_offset"] <= RAW_OFFSET])
                at = end
                continue
            boundary = min(up(at, BLOCK), limit)
            if at < boundary and f.first_nonzero(at, boundary) is None:
                at = boundary
                continue
            dirty = f.first_nonzero(at, limit)
            if dirty is None and at >= vouched:
                break
            later = self.next_entry(f, at, limit)
            code = "D10"
            if f.read(at, 4) != b"ENT1" and at < boundary == later:
                code = "D21"
            elif self.header(f, at) is not None:
                code = "D12"
            if at < vouched:
                store.damage(code, f.path, at)
            else:
                suspects.append((code, f.path, at))
            if later is None:
                break
            at = later
        if suspects:
            self.suspects.append((suspects, set(rows)))
        if self.check and trailer:
            found = sorted(rows.values()) if store.damaged == damaged_before else None
            store.check_index(f, trailer, found, PackRow)

    @staticmethod
    def header(f, at):
        head = f.read(at, Entry.size)
        if len(head) < Entry.size or head[:4] != b"ENT1":
            return None
        e = Entry.read(head)
        sound = e["crc"] == crc_of(f.at(at), head[:60]) and xxh128(f.at(at) + head[:44] + bytes(16)) == e["check"]
        return e if sound else None

    def entry(self, f, at, limit, trailer):
        """(code or None, end, rows) of the entry at a place; None when there is none."""
        e = self.header(f, at)
        if e is not None:
            if e["flags"] & 1:
                end_of_chunks = self.end_of_chunks(f, at + Entry.size, limit)
            else:
                end_of_chunks = at + e["length"] - e["trailer_len"]
            rows = self.entry_trailer(f, at, end_of_chunks, limit) if end_of_chunks else None
            if rows is not None:
                return None, end_of_chunks + EntryTrailer.size + BlobRow.size * len(rows), rows
        # Where the entry's own words are lost the footer may still know them.
        if trailer and self.footer is None:
            self.footer = {}
            for digest, start, length, raw_offset, blob_length in self.store.index_rows(f, trailer, PackRow):
                row = {"digest": digest, "raw_offset": raw_offset, "length": blob_length}
                self.footer.setdefault(start, (length, []))[1].append(row)
        if trailer and at in self.footer and at + self.footer[at][0] <= limit:
            return "D12" if e else "D10", at + self.footer[at][0], self.footer[at][1]
        return None

    @staticmethod
    def entry_trailer(f, entry_at, at, limit):
        head = f.read(at, EntryTrailer.size) if entry_at < at < limit else b""
        if len(head) < EntryTrailer.size or head[:4] != b"TRL1":
            return None
        t = EntryTrailer.read(head)
        if t["crc"] != crc_of(f.at(at), head[:60]) or t["blob_count"] > ENTRY_BLOBS_MAX:
            return None
        body = f.read(at + EntryTrailer.size, BlobRow.size * t["blob_count"])
        if len(body) != BlobRow.size * t["blob_count"] or check_of(f.at(at), head[:44], body) != t["check"]:
            return None
        rows = [BlobRow.read(body, BlobRow.size * i) for i in range(t["blob_count"])]
        fits = t["entry_len"] == at - entry_at + EntryTrailer.size + len(body)
        least = lambda r: r["length"] if r["raw_offset"] <= RAW_OFFSET else RecipeHeader.size
        return rows if fits and all((r["raw_offset"] & RAW_OFFSET) + least(r) <= t["raw_len"] for r in rows) else None

    def end_of_chunks(self, f, at, limit):
        """Where the trailer of a streamed entry starts."""
        while at < limit:
            if f.read(at, 4) == b"TRL1":
                return at
            c = self.chunk_header(f, at)
            if c is None:
                return None
            at += Chunk.size + up(c["stored_len"], 8)
        return None

    @staticmethod
    def chunk_header(f, at):
        head = f.read(at, Chunk.size)
        if len(head) < Chunk.size or head[:4] != b"CHK1":
            return None
        c = Chunk.read(head)
        fits = (c["crc"] == crc_of(f.at(at), head[:44]) and c["raw_len"] <= CHUNK_RAW_MAX
                and c["stored_len"] <= CHUNK_STORED_MAX)
        return c if fits else None

    def chunks(self, f, at, end):
        """(raw offset, raw bytes) of each chunk that verifies; those that do not are reported and left out."""
        while at + Chunk.size + EntryTrailer.size <= end:
            c = self.chunk_header(f, at)
            if c is None:
                # The length is lost with the header: look for the next one.
                if f.read(at, 4) == b"TRL1":
                    return
                self.store.damage("D11", f.path, at)
                at = next((p for p in range(at + 8, end, 8)
                           if f.read(p, 4) in (b"CHK1", b"TRL1") and (self.chunk_header(f, p) or f.read(p, 4) == b"TRL1")), end)
                continue
            stored = f.read(at + Chunk.size, up(c["stored_len"], 8))
            head = f.read(at, 28)
            raw = None
            if check_of(f.at(at), head, stored) == c["check"]:
                try:
                    raw = inflate(c["codec"], stored[:c["stored_len"]], c["raw_len"])
                except Malformed:
                    pass
            if raw is None:
                self.store.damage("D11", f.path, at)
            else:
                yield c["raw_offset"], raw
            at += Chunk.size + len(stored)
            if len(stored) != up(c["stored_len"], 8):
                return

    def blobs(self, f, at, end, rows):
        """Streams the blobs of an entry to their sinks."""
        rows = sorted(rows, key=lambda r: (r["raw_offset"], r["length"]))
        starts = [r["raw_offset"] for r in rows]
        longest = max((r["length"] for r in rows), default=0)
        under_way = {}
        damaged_before = self.store.damaged
        self.store.damaged = False

        def give(i, part):
            sink, digest, filled = under_way.get(i) or (self.sink(rows[i]["digest"]), hashlib.sha256(), 0)
            sink.write(part)
            digest.update(part)
            under_way[i] = (sink, digest, filled + len(part))
            if filled + len(part) == rows[i]["length"]:
                sound = digest.digest() == rows[i]["digest"]
                if not sound:
                    self.lost.add(rows[i]["digest"])
                    self.store.damage("D13", f.path, at)
                sink.done(sound)
                under_way[i] = None

        for i, r in enumerate(rows):
            if r["length"] == 0:
                give(i, b"")
        for offset, raw in self.chunks(f, at + Entry.size, end):
            last = bisect.bisect_left(starts, offset + len(raw))
            for i in range(bisect.bisect_left(starts, offset - longest), last):
                r = rows[i]
                start, stop = max(r["raw_offset"], offset), min(r["raw_offset"] + r["length"], offset + len(raw))
                filled = under_way[i][2] if under_way.get(i) else 0
                if start < stop and start == r["raw_offset"] + filled and not (i in under_way and under_way[i] is None):
                    give(i, raw[start - offset:stop - offset])
        lost = [i for i in range(len(rows)) if i not in under_way or under_way[i] is not None]
        for i in lost:
            self.lost.add(rows[i]["digest"])
            if under_way.get(i):
                under_way[i][0].done(False)
        if lost and not self.store.damaged:
            self.store.damage("D13", f.path, at)
        self.store.damaged |= damaged_before

    @staticmethod
    def next_entry(f, at, limit):
        base = at
        while base < limit:
            window = f.read(base, 1 << 20)
            pos = window.find(b"ENT1")
            while pos >= 0:
                here = base + pos
                if here > at and here % 8 == 0 and here < limit and Packs.header(f, here) is not None:
                    return here
                pos = window.find(b"ENT1", pos + 1)
            base += (1 << 20) - 8
        return None


class Known:
    """A sink that remembers which digests are there."""

    def __init__(self, have, digest):
        self.have, self.digest = have, digest

    def write(self, part):
        pass

    def done(self, sound):
        if sound:
            self.have.add(self.digest)


class Extract:
    """A sink that writes DIR/<digest>; a file gets its name when its digest was seen to be right."""

    def __init__(self, directory, digest):
        self.path = os.path.join(directory, digest.hex())
        self.there = os.path.exists(self.path)
        if not self.there:
            open(self.path + ".part", "wb").close()

    def write(self, part):
        if part and not self.there:
            with open(self.path + ".part", "ab") as f:
                f.write(part)

    def done(self, sound):
        if not self.there:
            if sound:
                os.replace(self.path + ".part", self.path)
            else:
                os.remove(self.path + ".part")


def check(store):
    needed, have = {}, set()
    # The log first: beside a writer, the packs then hold every blob that the frames read so far name (W1).
    read_log(store, None, needed, True)
    packs = Packs(store, lambda digest: Known(have, digest), True)
    packs.run()
    store.check_checkpoints()
    durable = store.manifest["durable_lsn"] if store.manifest else None
    missing = False
    for digest, (lsn, path, at) in needed.items():
        if digest in have:
            continue
        if digest in packs.lost:
            store.damage("D14", path, at)
            continue
        missing = True
        if durable is not None and lsn > durable:
            store.note(f"{path} at {at}: LSN {lsn} names blob {digest.hex()}, which this copy does not have")
        else:
            store.damage("D14", path, at)
    for places, digests in packs.suspects:
        # A frame that names a blob of the pack says that the pack's header was durable before it.
        synced = not needed.keys().isdisjoint(digests)
        for code, path, at in places:
            if missing or (code == "D02" and synced):
                store.damage(code, path, at)
            else:
                store.note(f"{path} at {at}: torn end of a flush, never acknowledged")


def main():
    parser = argparse.ArgumentParser(description="Reads a mailstrata store.", epilog="Exit: 0 done, 10 no store, 13 damage found.")
    parser.add_argument("store", metavar="STORE", help="the store's directory")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--blobs", metavar="DIR", help="write every blob to DIR/<hex digest> instead of printing transactions")
    what.add_argument("--check", action="store_true", help="verify everything, print findings only")
    options = parser.parse_args()
    store = None
    try:
        store = Store(options.store)
        if options.check:
            check(store)
        elif options.blobs:
            os.makedirs(options.blobs, exist_ok=True)
            packs = Packs(store, lambda digest: Extract(options.blobs, digest), False)
            packs.run()
            for _, path, at in (place for places, _ in packs.suspects for place in places):
                store.note(f"{path} at {at}: not as written, and nothing vouches for it")
        else:
            read_log(store, sys.stdout.buffer, None, False)
        sys.stdout.flush()
    except NoStore as e:
        print(f"{options.store}: no store here that this reader can read: {e}", file=sys.stderr)
        return 10
    except Stop as e:
        print(f"stopped: {e}", file=sys.stderr)
        return 13
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 13 if store and store.damaged else 0
    return 13 if store.damaged else 0


if __name__ == "__main__":
    sys.exit(main())
