"""The templates of the pages: Jinja2 with autoescape.

Importing this imports Jinja2 and compiles the templates of the page at `/`: `loading.load` does so in a thread. Text of
unknown origin goes through the filters `plain` or `coded`.
"""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache, partial
from pathlib import Path

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

from sidecar.core import text
from sidecar.core.public import rfc3339
from sidecar.web.page import words

_FOLDER = Path(__file__).parent / "templates"
_NAMES = sorted({path.stem for path in _FOLDER.glob("*.html")} - {"docs"})


def render(name: str, /, **values: object) -> Markup:
    """Return the HTML that the template `name` makes of the values."""
    return Markup(_ENVIRONMENT.get_template(name).render(values))  # noqa: S704 - the template has escaped all values


def section(name: str, /, **values: Hashable) -> Markup:
    """Do as `render`, but keep the last output of each template for equal values: most sections seldom change."""
    return _SECTIONS[name](**values)


def _source(name: str) -> str:
    """Return a template with its lines joined without indentation: `:empty` and `pre` see every space."""
    lines = (_FOLDER / f"{name}.html").read_text(encoding="utf-8").splitlines()
    return "".join(line.strip() for line in lines)


_ENVIRONMENT = Environment(
    autoescape=True, undefined=StrictUndefined, loader=FunctionLoader(_source), auto_reload=False
)
_ENVIRONMENT.filters |= {
    "plain": words.plain,
    "coded": words.coded,
    "marked": words.marked,
    "number": words.number,
    "utc": words.utc,
    "clock": words.clock,
    "rfc3339": rfc3339,
    "ago": text.ago,
    "duration": text.duration,
    "size": text.size,
}
_ENVIRONMENT.globals["MANY"] = 20  # items of a list that are shown; the rest is counted
_MACROS = vars(_ENVIRONMENT.get_template("macros").module).items()
_ENVIRONMENT.globals |= {name: lru_cache(maxsize=64)(macro) for name, macro in _MACROS if not name.startswith("_")}
_SECTIONS = {name: lru_cache(maxsize=1)(partial(render, name)) for name in _NAMES}
for _name in _NAMES:
    _ENVIRONMENT.get_template(_name)  # compiles it
