"""List what the image leaves out, and why. rootfs.py reads it, docs/docker.md shows it, tests compare them.

The test suite runs inside the image, and imports every package, to find what is missing.
"""

from __future__ import annotations

import re
from typing import NamedTuple


class Part(NamedTuple):
    """Files that are left out of some packages."""

    packages: tuple[str, ...]
    pattern: re.Pattern[str]
    """Matches their whole paths below site-packages."""
    why: str


STDLIB = {
    "CPython's own tests": ("test", "_test*", "_ctypes_test", "_xxtestfuzz", "xx*"),
    "interactive use only": (
        *("antigravity", "curses", "_curses", "_curses_panel", "idlelib", "pydoc_data", "readline", "this"),
        *("tkinter", "_tkinter", "turtle", "turtledemo", "__hello__", "__phello__"),
    ),
    "install packages or convert sources": ("ensurepip", "lib2to3", "venv"),
    "unused by devpi; a plugin that needs one must bring it": ("imaplib", "mailbox", "pickletools", "poplib", "wave"),
    "fallbacks for compiled modules, which are included": ("_pydatetime", "_pydecimal", "_pyio"),
    "need a library that nothing else needs, or are obsolete": (
        *("_dbm", "_gdbm", "audioop", "nis", "ossaudiodev", "spwd"),
    ),
}
"""Reason → modules of the standard library; `*` matches any suffix. Some exist only in some versions of Python."""

NOT_OF_STDLIB = frozenset({"sitecustomize", "dist-packages", "site-packages", "EXTERNALLY-MANAGED", "LICENSE.txt"})
"""Entries at its top that don't belong to it."""

PROMPT = re.compile(r"_pyrepl/(?!__init__|pager).*")
"""The prompt of newer Pythons, except the pager: devpi-web imports pydoc, which needs it."""

PARTS = (
    Part(
        ("setuptools",),
        re.compile(
            r"(?!pkg_resources/|_distutils_hack/"
            r"|setuptools/(config/|compat/)?[^/]*$"
            r"|setuptools/command/(__init__|_requirestxt|bdist_egg|build|egg_info|sdist|setopt)\.py$"
            r"|setuptools/_distutils/(compat/)?[^/]*$|setuptools/_distutils/compilers/C/(base|errors)\.py$"
            r"|setuptools/_distutils/command/(__init__|_framework_compat|bdist|build|install|install_egg_info|sdist)\.py$"
            r"|setuptools/_vendor/(jaraco|more_itertools|backports)[/-])"
            r"(setuptools|pkg_resources|_distutils_hack)/.*"
        ),
        "everything except pkg_resources (for pyramid) and egg_info (for `devpi upload`)",
    ),
    Part(
        ("frozenlist",),
        re.compile(r"frozenlist/_frozenlist\..*"),
        "the compiled part, which needs libstdc++ (2 MB); the Python fallback is included",
    ),
    Part(
        ("cffi", "pycparser"),
        re.compile(r"(cffi|pycparser|pycparser-[^/]*)/.*"),
        "everything except `_cffi_backend`, which argon2 needs",
    ),
    Part(
        ("prometheus_client",),
        re.compile(r"prometheus_client/(aiohttp|bridge|django|twisted)/.*"),
        "integrations with other frameworks and Graphite",
    ),
    Part(
        ("jinja2",),
        re.compile(r"jinja2/(ext|meta|nativetypes|sandbox)\.py"),
        "extensions and the sandbox, which no template of the sidecar needs",
    ),
    Part(
        ("docutils",),
        re.compile(
            r"docutils/(writers/(latex2e|manpage|odf_odt|pep_html|s5_html|xetex)(\.py|/.*)"
            r"|(parsers/rst/)?languages/(?!__init__|en\.).*)"
        ),
        "writers of other formats than HTML, and languages other than English",
    ),
    Part(
        ("pygments",),
        re.compile(r"pygments/formatters/(?!__init__|_mapping|html\.).*"),
        "formatters other than that of HTML",
    ),
    Part(
        ("tzdata",),
        re.compile(r"tzdata/zoneinfo/(?!__init__).*"),
        "time zones: dateutil, which strictyaml has for dates in YAML, looks none up for devpi",
    ),
    Part(
        ("all",),
        re.compile(
            r"(?![^/]*\.dist-info/)(.*\.(pyi|pyx|pxd|pxi|c|h|cpp|hpp|rst|exe|a|whl)"
            r"|(.*/)?(tests|test|testing|test_devpi_server|__pycache__|include|sboms)/.*|distutils-precedence\.pth"
            r"|zope/deprecation/tests\.py)"
            r"|[^/]*\.dist-info/(.*/)?sboms/.*"
            r"|[^/]*\.dist-info/(.*/)?(RECORD|INSTALLER|REQUESTED|direct_url\.json|uv_(cache|build)\.json|zip-safe"
            r"|dependency_links\.txt)"
        ),
        "tests, type stubs, C sources and headers, files for other systems, pip's own records",
    ),
)

BYTECODE = re.compile(
    r".*/(templates/.*|prometheus_client/(openmetrics/)?parser\..*|aiohttp/(test_utils|pytest_plugin)\..*"
    r"|passlib/handlers/(?!__init__|argon2).*|(setuptools/(?!_vendor)|_distutils_hack/).*|anyio/_backends/_trio\..*"
    r"|pygments/(lexers|styles)/(?!__init__|_mapping|special|text).*"
    r"|docutils/utils/math/.*"
    r"|whoosh/lang/(?!__init__|porter\.|stopwords).*)"
)
"""Sources without bytecode: templates that aren't Python yet, and modules of which a server imports few."""

SCRIPTS_KEPT = re.compile(r"devpi(-.*)?|sidecar")
"""The commands of the environment that are kept."""

_NAMES = re.compile("|".join(re.escape(name).replace(r"\*", r"\w*") for names in STDLIB.values() for name in names))


def of_stdlib(name: str) -> bool:
    """Whether a top-level module of the standard library is left out."""
    return name in NOT_OF_STDLIB or _NAMES.fullmatch(name) is not None


def of_packages(path: str) -> bool:
    """Whether a file is left out, by its path below site-packages."""
    return any(part.pattern.fullmatch(path) for part in PARTS)


def table() -> str:
    """Return the list as docs/docker.md shows it."""
    rows = [("standard library", names, why) for why, names in STDLIB.items()]
    rows += [("packages", part.packages, part.why) for part in PARTS]
    lines = ["| of | left out | what, or why |", "|---|---|---|"]
    for of, names, why in rows:
        lines.append(f"| {of} | {', '.join(name if name == 'all' else f'`{name}`' for name in names)} | {why} |")
    return "\n".join(lines) + "\n"
