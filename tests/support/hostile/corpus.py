"""Hostile archives: a table of tricks, each of which adds something to a sound export.

`TRICKS` and `INDEXES` contain the tricks and their expected results; `cases` packs them in every format.
"""

from __future__ import annotations

import bz2
import copy
import gzip
import hashlib
import io
import itertools
import json
import lzma
import random
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

ZEROS = bytes(tarfile.RECORDSIZE)
OUTSIDE = "OUTSIDE"
"""In a name or a link: placeholder for the absolute path of a folder that must not be touched."""


def member(name: str, content: bytes = b"", **fields: object) -> bytes:
    """One tar member, as raw blocks."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.PAX_FORMAT) + content + bytes(-len(content) % 512)


def tar(files: dict[str, bytes]) -> bytes:
    """A complete plain tar."""
    return b"".join(member(name, content) for name, content in files.items()) + ZEROS


def extended(kind: bytes, payload: bytes, size: int | None = None) -> bytes:
    """An extended header of the given type, whose declared size may be wrong."""
    info = tarfile.TarInfo("extended")
    info.type, info.size = kind, len(payload) if size is None else size
    return info.tobuf(tarfile.GNU_FORMAT) + payload + bytes(-len(payload) % 512)


def record(key: str, value: str) -> bytes:
    """One PAX record."""
    text = f" {key}={value}\n".encode()
    length = next(each for each in itertools.count(len(text)) if each == len(text) + len(str(each)))
    return str(length).encode() + text


def patched(block: bytes, start: int, value: bytes) -> bytes:
    """A header with a changed field and a correct checksum."""
    raw = bytearray(block)
    raw[start : start + len(value)] = value
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw[:512])
    return bytes(raw)


# --- the sound export that hides everything ---------------------------------------------------------------------------

FILE = "alice/dev/pkg/1.0/pkg-1.0.tar.gz"
CONTENT = random.Random(5).randbytes(60_000)
INDEX: dict[str, Any] = {
    "dumpversion": "2",
    "users": {"alice": {"username": "alice", "pwhash": "hash of alice"}},
    "indexes": {
        "alice/dev": {
            "indexconfig": {"type": "stage", "bases": [], "volatile": True},
            "projects": {"pkg": {"1.0": {"name": "pkg", "version": "1.0"}}},
            "files": [
                {
                    "type": "releasefile",
                    "projectname": "pkg",
                    "version": "1.0",
                    "relpath": FILE,
                    "entrymapping": {
                        "hashes": {"sha256": hashlib.sha256(CONTENT).hexdigest()},
                        "last_modified": "Mon, 01 Jan 2024 00:00:00 GMT",
                    },
                }
            ],
        },
    },
}


def export(raw_index: bytes | None = None) -> bytes:
    """The sound export's members, with another `dataindex.json` if it is passed."""
    raw = json.dumps(INDEX).encode() if raw_index is None else raw_index
    return member(FILE, CONTENT) + member("dataindex.json", raw)


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "tar": bytes,
    "tar.gz": lambda raw: gzip.compress(raw, mtime=0),
    "tar.bz2": bz2.compress,
    "tar.xz": lzma.compress,
}


# --- the tricks -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trick:
    """Content that is put after a sound export, or in place of one."""

    raw: Callable[[], bytes]
    """A whole tar, to be packed; with `packed_already`, the archive."""
    reason: str | None
    """A part of the refusal's reason; None: it is harmless here, and the export is loaded without it."""
    member: str | None = None
    """The member in the refusal, unless one of the export's comes first."""
    limits: dict[str, int] = field(default_factory=dict)
    packed_already: bool = False
    plain_too: bool = True
    """Also as a plain tar, unless the packing is the trick."""


def behind(*parts: bytes) -> Callable[[], bytes]:
    """A sound export, followed by these."""
    return lambda: export() + b"".join(parts) + ZEROS


def named(*names: str, reason: str | None) -> Trick:
    """Files with these names; the last one is refused."""
    return Trick(behind(*(member(name, b"1") for name in names)), reason, names[-1])


def typed(kind: bytes, reason: str, link: str = "", name: str = "evil") -> Trick:
    """One member of a type that no export has."""
    return Trick(behind(member(name, type=kind, linkname=link)), reason, name)


def pax(*records: tuple[str, str], reason: str | None, evil: str | None = None, kind: bytes = b"x") -> Trick:
    """A file whose PAX header contradicts its own."""
    payload = b"".join(record(*each) for each in records)
    return Trick(behind(extended(kind, payload), member("evil", b"1")), reason, evil)


def gnu(name: bytes, reason: str | None, evil: str | None = None) -> Trick:
    """A file with a GNU long name."""
    return Trick(behind(extended(b"L", name + b"\0"), member("evil", b"1")), reason, evil)


def link_then_file(kind: bytes, *links: tuple[str, str]) -> Trick:
    """Links, then a file through the last one; the first link is its target."""
    made = [member(name, type=kind, linkname=target) for name, target in links]
    word = "symbolic link" if kind == tarfile.SYMTYPE else "hard link"
    return Trick(behind(*made, member(f"{links[-1][0]}/escaped", b"1")), word, links[0][0])


def zeros(size: int) -> bytes:
    """A file of zeros, which compresses to almost nothing."""
    return member("zeros", size=size) + bytes(size)


def zipped() -> bytes:
    """A zip with a traversal in it, under the name of a tar."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("../escaped", b"1")
        archive.writestr("dataindex.json", json.dumps(INDEX))
    return file.getvalue()


def greedy_xz() -> bytes:
    """An xz stream that requires a dictionary of 1.5 GiB."""
    raw = bytearray(lzma.compress(export() + ZEROS, check=lzma.CHECK_NONE))
    at = raw.index(b"\x21\x01", 12)  # the LZMA2 filter's id, size of properties, dictionary size
    raw[at + 2] = 39
    end = 12 + (raw[12] + 1) * 4
    raw[end - 4 : end] = zlib.crc32(bytes(raw[12 : end - 4])).to_bytes(4, "little")
    return bytes(raw)


SYM, HARD = tarfile.SYMTYPE, tarfile.LNKTYPE
DOTS, ABSOLUTE, TWICE = "'..'", "absolute path", "is there twice"

TRICKS: dict[str, Trick] = {
    # names that lead out
    "traversal": named("../escaped", reason=DOTS),
    "traversal inside": named("a/b/../../../escaped", reason=DOTS),
    "traversal at the end": named("a/..", reason=DOTS),
    "traversal of a folder": Trick(behind(member("../escaped/", type=b"5")), DOTS, "../escaped"),
    "absolute": named(f"{OUTSIDE}/escaped", reason=ABSOLUTE),
    "absolute twice": named("//etc/cron.d/escaped", reason=ABSOLUTE),
    "absolute folder": Trick(behind(member(f"{OUTSIDE}/escaped/", type=b"5")), ABSOLUTE),
    "dots that stay": named("./a/./b", reason=None),
    "backslashes": named("..\\..\\escaped", "C:\\escaped", reason=None),
    # links
    "symbolic link": typed(SYM, "symbolic link", "/etc/passwd"),
    "symbolic link to itself": typed(SYM, "symbolic link", "evil"),
    "hard link": typed(HARD, "hard link", f"{OUTSIDE}/victim"),
    "hard link to an index": typed(HARD, "hard link", "dataindex.json"),
    "hard link to an index by dots": typed(HARD, "hard link", "./alice/../dataindex.json"),
    "hard link in the place of an index": typed(HARD, "hard link", FILE, "more/dataindex.json"),
    "hard link to a file": Trick(behind(member("second", type=tarfile.LNKTYPE, linkname=FILE)), None),
    "hard link to a file that comes later": Trick(
        behind(member("evil", type=tarfile.LNKTYPE, linkname="later"), member("later", b"1")),
        "not an earlier file",
        "evil",
    ),
    "hard link to a folder": typed(HARD, "not an earlier file", "alice"),
    "hard link to itself": typed(HARD, "not an earlier file", "evil"),
    "hard link to a hard link": Trick(
        behind(
            member("second", type=tarfile.LNKTYPE, linkname=FILE),
            member("evil", type=tarfile.LNKTYPE, linkname="second"),
        ),
        "not an earlier file",
        "evil",
    ),
    "hard link to what was left there": typed(HARD, "not an earlier file", "../../volume/neighbour"),
    "hard link to a file by dots": typed(HARD, "not an earlier file", f"alice/../{FILE}"),
    "hard link over a file": Trick(
        behind(member("a", b"1"), member("a", type=tarfile.LNKTYPE, linkname=FILE)), TWICE, "a"
    ),
    "hard link with data": Trick(behind(member("evil", b"1", type=tarfile.LNKTYPE, linkname=FILE)), "data", "evil"),
    "hard link of a PAX path": Trick(
        behind(extended(b"x", record("linkpath", "../../outside/victim")), member("evil", type=HARD, linkname=FILE)),
        "not an earlier file",
        "evil",
    ),
    "hard link of a GNU path": Trick(
        behind(extended(b"K", b"../../outside/victim\0"), member("evil", type=HARD, linkname=FILE)),
        "not an earlier file",
        "evil",
    ),
    "hard links to a file, many times its size": Trick(
        behind(zeros(2**20), *(member(f"link{n}", type=HARD, linkname="zeros") for n in range(40))),
        "times its size",
        plain_too=False,
    ),
    "hard links to a file, more than the available space": Trick(
        behind(*(member(f"link{n}", type=HARD, linkname=FILE) for n in range(100))),
        "the available space",
        limits={"total_bytes": 2**22},
    ),
    "file through a symbolic link": link_then_file(SYM, ("evil", OUTSIDE)),
    "chain of symbolic links": link_then_file(SYM, ("one", "."), ("one/two", ".."), ("one/two/three", "..")),
    "chain of hard links": link_then_file(HARD, ("one", f"{OUTSIDE}/victim"), ("two", "one")),
    "link over a folder": Trick(behind(member("d/", type=b"5"), member("d", type=SYM, linkname=OUTSIDE)), "link", "d"),
    "link over a file": typed(SYM, "symbolic link", f"{OUTSIDE}/victim", FILE),
    # types
    "character device": typed(tarfile.CHRTYPE, "device"),
    "block device": typed(tarfile.BLKTYPE, "device"),
    "fifo": typed(tarfile.FIFOTYPE, "named pipe"),
    "contiguous": typed(tarfile.CONTTYPE, "contiguous"),
    "unknown type": typed(b"Z", "unknown type"),
    "GNU sparse": typed(tarfile.GNUTYPE_SPARSE, "sparse"),
    "GNU multi-volume": typed(b"M", "unknown type"),
    "PAX sparse": pax(("GNU.sparse.major", "1"), ("GNU.sparse.realsize", "99999999999"), reason="sparse"),
    # headers that contradict each other
    "PAX path": pax(("path", "../escaped"), reason=DOTS, evil="../escaped"),
    "PAX absolute path": pax(("path", f"{OUTSIDE}/escaped"), reason=ABSOLUTE),
    "PAX path twice": pax(("path", "fine"), ("path", "../escaped"), reason=DOTS, evil="../escaped"),
    "PAX path NUL": pax(("path", "a\0b"), reason="NUL"),
    "PAX path empty": pax(("path", ""), reason="empty name"),
    "PAX path over a file": pax(("path", FILE), reason=TWICE, evil=FILE),
    "PAX size too large": pax(("size", "9000000"), reason="is truncated"),
    "PAX size zero": pax(("size", "0"), reason="is damaged"),
    "PAX size negative": pax(("size", "-1"), reason="has the size"),
    "PAX size of 10,000 digits": pax(("size", "9" * 10_000), reason="has the size"),
    "PAX linkpath of a file": pax(("linkpath", f"{OUTSIDE}/victim"), reason=None),
    "PAX owner, mode and attributes": pax(("uid", "0"), ("SCHILY.xattr.security.capability", "x"), reason=None),
    "PAX global path": pax(("path", "../escaped"), reason="global PAX", kind=b"g"),
    "PAX global size": pax(("size", "0"), reason="global PAX", kind=b"g"),
    # CVE-2024-6232
    "PAX of a million digits": Trick(behind(extended(b"x", b"1" * (2**20 - 1024)), member("a")), "malformed"),
    "PAX of nothing": Trick(behind(extended(b"x", b"99 a=b\n"), member("a")), "malformed"),
    "PAX of 8 GiB": Trick(behind(extended(b"x", b"", 8 * 2**30)), "1 MiB"),
    "PAX headers without end": Trick(behind(extended(b"x", record("comment", "y")) * 2000), "1 MiB"),
    "PAX and no member": Trick(behind(extended(b"x", record("path", "a"))), "after an extended header"),
    "GNU long name": gnu(b"a/" * 20 + b"../" * 30 + b"escaped", DOTS),
    "GNU long absolute name": gnu(OUTSIDE.encode() + b"/" + b"x" * 120, ABSOLUTE),
    "GNU long name with NUL": gnu(b"fine\0/../escaped", None),
    "GNU long name of 4 GiB": Trick(behind(extended(b"L", b"", 2**32)), "1 MiB"),
    "GNU long link": Trick(
        behind(extended(b"K", OUTSIDE.encode() + b"\0"), member("evil", type=SYM)), "symbolic link", "evil"
    ),
    "GNU name, then PAX path": Trick(
        behind(extended(b"L", b"fine\0"), extended(b"x", record("path", "../escaped")), member("evil", b"1")), DOTS
    ),
    # CVE-2025-8194
    "negative size": Trick(behind(patched(member("evil"), 124, b"\xff" * 12)), "negative size", "evil"),
    "size of 8 EiB": Trick(
        behind(patched(member("evil"), 124, b"\x80" + b"\0" * 3 + b"\x7f" + b"\xff" * 7)), "more than", "evil"
    ),
    "name not UTF-8": Trick(behind(patched(member("abc"), 1, b"\xe9")), "UTF-8"),
    "name empty": named("", reason="empty name"),
    "name of 256 bytes": named("a" * 256, reason="too long"),
    "name of 70 folders": named("a/" * 70 + "x", reason="too long"),
    "checksum": Trick(lambda: export().replace(b"dataindex.json\0", b"dataindex.jsoN\0") + ZEROS, "is damaged"),
    # colliding names
    "duplicate": named("a", "a", reason=TWICE),
    "duplicate dataindex.json": named("dataindex.json", reason=TWICE),
    "duplicate by dots": named("a", "./a", reason=TWICE),
    "file, then folder": named("a", "a/b", reason=TWICE),
    "folder, then file": named("a/b", "a", reason=TWICE),
    "case": named("README", "readme", reason=None),
    "unicode normalisation": named("caf\u00e9", "cafe\u0301", reason=None),
    "right to left": named("\u202egnp.exe", reason=None),
    "reserved names": named("CON", "NUL.txt", "aux", "a:stream", "trailing.", "trailing ", reason=None),
    "names of ours": named(".sidecar/root-password.json", ".nodeinfo", ".sqlite", reason=None),
    # bombs
    "bomb": Trick(behind(zeros(80 * 2**20)), "times its size", plain_too=False),
    "bomb with the largest dictionary": Trick(
        lambda: lzma.compress(export() + zeros(80 * 2**20), preset=9), "times its size", packed_already=True
    ),
    "bomb behind the end": Trick(lambda: export() + ZEROS + bytes(80 * 2**20), "times its size", plain_too=False),
    "bomb in a bomb": Trick(behind(member("inner.tar.gz", gzip.compress(bytes(2**22)))), None),
    "packed twice": Trick(lambda: gzip.compress(export() + ZEROS), "is not a tar archive", plain_too=False),
    "thousands of members": Trick(
        behind(*(member(f"empty/{n}") for n in range(3000))), "1000 files and folders", limits={"members": 1000}
    ),
    "thousands of folders": Trick(
        behind(*(member("/".join([str(n)] * 50)) for n in range(30))), "1000 files", limits={"members": 1000}
    ),
    "a member of a terabyte": Trick(behind(member("evil", size=2**40)), "more than", "evil"),
    "a promise beyond the room": Trick(
        behind(member("evil", size=2**30)), "more than the available space", "evil", limits={"total_bytes": 2**22}
    ),
    "more than was promised": Trick(
        behind(*(member(f"part{n}", bytes(2**18)) for n in range(100))),
        "the available space",
        limits={"total_bytes": 2**22},
    ),
    # other files
    "empty": Trick(lambda: b"", "is empty", packed_already=True),
    "text": Trick(lambda: b"<html>404</html>" * 99, "is not a tar archive"),
    "zip": Trick(zipped, "is in dataindex.json, but the file is missing", packed_already=True),
    "half an end marker": Trick(lambda: export() + bytes(512) + member("more", b"1"), "end-of-archive marker"),
    "a second archive behind": Trick(lambda: (export() + ZEROS) * 2, "after its end-of-archive"),
    "a greedy dictionary": Trick(greedy_xz, "more memory than xz -9", packed_already=True),
}


# --- dataindex.json ---------------------------------------------------------------------------------------------------


def index(change: Callable[[dict[str, Any]], object]) -> bytes:
    """The sound one with a change."""
    data = copy.deepcopy(INDEX)
    change(data)
    return json.dumps(data).encode()


def file(**fields: object) -> bytes:
    """Another description of the file."""
    return index(lambda data: data["indexes"]["alice/dev"]["files"][0].update(fields))


def hashed(parameters: str, user: str = "alice") -> bytes:
    """An argon2 hash of "", or an approximation, with these parameters."""
    pwhash = f"{parameters}$c2FsdHNhbHQ$zL2j6VSjJKz0Sj5GL1rhtxu2dZzdrCRos/qoJ13bpBE"
    return index(lambda data: data["users"].update({user: {"pwhash": pwhash}}))


def metadata(value: str) -> bytes:
    """This raw JSON at a place where anything is allowed."""
    return json.dumps(INDEX).encode().replace(b'"version": "1.0"}', b'"version": "1.0", "x": ' + value.encode() + b"}")


UNVERIFIED = {"last_modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
INDEXES: dict[str, tuple[bytes, str]] = {
    "relpath NUL": (file(relpath="alice\0"), "can't be the path of a file"),
    "relpath nothing": (file(relpath=""), "can't be the path of a file"),
    "relpath that ends above": (file(relpath=f"{FILE}/.."), "can't be the path of a file"),
    "relpath of nobody": (file(relpath="alice/none"), "file is missing"),
    "relpath a folder": (file(relpath="alice/dev"), "not a regular file"),
    "relpath a number": (file(relpath=10**30), "not a string"),
    "relpath very deep": (file(relpath="a/" * 10_000 + "b"), "deep"),
    "relpath very long": (file(relpath="a" * 5000), "can't be read"),
    "no digest": (file(entrymapping=UNVERIFIED), "no digest"),
    "number of 5,000 digits": (metadata("9" * 5000), "too long"),
    "number of 50,000,000 digits": (metadata("9" * 5 * 10**6), "too long"),
    "100,000 brackets": (b"[" * 100_000, "deep"),
    "100,000 brackets, closed": (metadata("[" * 100_000 + "]" * 100_000), "deep"),
    "100,000 braces": (b'{"a":' * 100_000, "deep"),
    "900 brackets": (metadata("[" * 900 + "]" * 900), "nested"),
    "a key twice": (metadata('{"a": 1, "a": 2}'), "twice"),
    "half a surrogate pair": (metadata(r'"\ud800"'), "surrogate"),
    "half a surrogate pair as a key": (metadata(r'{"\udfff": 1}'), "surrogate"),
    "not UTF-8": (metadata('"?"').replace(b"?", b"\xff"), "UTF-8"),
    "UTF-16": (json.dumps(INDEX).encode("utf-16"), "UTF-8"),
    "a byte order mark": (b"\xef\xbb\xbf" + json.dumps(INDEX).encode(), "valid JSON"),
    "NUL in a user": (index(lambda data: data["users"].update({"a\0b": {}})), r"a\x00b"),
    "empty": (b"", "truncated or empty"),
    "half": (json.dumps(INDEX).encode()[:200], "truncated"),
    "a list": (b"[]", "not an object"),
    "no users": (index(lambda data: data.pop("users")), "lacks 'users'"),
    "no indexes": (index(lambda data: data.pop("indexes")), "lacks 'indexes'"),
    "no dumpversion": (index(lambda data: data.pop("dumpversion")), "lacks 'dumpversion'"),
    "no entrymapping": (
        index(lambda data: data["indexes"]["alice/dev"]["files"][0].pop("entrymapping")),
        "last_modified",
    ),
    "a million objects": (metadata("[" + "{}," * 10**6 + "{}]"), "brackets and braces"),
    "users a list": (index(lambda data: data.update(users=[])), "'users' is not an object"),
    "files an object": (index(lambda data: data["indexes"]["alice/dev"].update(files={})), "not an array"),
    "type a list": (file(type=["releasefile"]), "the type"),
}


def loaded_as(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """The data that is loaded if something of the sound export is left out."""
    data: dict[str, Any] = json.loads(index(change))
    return data


_NO_FILE = loaded_as(lambda data: data["indexes"]["alice/dev"].update(files=[]))
_NO_HASH = loaded_as(lambda data: data["users"].update(alice={"pwhash": None}))
_OUTER = {"indexconfig": {"type": "stage"}, "projects": {"pkg": {"1.0": {"name": "pkg", "version": "1.0"}}}}
LEFT_OUT: dict[str, tuple[bytes, str, dict[str, Any]]] = {
    "relpath absolute": (file(relpath="/proc/self/environ"), "leads out", _NO_FILE),
    "relpath absolute, no digest": (file(relpath="/proc/self/environ", entrymapping=UNVERIFIED), "leads out", _NO_FILE),
    "relpath out": (file(relpath="../../outside/victim"), "leads out", _NO_FILE),
    "relpath out, no digest": (file(relpath="../../outside/victim", entrymapping=UNVERIFIED), "leads out", _NO_FILE),
    "relpath out by detour": (file(relpath="alice/../../outside/victim"), "leads out", _NO_FILE),
    "a user above, whose index is above": (
        index(
            lambda data: (
                data["indexes"].update({"../..": _OUTER | {"files": [data["indexes"]["alice/dev"]["files"].pop()]}})
                or data["users"].update({"..": {"pwhash": "x"}})
            )
        ),
        "outside of devpi-server's files",
        loaded_as(
            lambda data: (
                data["indexes"]["alice/dev"].update(files=[])
                or data["indexes"].update({"../..": _OUTER | {"files": []}})
                or data["users"].update({"..": {"pwhash": "x"}})
            )
        ),
    ),
    "a hash of 4 GiB": (hashed("$argon2id$v=19$m=4194304,t=3,p=4"), "argon2 hash", _NO_HASH),
    "a hash without end": (hashed("$argon2id$v=19$m=65536,t=4294967295,p=4"), "argon2 hash", _NO_HASH),
    "a hash of root without end": (
        hashed("$argon2i$m=8,t=4294967295,p=1", "root"),
        "argon2 hash",
        loaded_as(lambda data: data["users"].update(root={"pwhash": None})),
    ),
    "a hash that is a number": (
        index(lambda data: data["users"]["alice"].update(pwhash=1)),
        "not a string",
        loaded_as(lambda data: data["users"]["alice"].update(pwhash=None)),
    ),
    "a salt that is a list": (
        index(lambda data: data["users"]["alice"].update(pwsalt=[])),
        "not a string",
        loaded_as(lambda data: data["users"]["alice"].update(pwhash=None)),
    ),
}
"""What is left out: the index, the reason, and the data that is loaded."""


# --- all of it, packed ------------------------------------------------------------------------------------------------

FLIPS = 60
STEP = 4096


@dataclass(frozen=True)
class Case:
    """An archive and its expected result."""

    name: str
    raw: bytes
    suffix: str
    reason: str | None
    """A part of the refusal's reason; "": any; None: it is loaded."""
    may_be_sound: bool = False
    """The damage may have no effect, or (in a plain tar) change a byte that only devpi's importer checks, by digest."""
    member: str | None = None
    limits: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, Any] | None = None
    """It is refused only with SIDECAR_IMPORT_STRICT; otherwise this data is loaded."""


def cases(outside: str) -> Iterator[Case]:
    """Every trick in every format; `outside` is the folder that must not be touched."""
    for name, trick in TRICKS.items():
        raw = trick.raw()
        if OUTSIDE.encode() in raw:
            raw = _placed(raw, outside)
        for suffix, pack in {"tar": bytes}.items() if trick.packed_already else PACKERS.items():
            if suffix == "tar" and not (trick.plain_too or trick.packed_already):
                continue
            evil = None if trick.member is None or OUTSIDE in trick.member else trick.member
            left_out = INDEX if trick.reason in (DOTS, ABSOLUTE) else None
            yield Case(f"{name}, {suffix}", pack(raw), suffix, trick.reason, False, evil, trick.limits, left_out)
    for name, (raw, reason) in INDEXES.items():
        yield Case(f"dataindex: {name}", PACKERS["tar.gz"](export(raw) + ZEROS), "tar.gz", reason)
    for name, (raw, reason, data) in LEFT_OUT.items():
        packed = PACKERS["tar.gz"](export(raw) + ZEROS)
        yield Case(f"dataindex: {name}", packed, "tar.gz", reason, left_out=data)
    sound = export() + ZEROS
    chance = random.Random(20261122)
    for suffix, pack in PACKERS.items():
        packed = pack(sound)
        for end in range(0, len(packed), STEP):
            in_padding = suffix == "tar" and end >= len(export()) + 1024
            yield Case(f"truncated at {end}, {suffix}", packed[:end], suffix, "", in_padding)
        for _ in range(FLIPS):
            bit = chance.randrange(8 * len(packed))
            flipped = bytearray(packed)
            flipped[bit // 8] ^= 1 << bit % 8
            yield Case(f"bit {bit} flipped, {suffix}", bytes(flipped), suffix, "", may_be_sound=True)


def _placed(raw: bytes, outside: str) -> bytes:
    """The tar with `OUTSIDE` replaced in headers and PAX records, with correct lengths and checksums."""
    parts, at = [], 0
    while at < len(raw):
        block = raw[at : at + 512]
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape") if block.strip(b"\0") else None
        size = 0 if info is None or info.type not in (b"0", b"\0", b"x", b"g", b"L", b"K") else info.size
        body = raw[at + 512 : at + 512 + size]
        at += 512 + size + -size % 512
        if info is None or OUTSIDE.encode() not in block + body:
            parts.append(block + body + bytes(-size % 512))
        elif info.type in (b"x", b"g"):
            ((key, value),) = (line.split(" ", 1)[1].split("=") for line in body.decode().splitlines())
            parts.append(extended(info.type, record(key, value.replace(OUTSIDE, outside))))
        elif info.type in (b"L", b"K"):
            parts.append(extended(info.type, body.replace(OUTSIDE.encode(), outside.encode())))
        else:
            info.name = info.name.replace(OUTSIDE, outside)
            info.linkname = info.linkname.replace(OUTSIDE, outside)
            parts.append(info.tobuf(tarfile.PAX_FORMAT) + body + bytes(-size % 512))
    return b"".join(parts)
