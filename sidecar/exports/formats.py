"""Classifies a file by its name and first bytes: an archive to import, an unsupported archive, or none."""

from __future__ import annotations

import re
import tarfile
from dataclasses import dataclass
from typing import Literal

HEAD = 512
"""Bytes at the start of a file that `judge` needs."""

Compression = Literal["bz2", "gzip", "xz", "zstd", "zip"]

_COMPRESSED: tuple[tuple[Compression, re.Pattern[bytes]], ...] = (
    ("bz2", re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)")),
    ("gzip", re.compile(rb"\x1f\x8b")),
    ("xz", re.compile(rb"\xfd7zXZ\0")),
    ("zstd", re.compile(rb"\x28\xb5\x2f\xfd")),
    ("zip", re.compile(rb"PK(?:\x03\x04|\x05\x06|\x07\x08)")),
)
_ENDING = r"\.(?:tar|bz2|tbz2?|tar\.gz|tgz|tar\.xz|txz|tar\.zst|tzst|zip)"
_TAKEN = re.compile(rf".+{_ENDING}", re.IGNORECASE | re.DOTALL)
_NAMED_LIKE_ONE = re.compile(
    r".+\.(?:tar|bz2|tbz2?|tgz|gz|txz|xz|tzst|zst|zip)(?:[.~ (].*|[-_]\d.*)?", re.IGNORECASE | re.DOTALL
)
_BESIDE_ONE = re.compile(
    r".+\.(?:md5|sha\d+|(?:md5|sha\d+)sums?|sums?|digest|sig|sign|minisig|txt|md|log|json|ya?ml|torrent|list|lst)",
    re.IGNORECASE | re.DOTALL,
)
"""Names of checksums, signatures and notes next to an archive: `backup.tar.bz2.sha256`."""

_PACK = "unpack it, and put that folder or a supported archive there: python3 -m tarfile --create backup.bz2 EXPORT"
_GPG = ("is encrypted (OpenPGP)", "replace it with the decrypted file: gpg --decrypt FILE > decrypted.bz2")
_AGE = ("is encrypted (age)", "replace it with the decrypted file: age --decrypt FILE > decrypted.bz2")
_OPENSSL = ("is encrypted (openssl enc)", "replace it with the decrypted file: openssl enc -d -in FILE …")
_SIGNATURE = re.compile(rb"-----BEGIN (?:PGP SIGN|PGP PUBLIC KEY|SSH SIGN)|untrusted comment: ")
_OTHER: tuple[tuple[re.Pattern[bytes], tuple[str, str]], ...] = (
    # a public-key (1) or symmetric-key (3) session key in the old or the new packet format, with its version
    (re.compile(rb"\x84.\x03|\x85..\x03|\xc1[\0-\xbf][\x03\x06]|\xc1[\xc0-\xdf].[\x03\x06]", re.DOTALL), _GPG),
    (re.compile(rb"[\x8c\xc3].[\x04-\x06][\x01-\x0d]", re.DOTALL), _GPG),
    (re.compile(rb"-----BEGIN PGP MESSAGE-----"), _GPG),
    (re.compile(rb"age-encryption\.org/|-----BEGIN AGE ENCRYPTED FILE-----"), _AGE),
    (re.compile(rb"Salted__|U2FsdGVkX1"), _OPENSSL),
    (re.compile(rb"7z\xbc\xaf\x27\x1c"), ("is a 7z archive, which is not supported", _PACK)),
    (re.compile(rb"Rar!\x1a\x07"), ("is a rar archive, which is not supported", _PACK)),
    (re.compile(rb"\x04\x22\x4d\x18"), ("is compressed with lz4, which is not supported", _PACK)),
    (re.compile(rb"LZIP"), ("is compressed with lzip, which is not supported", _PACK)),
    (re.compile(rb"\x89LZO\0"), ("is compressed with lzop, which is not supported", _PACK)),
    (re.compile(rb"\x1f[\x9d\xa0]"), ("is compressed with compress (.Z), which is not supported", _PACK)),
    (re.compile(rb"07070[127]"), ("is a cpio archive, which is not supported", _PACK)),
    (re.compile(rb"!<arch>\n"), ("is an ar archive, which is not supported", _PACK)),
)
_BY_NAME = (
    (re.compile(r".+\.(?:gpg|pgp)(?:~|[-_.]\d.*)?", re.IGNORECASE | re.DOTALL), _GPG),
    (re.compile(r".+\.age(?:~|[-_.]\d.*)?", re.IGNORECASE | re.DOTALL), _AGE),
    (
        re.compile(r".+\.(?:enc|aes|crypt|asc)", re.IGNORECASE | re.DOTALL),
        ("is encrypted, by its name", "replace it with the decrypted file"),
    ),
    (
        re.compile(r".+\.(?:7z|rar|lz4|lz|tlz|lzma|lzo|z|taz|cpio|br|sz|zpaq|arj|cab|dar)", re.IGNORECASE | re.DOTALL),
        ("is of an unsupported format, by its name", _PACK),
    ),
)


@dataclass(frozen=True, slots=True)
class NotTaken:
    """Why a file that is an archive, or is named like one, can't be imported, and the hint."""

    reason: str
    hint: str


def compression(head: bytes) -> Compression | None:
    """The supported compression of a file that begins with `head`; None: none."""
    return next((name for name, magic in _COMPRESSED if magic.match(head)), None)


def judge(name: str, head: bytes) -> NotTaken | bool:
    """Whether a file of this name that begins with `head` is an archive to import.

    True by its content, or by its name alone; it may still turn out to be damaged. False: it is no archive.
    """
    if compression(head) or _is_tar(head):
        return True
    if _SIGNATURE.match(head):
        return False
    for magic, told in _OTHER:
        if magic.match(head):
            return NotTaken(*told)
    if _TAKEN.fullmatch(name):
        return True
    for pattern, told in _BY_NAME:
        if pattern.fullmatch(name):
            return NotTaken(*told)
    if _NAMED_LIKE_ONE.fullmatch(name) and not _BESIDE_ONE.fullmatch(name):
        what = "its content has no known format" if head else "it is empty"
        return NotTaken(
            f"is named like an archive, but {what}",
            "replace it with the complete archive: join the parts of a split one, decrypt an encrypted one, "
            "copy a damaged one again",
        )
    return False


def _is_tar(head: bytes) -> bool:
    """Whether it begins with a tar header with a correct checksum."""
    try:
        tarfile.TarInfo.frombuf(head[:512], "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError):
        return False
    return True
