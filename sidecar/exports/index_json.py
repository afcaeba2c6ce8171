"""Parses a hostile ``dataindex.json``; `dataindex` checks its content."""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any, NoReturn

from sidecar.exports.sources import ImportRefused, shown

_COPY_AGAIN = "compare the archive with the original; if they are equal, export again with devpi-export"
_DENSE = 12  # bytes per bracket or brace, of which an export has more; "{}," takes 24 times its size in memory
_DENSE_FROM = 2**20  # bytes


def parse(raw: bytes, archive: str, member: str) -> dict[str, Any]:
    """Parse a ``dataindex.json``: UTF-8 without duplicate keys. Raises ImportRefused.

    NaN and Infinity are allowed: devpi's API accepts them, so an export may contain them.
    """

    def refuse(reason: str) -> NoReturn:
        raise ImportRefused(reason, _COPY_AGAIN, archive, member)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
            refuse(f"has the key {shown(twice)} twice in one object")
        return result

    if len(raw) > _DENSE_FROM and (raw.count(b"{") + raw.count(b"[")) * _DENSE > len(raw):
        refuse("consists mostly of brackets and braces, which take many times its size in memory")
    try:
        data = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
        if re.search(rb"\\u[dD][89a-fA-F]", raw):  # lone surrogates, which devpi can't store
            json.dumps(data, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        refuse(f"isn't valid UTF-8 (byte {error.start})")
    except UnicodeEncodeError:
        refuse("has an unpaired surrogate in a string")
    except json.JSONDecodeError as error:
        is_cut = error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated string")
        what = "is truncated or empty" if is_cut else "isn't valid JSON"
        refuse(f"{what}: line {error.lineno}, column {error.colno}: {error.msg}")
    except RecursionError:
        refuse("is nested too deeply")
    except ValueError as error:  # an int of more than 4300 digits
        refuse(f"has a number that is too long: {error}")
    if not isinstance(data, dict):
        refuse(f"is not an object but {shown(data)}")
    return data
