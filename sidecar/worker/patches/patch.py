"""Describe a patch by the foreign names that it replaces or uses, and verify them."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from types import CodeType
from typing import Any, Literal, NamedTuple

Use = Literal["start", "help", "prepare", "init", "import", "serve", "tools"]
"""When a patch is needed: at the worker's start, for --help, any preparation, devpi-init, an import, serving, tools."""


class Patch(NamedTuple):
    """A change to foreign code, or a use of its private names."""

    name: str
    uses: tuple[Use, ...]
    why: str
    upstream: str
    """The anchor of the section of docs/upstream.md with the upstream change that would replace it."""
    targets: Mapping[str, str]
    """`module:name` or `module:name.name` → what is verified:

    - `(self, uri)`: it is callable and has these parameters
    - empty: it exists
    - `in F`: the code of the module's function or class F uses the last name as an attribute, variable or parameter
    - `text of F`: a string in F contains what follows the colon
    """
    only_faster: bool = False
    """The patch only makes devpi-server faster: a miss is a warning."""


class Miss(NamedTuple):
    """A target that is missing or different."""

    patch: str
    target: str
    problem: str

    def __str__(self) -> str:
        return f"{self.target} {self.problem} ({self.patch})"


def misses(patches: Iterable[Patch]) -> list[Miss]:
    """Return the targets of these patches that are missing or different. Imports their modules."""
    found = []
    for patch in patches:
        for target, expected in patch.targets.items():
            if (problem := _problem(target, expected)) is not None:
                found.append(Miss(patch.name, target, problem))
    return found


def _problem(target: str, expected: str) -> str | None:
    path, _, name = target.partition(":")
    try:
        module = import_module(path)
    except Exception as error:  # an unknown version may raise anything
        return f"can't be imported: {error}"
    way, _, where = expected.rpartition(" ")
    if way in ("in", "text of"):
        holder = _find(module, where)
        if holder is None:
            return f"can't be verified: {where} is missing"
        if way == "text of":
            return None if any(name in text for text in _texts(holder)) else f"is not in {where}"
        last = name.rpartition(".")[2]
        return None if any(last in names for names in _names(holder)) else f"is not in {where}"
    found = _find(module, name)
    if found is None:
        return "is missing"
    if expected and (parameters := _parameters(found)) != expected:
        return f"has the parameters {parameters}, not {expected}" if parameters else "is not callable"
    return None


def _find(holder: object, name: str) -> Any:  # noqa: ANN401
    for part in name.split("."):
        holder = getattr(holder, part, None)
    return holder


def _parameters(function: Any) -> str | None:  # noqa: ANN401
    """Return the parameters as `Patch.targets` spells them; None if it is not callable."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    words = []
    starred = False
    for each in parameters:
        if each.kind is each.KEYWORD_ONLY and not starred:
            words.append("*")
        starred = starred or each.kind in (each.VAR_POSITIONAL, each.KEYWORD_ONLY)
        stars = "*" if each.kind is each.VAR_POSITIONAL else "**" if each.kind is each.VAR_KEYWORD else ""
        words.append(f"{stars}{each.name}")
    return f"({', '.join(words)})"


def _codes(holder: Any) -> Iterator[CodeType]:  # noqa: ANN401
    """Yield the code objects of a function, or of all members of a class."""
    functions = vars(holder).values() if isinstance(holder, type) else [holder]
    waiting = []
    for each in functions:
        function = getattr(each, "fget", None) or getattr(each, "func", None) or getattr(each, "__wrapped__", each)
        if isinstance(code := getattr(function, "__code__", None), CodeType):
            waiting.append(code)
    while waiting:
        code = waiting.pop()
        yield code
        waiting += [each for each in code.co_consts if isinstance(each, CodeType)]


def _names(holder: object) -> Iterator[tuple[str, ...]]:
    for code in _codes(holder):
        yield code.co_names + code.co_varnames + code.co_freevars
        yield tuple(text for text in code.co_consts if isinstance(text, str))  # for getattr, and keywords


def _texts(holder: object) -> Iterator[str]:
    for code in _codes(holder):
        yield from (text for text in code.co_consts if isinstance(text, str))
