"""A patch: what it replaces or leans on in a package that isn't ours, and whether that is there as we know it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from importlib import import_module
from types import CodeType
from typing import Any, Literal, NamedTuple

Use = Literal["start", "help", "prepare", "init", "import", "serve", "tools"]
"""What needs a patch: the child's start, --help, any preparation, devpi-init, an import, devpi-server, its tools."""


class Patch(NamedTuple):
    """One thing that is done to foreign code, or that is read there without being promised by anybody."""

    name: str
    uses: tuple[Use, ...]
    why: str
    upstream: str
    """The section of docs/upstream.md that says what would make it superfluous, by its anchor."""
    targets: Mapping[str, str]
    """`module:name`, or `module:name.name` → what is verified of it:

    `(self, uri)`: it can be called, and has these parameters; empty: it exists; `in F`: the function or class F of its
    module has the last name in its code, as one of an attribute, a variable or a parameter; `says F`: F has all that is
    behind the colon in one of its texts.
    """
    only_faster: bool = False
    """devpi-server does the same without it, and is slower: a miss is a warning."""


class Miss(NamedTuple):
    """A target that is not there as it should be."""

    patch: str
    target: str
    problem: str

    def __str__(self) -> str:
        return f"{self.target} {self.problem} ({self.patch})"


def misses(patches: Iterable[Patch]) -> list[Miss]:
    """Everything that is not as these patches expect it. Imports the modules that they name."""
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
    except Exception as error:  # whatever an unknown version of it raises
        return f"can't be imported: {error}"
    way, _, where = expected.partition(" ")
    if way in ("in", "says"):
        holder = _find(module, where)
        if holder is None:
            return f"is unknown: there is no {where}"
        if way == "says":
            return None if any(name in text for text in _texts(holder)) else f"is not in {where}"
        last = name.rpartition(".")[2]
        return None if any(last in names for names in _names(holder)) else f"is not in {where}"
    found = _find(module, name)
    if found is None:
        return "is missing"
    if expected and (parameters := _parameters(found)) != expected:
        return f"has the parameters {parameters}, not {expected}"
    return None


def _find(holder: object, name: str) -> Any:  # noqa: ANN401 - whatever it is
    for part in name.split("."):
        holder = getattr(holder, part, None)
    return holder


def _parameters(function: Any) -> str:  # noqa: ANN401
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return "of nothing that can be called"
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
    """The code of a function, or of all that a class defines."""
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
        yield tuple(text for text in code.co_consts if isinstance(text, str))  # getattr's, and keywords


def _texts(holder: object) -> Iterator[str]:
    for code in _codes(holder):
        yield from (text for text in code.co_consts if isinstance(text, str))
