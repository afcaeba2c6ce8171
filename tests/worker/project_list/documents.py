"""Documents of upstreams, and the command that converts them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
URL = "http://upstream.test/simple/"
ABOUT = {"url": URL, "etag": '"1"', "fetched_at": 1000.0, "delimited": True}


def as_json(names: Iterable[object], meta: object = None) -> bytes:
    """PEP 691."""
    projects = [{"_last-serial": number, "name": name} for number, name in enumerate(names)]
    return json.dumps({"meta": meta or {"api-version": "1.4"}, "projects": projects}, separators=(",", ":")).encode()


def as_html(names: Iterable[str]) -> bytes:
    """PEP 503."""
    links = "".join(f'    <a href="/simple/{name}/">{name}</a>\n' for name in names)
    head = "<!DOCTYPE html>\n<html>\n  <head><title>Simple index</title></head>\n  <body>\n"
    return f"{head}{links}  </body>\n</html>\n".encode()


def command(target: Path, form: str = "json", encoding: str = "identity", limit: int = 2**28) -> list[str]:
    """The subprocess's command line."""
    module = ["-m", "sidecar.worker.project_list"]
    return [sys.executable, "-S", "-P", *module, str(target), form, encoding, str(limit)]


def environ() -> dict[str, str]:
    """Its environment."""
    return {"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}


def convert(
    body: bytes,
    target: Path,
    form: str = "json",
    encoding: str = "identity",
    limit: int = 2**28,
    about: dict[str, object] | None = None,
) -> tuple[int, Any]:
    """Run the subprocess to its end; its exit code, and what it printed."""
    first = json.dumps(ABOUT | (about or {})).encode() + b"\n"
    done = subprocess.run(
        command(target, form, encoding, limit),
        input=first + body,
        stdout=subprocess.PIPE,
        env=environ(),
        timeout=300,
        check=False,
    )
    return done.returncode, json.loads(done.stdout)
