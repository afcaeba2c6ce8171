"""The import as a section of the page: how far it is, what there is to load, and of what."""

from __future__ import annotations

from sidecar.core import text
from sidecar.core.check import FAIL, PASS, WARN
from sidecar.features.bootstrap.import_status import Count, ImportState, ImportStatus
from sidecar.web.page import words

_MANY = 20
"""Archives that are shown; the rest is counted."""
_STEPS = {
    ImportState.PENDING: "Step 1 of 3: about to unpack",
    ImportState.EXTRACTING: "Step 1 of 3: unpacking and verifying",
    ImportState.LOADING: "Step 2 of 3: loading",
    ImportState.INSTALLING: "Step 3 of 3: moving it to its place",
}


def progress(of: ImportStatus) -> str:
    """The section; empty where nothing was imported. Why it failed is the headline's."""
    if of.state is ImportState.NONE:
        return ""
    parts = ["<h2>Import</h2>"]
    if of.state is ImportState.COMPLETED:
        parts.append(f"<p>{words.badge(PASS, 'completed')} {_span(of)}</p>")
    elif of.state is ImportState.FAILED:
        parts.append(f"<p>{words.badge(FAIL, 'failed')} {_span(of)}</p>")
    else:
        parts.append(_bar(of))
    parts.append(_counts(of))
    parts.append(_left_out(of))
    parts.append(_archives(of))
    return "".join(parts)


def _span(of: ImportStatus) -> str:
    if of.started is None or of.finished is None:
        return ""
    return f"{words.time(of.finished)}, after {text.duration((of.finished - of.started).total_seconds())}"


def _bar(of: ImportStatus) -> str:
    step = _STEPS[of.state]
    count = of.extracted if of.state in (ImportState.PENDING, ImportState.EXTRACTING) else of.files
    if of.state is ImportState.INSTALLING:
        count = Count(1, 1)
    measure = f' max="{count.total}" value="{min(count.done, count.total)}"' if count.total else ""
    percent = f"{100 * min(count.done, count.total) // count.total} %" if count.total else ""
    left = f"about {text.duration(of.eta_seconds)} left" if of.eta_seconds is not None else ""
    rate = f"{of.rate:,.0f} files/s" if of.rate is not None else ""
    now = f'<p class="current">{words.text(of.current, 120)}</p>' if of.current else '<p class="current"></p>'
    return (
        f'<div class="progress"><p><span>{step}</span><span>{percent}</span></p>'
        f'<progress aria-label="{step}"{measure}></progress>'
        f"<p><span>{rate}</span><span>{left}</span></p>{now}</div>"
    )


def _counts(of: ImportStatus) -> str:
    """What is counted, as done of total; nothing where nothing has been counted yet."""
    counts = [
        (name, f"{count.done:,}", f"{count.total:,}")
        for name, count in (
            ("Files", of.files), ("Projects", of.projects), ("Indexes", of.indexes), ("Users", of.users),
        )
    ]  # fmt: skip
    counts.append(("Bytes", text.size(of.bytes.done), text.size(of.bytes.total)))
    if not of.files.total and not of.users.total:
        return ""
    done = of.state is ImportState.COMPLETED
    cells = [
        f"<div><dt>{name}</dt><dd>{made}{'' if done else f' <small>of {total}</small>'}</dd></div>"
        for name, made, total in counts
    ]
    return f'<dl class="counts">{"".join(cells)}</dl>'


def _left_out(of: ImportStatus) -> str:
    if not of.left_out_total:
        return ""
    items = [
        f"<li>{words.text(each.member)} of {words.text(each.archive)}: {words.text(each.reason)}</li>"
        for each in of.left_out
    ]
    if (more := of.left_out_total - len(items)) > 0:
        items.append(f"<li>and {more} more</li>")
    said = f"{words.badge(WARN, 'incomplete')} {of.left_out_total} left out, not safe to load:"
    return f'<div id="left-out"><p>{said}</p><ul>{"".join(items)}</ul></div>'


def _archives(of: ImportStatus) -> str:
    if not of.archives and not of.ignored:
        return ""
    items = []
    for archive in of.archives[:_MANY]:
        digest = f"<br><code>sha256 {words.text(archive.sha256, 64)}</code>" if archive.sha256 else ""
        items.append(f"<li>{words.text(archive.name)}, {text.size(archive.bytes)}{digest}</li>")
    items += [f"<li>{words.text(name)}, ignored: not an export</li>" for name in of.ignored[:_MANY]]
    if (more := max(0, len(of.archives) - _MANY) + max(0, len(of.ignored) - _MANY)) > 0:
        items.append(f"<li>and {more} more</li>")
    title = f"{len(of.archives)} archive{'' if len(of.archives) == 1 else 's'}"
    return f'<details id="archives"><summary id="archives-title">{title}</summary><ul>{"".join(items)}</ul></details>'
