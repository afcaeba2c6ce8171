"""`python -m sidecar.worker.project_list`: the names of real and of hostile documents, in bounded memory."""

from __future__ import annotations

import functools
import gzip
import json
import os
import random
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from sidecar.worker.project_list import __main__ as conversion
from sidecar.worker.project_list import html_document, json_document
from sidecar.worker.project_list.list_file import ListFile
from sidecar.worker.project_list.names import NotAList, normalize
from tests.worker.project_list.documents import ABOUT, ROOT, URL, as_html, as_json, command, convert, environ

NAMES = ["Django", "a", "flask_login", "zope.interface"]


@pytest.mark.parametrize("encoding", ["identity", "gzip"])
@pytest.mark.parametrize("form", ["json", "html"])
def test_a_document_becomes_a_private_list(tmp_path: Path, form: str, encoding: str) -> None:
    body = as_json(reversed(NAMES)) if form == "json" else as_html(reversed(NAMES))
    if encoding == "gzip":
        body = gzip.compress(body[:50]) + gzip.compress(body[50:])  # two members are one document
    target = tmp_path / ".tmp-list"
    assert convert(body, target, form, encoding) == (0, {"names": 4, "invalid": 0})
    assert target.stat().st_mode & 0o7777 == 0o600
    found = ListFile.open(target)
    assert list(found) == sorted(NAMES, key=str.lower)
    assert (found.url, found.etag, found.fetched_at) == (URL, '"1"', 1000.0)
    assert [path.name for path in tmp_path.iterdir()] == [".tmp-list"]


def test_invalid_names_are_counted_and_left_out(tmp_path: Path) -> None:
    invalid: list[object] = [
        "../x",
        "a\x00b",
        "a\nb",
        "",
        "-a",
        "a-",
        "n" * 201,
        "é",
        "\ud800",
        None,
        7,
        ["x"],
        {"a": "b"},
    ]
    names: list[object] = [*(f"n{number}" for number in range(20)), *invalid, "n" * 200]
    target = tmp_path / ".tmp-list"
    assert convert(as_json(names), target) == (0, {"names": 21, "invalid": len(invalid)})
    assert {len(name) for name in ListFile.open(target)} == {2, 3, 200}


def test_elements_that_are_no_projects_are_invalid(tmp_path: Path) -> None:
    others = b'{"name":"x}"}, 7, "y", {"other": {"name": "z"}}'
    body = b'{"projects": [{"name":"a"}, {"name":"b"}, ' + others + b', {"name":"c"}, {"name":"d"}]}'
    assert convert(body, tmp_path / ".tmp-list") == (0, {"names": 4, "invalid": 4})


JSON_FAILURES = {
    "empty": (b"", "cut"),
    "cut": (as_json(NAMES)[:-1], "cut"),
    "more": (as_json(NAMES) + b"{}", "unreadable"),
    "html": (as_html(NAMES), "unreadable"),
    "array": (b"[]", "unreadable"),
    "no projects": (b'{"meta": {"api-version": "1.0"}}', "unreadable"),
    "projects twice": (b'{"projects": [{"name": "a"}], "projects": []}', "unreadable"),
    "projects is an object": (b'{"projects": {"name": "a"}}', "unreadable"),
    "none": (as_json([]), "unreadable"),
    "more than half invalid": (as_json(["a", "../b", "../c"]), "unreadable"),
    "version 2": (as_json(NAMES, {"api-version": "2.0"}), "unreadable"),
    "version 10": (as_json(NAMES, {"api-version": "10.1"}), "unreadable"),
    "not UTF-8": (as_json(NAMES).replace(b"Django", b"\xff"), "unreadable"),
    "no comma": (b'{"projects": [{"name": "a"} {"name": "b"}]}', "unreadable"),
    "long number": (b'{"meta": {"api-version": "1.0", "n": ' + b"9" * 5000 + b"}}", "cut"),
    "nested": (b'{"projects": ' + b"[" * 1_000_000, "unreadable"),
    "nested objects": (b'{"projects": [' + b'{"name":' * 1_000_000, "unreadable"),
    "nested, and closed": (b'{"x": ' + b"[" * 20_000 + b"]" * 20_000 + b"}", "unreadable"),
    "endless name": (b'{"projects": [{"name": "' + b"a" * 3_000_000, "unreadable"),
    "endless key": (b'{"' + b"a" * 3_000_000, "unreadable"),
}


@pytest.mark.parametrize("case", JSON_FAILURES)
def test_what_is_no_list_in_json_fails(tmp_path: Path, case: str) -> None:
    """In this process: the limits hold without the kernel's."""
    body, kind = JSON_FAILURES[case]
    with pytest.raises(NotAList) as failed:
        _convert_here(tmp_path, body)
    assert failed.value.kind == kind
    assert str(failed.value).isprintable()
    assert len(str(failed.value)) < 200


def _convert_here(tmp_path: Path, body: bytes) -> object:
    source = os.memfd_create("document")
    try:
        os.write(source, json.dumps(ABOUT).encode() + b"\n" + body)
        os.lseek(source, 0, os.SEEK_SET)
        return conversion.convert(source, str(tmp_path / "list"), "json", compressed=False, max_bytes=2**26)
    finally:
        os.close(source)


@pytest.mark.parametrize(
    ("case", "body"),
    [
        ("a login page", b"<html><body><a href='/login'>Sign in</a> <a href='/help'>Get help</a></body></html>"),
        ("a link is cut", b'<a href="a/">a</a><a href="b/">b'),
        ("a tag is cut", b'<a href="a/">a</a><a href="b'),
        ("an endless comment", b'<a href="a/">a</a><!-- ' + b"x > " * 100_000),
        ("an endless tag", b'<a href="a/">a</a><a href="' + b"x" * 1_000_000),
        ("an endless link", b'<a href="a/">a</a><a href="b/">' + b"x" * 1_000_000),
        ("an image", b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 100),
    ],
)
def test_what_is_no_list_in_html_fails(tmp_path: Path, case: str, body: bytes) -> None:
    code, answer = convert(body, tmp_path / ".tmp-list", "html")
    assert code == 1, case
    assert answer["kind"] in {"cut", "unreadable"}


def test_html_without_a_length_must_end(tmp_path: Path) -> None:
    cut = as_html(NAMES).partition(b"  </body>")[0]
    assert convert(cut, tmp_path / "1", "html")[0] == 0
    code, answer = convert(cut, tmp_path / "2", "html", about={"delimited": False})
    assert (code, answer["kind"]) == (1, "cut")
    assert convert(as_html(NAMES), tmp_path / "3", "html", about={"delimited": False})[0] == 0


def test_html_gives_the_links_that_devpi_takes() -> None:
    page = """<!DOCTYPE html><html><head><title>x</title><script>"<a href='s/'>s</a>"</script></head><body>
    <!-- <a href="comment/">comment</a> > --><A HREF='upper/'>upper</A><a>no</a><a href="">no</a><a href="/">no</a>
    <a href="../below/" class="x">below</a><br/><a href="folder/">folder/</a><a href="empty/"> </a>
    <a href="http://upstream.test/simple/full/">full</a><a href="http://other.test/simple/other/">other</a>
    <a href="ftp://upstream.test/simple/ftp/">ftp</a><a href="http://upstream.test/up/">up</a>
    <a href="bold/"><b>bold</b></a><a href="zope-interface/">Zope.Interface</a><br /><a href="next/">next</a></body>"""
    for size in (1, 7, 10_000):
        pieces = (page[at : at + size] for at in range(0, len(page), size))
        found = [name for batch in html_document.names(pieces, URL, delimited=False) for name in batch]
        assert found == ["upper", "below", "folder", "full", "bold", "Zope.Interface", "next"], size


def test_json_in_pieces_of_any_size_is_the_same() -> None:
    document = json.dumps(
        {"meta": {"api-version": "1.1"}, "x": [1, 2.5, None], "projects": [{"name": n} for n in NAMES]}
    )
    for size in (1, 2, 3, 10, 100, 1000):
        pieces = (document[at : at + size] for at in range(0, len(document), size))
        assert [name for batch in json_document.names(pieces) for name in batch] == NAMES, size


def test_gzip_that_is_cut_or_changed_fails(tmp_path: Path) -> None:
    body = gzip.compress(as_json(NAMES))
    for number, broken in enumerate(
        (body[:-4], body[:20], b"", body[:40] + b"\x00" + body[41:], body + b"junk", as_json(NAMES))
    ):
        code, answer = convert(broken, tmp_path / str(number), encoding="gzip")
        assert (code, answer["kind"] in {"cut", "unreadable"}) == (1, True)


def test_the_limit_is_of_the_decompressed_size(tmp_path: Path) -> None:
    body = as_json(NAMES)
    assert convert(body, tmp_path / "1", limit=len(body))[0] == 0
    code, answer = convert(gzip.compress(body), tmp_path / "2", encoding="gzip", limit=len(body) - 1)
    assert (code, answer["kind"]) == (1, "too-large")


@pytest.mark.parametrize("content", [b" ", b'{"name":"a"},'])
def test_a_gzip_bomb_stays_small(tmp_path: Path, content: bytes) -> None:
    """32 MiB where 16 are allowed, from a few KB."""
    compress = zlib.compressobj(9, wbits=31)
    unit = (content * (2**20 // len(content) + 1))[: 2**20 // len(content) * len(content)]
    body = compress.compress(b'{"projects":[') + b"".join(compress.compress(unit) for _ in range(32)) + compress.flush()
    code, answer, peak, _ = _measured(tmp_path, body, "json", "gzip", 2**24)
    assert (code, answer["kind"]) == (1, "too-large")
    assert peak < 60


MEASURE = """
import json, os, sys
process = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ)
_, status, usage = os.wait4(process, 0)
print(json.dumps([os.waitstatus_to_exitcode(status), usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime]))
"""
"""A small process: the kernel's peak of a process begins with its parent's size."""


def _measured(
    tmp_path: Path, body: bytes, form: str, encoding: str, limit: int = 2**28
) -> tuple[int, dict[str, object], float, float]:
    """Exit code, answer, peak in MiB and CPU seconds of the subprocess."""
    document = tmp_path / "document"
    document.write_bytes(json.dumps(ABOUT).encode() + b"\n" + body)
    with document.open("rb") as file:
        done = subprocess.run(
            [sys.executable, "-S", "-c", MEASURE, *command(tmp_path / ".tmp-list", form, encoding, limit)],
            stdin=file,
            stdout=subprocess.PIPE,
            env=environ(),
            timeout=300,
            check=True,
        )
    answer, measured = done.stdout.splitlines()
    code, peak, cpu = json.loads(measured)
    return code, json.loads(answer), peak, cpu


@functools.cache
def _many() -> list[str]:
    """650,000 names as PyPI's: sorted, in all spellings."""
    source = random.Random(1)
    names = [f"{source.choice(('Py', 'django', 'lib', 'x'))}{'._-'[n % 3]}{n:07}-tool" for n in range(650_000)]
    return sorted(names, key=normalize)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "encoding", "order"),
    [("json", "identity", "sorted"), ("json", "gzip", "shuffled"), ("html", "identity", "sorted")],
)
def test_the_memory_of_all_of_pypi_is_small(tmp_path: Path, form: str, encoding: str, order: str) -> None:
    names = list(_many())
    if order == "shuffled":
        random.Random(2).shuffle(names)
    invalid = 65_000 if form == "json" else 0
    body = as_json([*names, *(f"../{n}" for n in range(invalid))]) if form == "json" else as_html(names)
    body = gzip.compress(body, 1) if encoding == "gzip" else body
    code, answer, peak, cpu = _measured(tmp_path, body, form, encoding)
    print(
        f"{form} {encoding} {order}: {peak:.0f} MiB, {cpu:.1f} CPU-s, {(tmp_path / '.tmp-list').stat().st_size} bytes"
    )
    assert (code, answer) == (0, {"names": 650_000, "invalid": invalid})
    assert peak < 60
    assert cpu < 60
    found = ListFile.open(tmp_path / ".tmp-list")
    assert all(found.find(normalize(name)) == name for name in names[::1000])


def test_it_imports_little() -> None:
    """It starts for each refresh, and has the memory of what it imports."""
    done = subprocess.run(
        [sys.executable, "-S", "-P", "-c", "import sidecar.worker.project_list.__main__, sys; print(*sys.modules)"],
        env={"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=60,
    )
    modules = set(done.stdout.split())
    assert not modules & {
        "asyncio",
        "devpi_server",
        "httpx",
        "pathlib",
        "subprocess",
        "socket",
        "ssl",
        "typing",
        "logging",
    }


@pytest.mark.parametrize("sent", [0, 1, 40, 100_000, 2_000_000])
def test_a_kill_leaves_no_list(tmp_path: Path, sent: int) -> None:
    target = tmp_path / ".tmp-list"
    body = json.dumps(ABOUT).encode() + b"\n" + as_json([f"name{n}" for n in range(100_000)])
    process = subprocess.Popen(command(target), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ())
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(body[:sent])
    process.stdin.flush()
    process.send_signal(signal.SIGKILL)
    printed, _ = process.communicate()
    assert (process.returncode, printed) == (-signal.SIGKILL, b"")
    assert not target.exists()


def test_it_is_the_first_to_yield_and_the_first_to_be_killed(tmp_path: Path) -> None:
    process = subprocess.Popen(
        command(tmp_path / ".tmp-list"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environ()
    )
    assert process.stdin is not None
    with process:
        process.stdin.write(json.dumps(ABOUT).encode() + b"\n" + as_json(NAMES)[:-1] + b" " * 2**18)
        process.stdin.flush()  # more than a pipe holds: it has read the first part
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == 19
        assert Path(f"/proc/{process.pid}/oom_score_adj").read_text() == "1000\n"
        limits = Path(f"/proc/{process.pid}/limits").read_text()
        assert str(400 * 2**20) in limits
        process.kill()
