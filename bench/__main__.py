"""`just bench [NAME…]`: compare plain devpi-server with devpi-sidecar, and report which targets are met."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import traceback
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from bench import (
    crowds,
    growth,
    imports,
    looking,
    memory,
    mirror_clients,
    mirrors,
    probes,
    restarts,
    scrapes,
    serving,
    starts,
)
from bench.report import Result, Row, Section, Series, as_markdown, as_text, of_markdown
from bench.rounds import ROOT, Bench, Comparison, Failed

COMPARISONS: dict[str, Comparison] = {
    each.name: each
    for each in (
        *starts.COMPARISONS,
        *memory.COMPARISONS,
        *imports.COMPARISONS,
        *growth.COMPARISONS,
        *probes.COMPARISONS,
        *serving.COMPARISONS,
        *restarts.COMPARISONS,
        *crowds.COMPARISONS,
        *scrapes.COMPARISONS,
        *looking.COMPARISONS,
        *mirrors.COMPARISONS,
        *mirror_clients.COMPARISONS,
    )
}
DEFAULT_PAIRS = 5


def main(arguments: list[str]) -> int:
    """Return 0 if everything was measured, whether or not targets are met; otherwise 1."""
    parser = argparse.ArgumentParser(
        prog="just bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="comparisons:\n" + "\n".join(f"  {each.name:15} {each.title}" for each in COMPARISONS.values()),
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="what to measure (default: everything)")
    parser.add_argument("--pairs", type=int, default=DEFAULT_PAIRS, help="rounds of each comparison (default: 5)")
    parser.add_argument(
        "--quick", action="store_true", help="smaller inputs and shorter loads, to test the bench itself"
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="duration of `soak` (default: 60)")
    parser.add_argument("--write", action="store_true", help="write docs/performance.md and docs/img/")
    given = parser.parse_args(arguments)
    if unknown := [name for name in given.names if name not in COMPARISONS]:
        parser.error(f"unknown comparison: {', '.join(unknown)}")
    if given.pairs < 1:
        parser.error("--pairs must be 1 or more")
    if given.write and given.quick:
        parser.error("--quick figures can't be published: remove --write")
    bench = Bench(given.pairs, given.quick, minutes=given.minutes)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that started processes are stopped
    command = " ".join(["just bench", *arguments])
    sections = [_measure(bench, COMPARISONS[name], command) for name in given.names or COMPARISONS]
    if not given.quick:
        _keep(bench, sections)
    if given.write:
        _write(bench, sections, ROOT / "docs")
    return int(any(row.failed for section in sections for row in section.result.rows))


def _measure(bench: Bench, comparison: Comparison, command: str) -> Section:
    """Measure one comparison. An error becomes its result; the others still run."""
    print(f"{comparison.name}: {comparison.title}", file=sys.stderr, flush=True)
    environment = _environment(bench, command)
    try:
        result = comparison.measure(bench)
    except Exception as error:
        reason = str(error)
        if not isinstance(error, Failed):
            traceback.print_exc()
            reason = f"{type(error).__name__}: {error}"
        result = Result([Row("everything", "", None, Series((), (f"can't be measured here: {reason}",)))])
    section = Section(comparison.name, comparison.title, environment, result)
    print(f"\n{as_text(section)}\n  {_line(environment)}\n", flush=True)
    return section


def _environment(bench: Bench, command: str) -> dict[str, str]:
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _commit(),
        "pairs": f"{bench.pairs}{' (quick: not reliable)' if bench.quick else ''}",
        "CPUs": str(len(os.sched_getaffinity(0))),
        "load average at the start": " ".join(f"{each:.2f}" for each in os.getloadavg()),
        "kernel": platform.release(),
        "Python": platform.python_version(),
        **{name: version(name) for name in ("devpi-server", "aiohttp", "devpi-sidecar")},
        "command": f"`{command}`",
    }


def _line(environment: dict[str, str]) -> str:
    return "; ".join(f"{name} {value}" for name, value in environment.items())


def _commit() -> str:
    """Return the checked-out commit, and whether files differ from it."""
    if shutil.which("git") is None:
        return "unknown"
    git = ["git", "--no-optional-locks", "-C", str(ROOT)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=False)
    if head.returncode:
        return "unknown"
    return head.stdout.strip() + (" with changes" if changed.stdout.strip() else "")


def _keep(bench: Bench, sections: list[Section]) -> None:
    """Keep the results, so that the page can be written from several runs, each with its own date and commit."""
    folder = bench.home / "results"
    folder.mkdir(exist_ok=True)
    for section in sections:
        data = {"environment": section.environment, "result": section.result.to_json()}
        (folder / f"{section.name}.json").write_text(json.dumps(data, indent=1))


def _write(bench: Bench, measured: list[Section], docs: Path) -> None:
    """Write docs/performance.md with this run's results, and earlier ones for the rest."""
    now = {section.name: section for section in measured}
    page = docs / "performance.md"
    written = of_markdown(page.read_text()) if page.exists() else {}
    sections: list[Section | str] = []
    for name, comparison in COMPARISONS.items():
        kept = bench.home / "results" / f"{name}.json"
        if name in now:
            sections.append(now[name])
        elif kept.exists():
            data = json.loads(kept.read_text())
            sections.append(Section(name, comparison.title, data["environment"], Result.from_json(data["result"])))
        elif comparison.title in written:  # measured elsewhere
            sections.append(written[comparison.title])
    (docs / "img").mkdir(parents=True, exist_ok=True)
    for section in sections:
        if isinstance(section, Section):
            for name, image in section.result.plots.items():
                (docs / "img" / name).write_text(image)
    page.write_text(as_markdown(sections))
    print(f"wrote {docs / 'performance.md'}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
