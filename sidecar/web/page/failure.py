"""A failed import on the page: which file, why, what to do, how to restart, and how to start empty instead."""

from __future__ import annotations

from sidecar.core.surroundings import Surroundings
from sidecar.features.bootstrap.import_status import ImportFailure
from sidecar.web.page import words

_AGAIN = (
    "If disk or memory ran out, or a file could not be read, a restart tries again. Otherwise it tries again only if an"
    " archive (its name, size or modification time: <code>touch</code>) or a setting of the import changes."
)


def failure(of: ImportFailure, around: Surroundings) -> str:
    """The steps, where `around` is what runs this."""
    file = words.text(of.archive, 500) if of.archive else ""
    steps = [
        ("File", file),
        ("In it", words.text(of.member, 500) if of.member else ""),
        ("Why", words.with_code(of.reason, 1000)),
        ("What to do", words.with_code(of.hint, 1000)),
        ("Then restart", f'{_restart(around)}<p class="hint">{_AGAIN}</p>'),
        ("Or start empty", _start_empty(file or "the archives", around)),
    ]
    return '<dl class="steps">' + "".join(f"<dt>{name}</dt><dd>{text}</dd>" for name, text in steps if text) + "</dl>"


def _restart(around: Surroundings) -> str:
    if around.restart is None:
        return "Stop it (Ctrl-C) and start it again."
    return words.commands(around.restart, label="Restart command")


def _start_empty(file: str, around: Surroundings) -> str:
    """Docker can't start a container again without a file that was mounted into it: a new one is needed."""
    match around.runner:
        case "kubernetes":
            return f"Take {file} out of the init volume, or its mount out of the manifest; then restart."
        case None:
            return f"Move {file} out of the init folder, then start it again."
        case runner:
            return (
                f"If a folder is mounted, move {file} out of it and restart. If {file} itself is mounted, this"
                " container can&rsquo;t start without it. Replace the container, and keep the volume:"
                + words.commands(around.remove or "", label="Command to remove the container")
                + f"<p>Then <code>{runner} run</code> as before, without mounting {file}. With compose instead: move"
                f" the file away, then <code>{runner} compose up --detach --force-recreate</code>.</p>"
            )
