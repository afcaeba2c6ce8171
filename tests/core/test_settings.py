"""`sidecar.core.settings`: the values of each variable, and the errors for all others."""

from __future__ import annotations

import ast
import dataclasses
import json
import operator
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import certifi
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core import certificates, parsers
from sidecar.core.environment import Problem
from sidecar.core.settings import Settings, SettingsError, child_environment, from_environ

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "0123456789abcdef"
CA = certifi.where()
"""A file of CA certificates, which every environment with devpi-server has."""


@dataclasses.dataclass(frozen=True)
class Variable:
    """One row of the settings table."""

    name: str
    field: str
    """The field of `Settings`."""
    default: Any
    valid: dict[str, Any]
    bad: tuple[str, ...] = ()
    complaint: str = ""
    """The reason for each of `bad`."""
    hint: str = ""

    @property
    def of(self) -> Callable[[Settings], Any]:
        return operator.attrgetter(self.field)


ABSOLUTE = {"/srv": Path("/srv"), " /a b ": Path("/a b"), "/x/../y": Path("/x/../y"), "//srv": Path("//srv")}
RELATIVE = ("srv", "./srv", "~/srv", "..", "C:\\srv", "/nul\0")
DURATIONS = {"1": 1.0, "90s": 90.0, "1.5": 1.5, "250ms": 0.25, "2m": 120.0, "24h": 86400.0, "7d": 604800.0, "5 s": 5.0}
NO_DURATIONS = ("soon", "-1", "1w", "1e3", "inf", "nan", "1:30", "٣", "1.", ".5", "1,5", "1h30m", "9" * 10)
SIZES = {"1": 1, "512": 512, "1K": 1000, "8Ki": 8192, "3 MiB": 3 * 2**20, "2GB": 2 * 10**9, "8Gi": 2**33, "1Ti": 2**40}
NO_SIZES = ("big", "-1", "1.5G", "8g", "1Pi", "0x10", "٣", "9" * 19, "1e9")
COUNTS = {"1": 1, "1000": 1000, " 7 ": 7, "9" * 18: int("9" * 18)}
NO_COUNTS = ("0", "-1", "many", "1.5", "1K", "٣", "9" * 19)
SWITCHES = {"1": True, "true": True, "YES": True, "On": True, "0": False, "False": False, "no": False, "off": False}
NO_SWITCHES = ("maybe", "2", "y", "enabled")


def duration(name: str, field: str, default: float | None, *, zero: bool = False) -> Variable:
    if zero:
        return Variable(name, field, default, {**DURATIONS, "0": 0.0}, NO_DURATIONS, "not a duration", "use seconds")
    return Variable(name, field, default, DURATIONS, NO_DURATIONS, "not a duration", "use seconds")


def size(name: str, field: str, default: int | None) -> Variable:
    return Variable(name, field, default, {**SIZES, "0": 0}, NO_SIZES, "not a size", "use bytes, or a number with K")


def switch(name: str, field: str) -> Variable:
    return Variable(name, field, False, SWITCHES, NO_SWITCHES, "neither true nor false", "true or false")


VARIABLES = [
    Variable(
        "SIDECAR_NAME",
        "name",
        None,
        {"devpi-1": "devpi-1", " Häuser & Söhne ": "Häuser & Söhne", "x" * 64: "x" * 64},
        ("x" * 65, "two\nlines", "bell\a", "a\u202eb", "/prod"),
        "not a name",
        "up to 64 printable characters without /",
    ),
    Variable("DEVPI_SERVERDIR", "serverdir", None, ABSOLUTE, RELATIVE, "not an absolute path", "begins with /"),
    Variable(
        "DEVPI_INIT_DIR",
        "imports.init_dir",
        Path("/devpi-init.d"),
        ABSOLUTE,
        RELATIVE,
        "not an absolute path",
        "begins with /",
    ),
    Variable("DEVPI_RESTRICT_MODIFY", "restrict_modify", "root", {"": "", " a,:b ": "a,:b", "root": "root"}),
    Variable(
        "DEVPI_PORT",
        "devpi_port",
        None,
        {"1": 1, "3141": 3141, " 65535 ": 65535},
        ("0", "65536", "-1", "http", "3141/tcp", "٣١٤١", "1.5", "0x1F"),
        "not a port",
        "from 1 to 65535",
    ),
    Variable(
        "SIDECAR_HOST",
        "listen.host",
        "0.0.0.0",
        {"127.0.0.1": "127.0.0.1", "::": "::", "fe80::1%eth0": "fe80::1%eth0", " localhost ": "localhost"},
        ("a b", "http://x", "[::1]", "café", "a;b", "x\ny"),
        "not an address or host name",
        "such as 0.0.0.0",
    ),
    Variable(
        "SIDECAR_PORT",
        "listen.port",
        3142,
        {"0": 0, "8080": 8080, "65535": 65535},
        ("65536", "-1", "http", "٣", "1e3"),
        "not a port",
        "from 1 to 65535",
    ),
    Variable("SIDECAR_TLS_CERT", "tls.cert", None, ABSOLUTE, RELATIVE, "not an absolute path", "begins with /"),
    Variable("SIDECAR_TLS_KEY", "tls.key", None, ABSOLUTE, RELATIVE, "not an absolute path", "begins with /"),
    Variable(
        "SIDECAR_TLS_CLIENT_CA", "tls.client_ca", None, ABSOLUTE, RELATIVE, "not an absolute path", "begins with /"
    ),
    Variable(
        "SIDECAR_RUNTIME_DIR",
        "runtime_dir",
        Path(f"/tmp/devpi-sidecar-{os.getuid()}"),
        ABSOLUTE,
        RELATIVE,
        "not an absolute path",
        "begins with /",
    ),
    Variable(
        "SIDECAR_ON_IMPORT_FAILURE",
        "imports.exit_on_failure",
        False,
        {"exit": True, "EXIT": True, "stay": False},
        ("die", "true", "1"),
        "not a supported value",
        "stay or exit",
    ),
    Variable(
        "SIDECAR_IMPORT_MAX_MEMBERS",
        "imports.max_members",
        1_000_000,
        COUNTS,
        NO_COUNTS,
        "not a positive whole number",
        "such as 1000",
    ),
    Variable(
        "SIDECAR_IMPORT_MAX_RATIO",
        "imports.max_ratio",
        200,
        COUNTS,
        NO_COUNTS,
        "not a positive whole number",
        "such as 1000",
    ),
    size("SIDECAR_IMPORT_MAX_MEMBER_SIZE", "imports.max_member_bytes", 8 * 2**30),
    size("SIDECAR_IMPORT_MAX_TOTAL_SIZE", "imports.max_total_bytes", None),
    size("SIDECAR_IMPORT_MAX_INDEX_SIZE", "imports.max_index_bytes", 256 * 2**20),
    size("SIDECAR_DISK_WARN", "monitor.disk_warn_bytes", 2**30),
    switch("SIDECAR_IMPORT_ALLOW_UNVERIFIED", "imports.allow_unverified"),
    switch("SIDECAR_IGNORE_INIT_FILES", "imports.ignore_init_files"),
    switch("SIDECAR_IMPORT_STRICT", "imports.strict"),
    switch("SIDECAR_ALLOW_EMPTY_ROOT", "credentials.allow_empty_root"),
    switch("SIDECAR_SECRET_IS_RANDOM", "credentials.secret_is_random"),
    switch("SIDECAR_LOG_ACCESS", "log.access"),
    duration("SIDECAR_MONITOR_INTERVAL", "monitor.interval", 2.0),
    duration("SIDECAR_MONITOR_TIMEOUT", "monitor.request_timeout", 5.0),
    duration("SIDECAR_MONITOR_DEAD_AFTER", "monitor.dead_after", 30.0),
    duration("SIDECAR_STOP_DELAY", "stop.delay", 0.0, zero=True),
    duration("SIDECAR_STOP_GRACE", "stop.grace", 25.0, zero=True),
    duration("SIDECAR_CLAIM_TTL", "credentials.claim_ttl", None),
    Variable(
        "SIDECAR_LOG_FORMAT",
        "log.json",
        False,
        {"json": True, "JSON": True, "text": False},
        ("xml", "true"),
        "not a supported value",
        "text or json",
    ),
    Variable(
        "SIDECAR_LOG_LEVEL",
        "log.level",
        "INFO",
        {"debug": "DEBUG", "Info": "INFO", "WARNING": "WARNING", "error": "ERROR"},
        ("loud", "10", "trace"),
        "not a supported value",
        "debug or info or warning or error",
    ),
    Variable("DEVPI_ROOT_PYPI", "mirror.root_pypi", None, SWITCHES, NO_SWITCHES, "neither true nor false", "true or"),
    Variable(
        "DEVPI_MIRROR_URL",
        "mirror.url",
        None,
        {
            "https://index.example/simple/": "https://index.example/simple/",
            " HTTP://Pypi.Corp:8080/a/b ": "http://pypi.corp:8080/a/b/",
            "https://[2001:db8::1]": "https://[2001:db8::1]/",
            "http://10.0.0.1/%C3%A4//": "http://10.0.0.1/%C3%A4/",
        },
        (
            "index.example/simple",
            "ftp://h/",
            "file:///srv",
            "https://",
            "https://h:0/",
            "https://h:x/",
            "https://h:99999/",
            "https://[::1/",
            "https://a b/",
            "https://h/ä",
            "https://a,b/",
            "//h/",
        ),
        "not an http or https URL",
        "use a URL such as https://index.example/simple/",
    ),
    Variable("DEVPI_MIRROR_USER", "mirror.user", None, {}),
    Variable("DEVPI_MIRROR_PASSWORD", "mirror.password", None, {}),
    Variable("DEVPI_MIRROR_CA", "mirror.ca", None, {CA: Path(CA)}, RELATIVE, "not an absolute path", "begins with /"),
    Variable(
        "DEVPI_MIRROR_ALLOW",
        "mirror.allow",
        (),
        {
            "pypi.corp": ("pypi.corp",),
            " PyPI.Corp. , 10.0.0.1,,10.1.0.0/16,": ("pypi.corp", "10.0.0.1", "10.1.0.0/16"),
            "::1,FD00:0::/8,fd00::/8": ("::1", "fd00::/8"),
            "localhost,_x,a-b.9z": ("localhost", "_x", "a-b.9z"),
            ",": (),
        },
        (
            "*",
            "*.corp",
            "http://h",
            "h:80",
            "10.1",
            "256.0.0.1",
            "[::1]",
            "-a",
            "a-",
            "a..b",
            ".corp",
            "10.0.0.0/33",
            "h/8",
            "a b",
            "ä.corp",
        ),
        "not a list of hosts",
        "host names, addresses and networks, separated by commas",
    ),
    Variable(
        "DEVPI_MIRROR_UNKNOWN",
        "mirror.unknown",
        "ask",
        {"ask": "ask", "Wait": "wait"},
        ("true", "never"),
        "not a supported value",
        "ask or wait",
    ),
    *(
        Variable(
            f"DEVPI_MIRROR_MAX_{name}_SIZE",
            f"mirror.max_{name.lower()}_bytes",
            default,
            SIZES,
            NO_SIZES,
            "not a size",
            "use bytes, or a number with K",
        )
        for name, default in (("PAGE", 64 * 2**20), ("LIST", 256 * 2**20))
    ),
    duration("DEVPI_MIRROR_PAGE_TIMEOUT", "mirror.page_seconds", 60.0),
    duration("DEVPI_MIRROR_LIST_TIMEOUT", "mirror.list_seconds", 600.0),
    Variable(
        "DEVPI_PASSWORD", "credentials.root_password", None, {"x": "x", " two words ": " two words ", "pä55": "pä55"}
    ),
    Variable(
        "SIDECAR_ADMIN_TOKEN", "credentials.admin_token", None, {TOKEN: TOKEN, "Az09-._~+/==" * 2: "Az09-._~+/==" * 2}
    ),
]
POSITIVE = [v for v in VARIABLES if v.complaint == "not a duration" and "0" not in v.valid]
FORBIDDEN = ("DEVPISERVER_ROOT_PASSWD", "DEVPISERVER_ROOT_PASSWD_HASH")
FILES = ("DEVPI_MIRROR_PASSWORD_FILE", "DEVPI_PASSWORD_FILE", "SIDECAR_ADMIN_TOKEN_FILE")


def by_name(variable: Variable) -> str:
    return variable.name


def problems_of(environ: dict[str, str]) -> tuple[Problem, ...]:
    with pytest.raises(SettingsError) as caught:
        from_environ(environ)
    return caught.value.problems


def problem_of(**environ: str) -> Problem:
    (problem,) = problems_of(environ)
    return problem


def test_the_table_has_every_variable() -> None:
    """The names in the code are those in this module's table, so each new setting is tested."""
    strings = set()
    for module in ("settings", "mirror_settings"):
        tree = ast.parse((ROOT / "sidecar" / "core" / f"{module}.py").read_text())
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        strings |= {
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
        }
    named = {text for text in strings if re.fullmatch(r"(DEVPI|SIDECAR)_[A-Z_]+", text)}
    assert named - set(FILES) == {variable.name for variable in VARIABLES}


# --- one variable ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", VARIABLES, ids=by_name)
def test_default(variable: Variable) -> None:
    """An absent variable has its default; so has an empty or blank one, except secrets and DEVPI_RESTRICT_MODIFY."""
    assert variable.of(from_environ({})) == variable.default
    if "" not in variable.valid and not variable.field.endswith(("password", "token")):
        assert variable.of(from_environ({variable.name: ""})) == variable.default
        assert variable.of(from_environ({variable.name: " \t"})) == variable.default


@pytest.mark.parametrize(
    ("variable", "text"),
    [pytest.param(v, text, id=f"{v.name}={text[:30]}") for v in VARIABLES for text in v.valid],
)
def test_valid(variable: Variable, text: str) -> None:
    """Each valid form sets its own field only."""
    found = from_environ({variable.name: text})
    assert variable.of(found) == variable.valid[text]
    assert type(variable.of(found)) is type(variable.valid[text])
    untouched = [other for other in VARIABLES if other is not variable]
    assert [other.of(found) for other in untouched] == [other.default for other in untouched]


@pytest.mark.parametrize(
    ("variable", "text"),
    [pytest.param(v, text, id=f"{v.name}={text[:30]!a}") for v in VARIABLES for text in v.bad],
)
def test_bad(variable: Variable, text: str) -> None:
    """The message contains the variable, its value, what is wrong, and the hint."""
    problem = problem_of(**{variable.name: text})
    assert problem.variable == variable.name
    assert problem.reason == f"{text.strip()!r} is {variable.complaint}"
    assert variable.hint in problem.hint
    assert str(problem) == f"{variable.name}: {problem.reason}; {problem.hint}"


@pytest.mark.parametrize("variable", POSITIVE, ids=by_name)
@pytest.mark.parametrize("text", ["0", "0s", "0.000"])
def test_no_time_at_all_is_too_short(variable: Variable, text: str) -> None:
    """0 is refused, with the hint, for durations that must be positive."""
    problem = problem_of(**{variable.name: text})
    assert str(problem) == f"{variable.name}: {text!r} is not a positive duration; use more than 0 seconds"


def test_a_long_value_is_shown_in_part() -> None:
    """A value of 1 MB is cut in the message."""
    problem = problem_of(SIDECAR_PORT="x" * 10_000)
    assert len(str(problem)) < 250


def test_the_runtime_dir_lies_in_tmpdir() -> None:
    """TMPDIR is used; an explicit folder has precedence."""
    assert from_environ({"TMPDIR": "/scratch/"}).runtime_dir == Path(f"/scratch/devpi-sidecar-{os.getuid()}")
    assert from_environ({"TMPDIR": "/scratch", "SIDECAR_RUNTIME_DIR": "/run/x"}).runtime_dir == Path("/run/x")


def test_settings_are_frozen() -> None:
    """Settings are frozen."""
    found = from_environ({})
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.serverdir = Path("/")  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.listen.port = 1  # type: ignore[misc]


def test_all_mistakes_are_reported_together(tmp_path: Path) -> None:
    """One message for each invalid variable, and no others."""
    wrong = {variable.name: variable.bad[0] for variable in VARIABLES if variable.bad}
    wrong |= {"DEVPI_PASSWORD": "", "SIDECAR_ADMIN_TOKEN_FILE": str(tmp_path / "absent")}
    wrong |= dict.fromkeys(FORBIDDEN, "x")
    with pytest.raises(SettingsError) as caught:
        from_environ(wrong)
    assert sorted(problem.variable for problem in caught.value.problems) == sorted(wrong)
    assert str(caught.value).splitlines() == [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize("name", FORBIDDEN)
def test_devpis_own_password_variables_are_refused(name: str) -> None:
    """They would be in the environment of every tool; the hint names the file."""
    problem = problem_of(**{name: "hunter2-hunter2"})
    assert problem.variable == name
    assert "DEVPI_PASSWORD_FILE" in problem.hint
    assert "hunter2" not in str(problem)
    assert from_environ({name: ""}) == from_environ({})


# --- secrets --------------------------------------------------------------------------------------------------------

SECRETS = pytest.mark.parametrize(
    ("name", "field", "secret"),
    [
        ("DEVPI_PASSWORD", "credentials.root_password", "correct horse"),
        ("SIDECAR_ADMIN_TOKEN", "credentials.admin_token", "correct-horse-battery"),
    ],
)


@SECRETS
@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_secret_from_a_file(tmp_path: Path, name: str, field: str, secret: str, end: str) -> None:
    """One newline at the end, as editors write it, is removed."""
    (tmp_path / "secret").write_bytes(f"{secret}{end}".encode())
    found = from_environ({f"{name}_FILE": str(tmp_path / "secret")})
    assert operator.attrgetter(field)(found) == secret


@SECRETS
@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n", "\n\r\n", "\r\r\n"])
def test_one_newline_is_stripped_not_two(tmp_path: Path, name: str, field: str, secret: str, end: str) -> None:
    """Of two newlines, one stays and is refused."""
    (tmp_path / "secret").write_bytes(f"{secret}{end}".encode())
    problem = problem_of(**{f"{name}_FILE": str(tmp_path / "secret")})
    assert problem.variable == f"{name}_FILE"
    assert "characters" in problem.reason
    assert secret not in str(problem)


@SECRETS
def test_a_secret_and_its_file_are_a_contradiction(tmp_path: Path, name: str, field: str, secret: str) -> None:
    """Even if both are equal, or the direct one is empty; the secret is not shown."""
    (tmp_path / "secret").write_text(secret)
    for direct in (secret, "", "other-other-other-other"):
        problem = problem_of(**{name: direct, f"{name}_FILE": str(tmp_path / "secret")})
        assert str(problem) == f"{name}: and {name}_FILE are both set; keep one of them"


@SECRETS
def test_an_empty_file_variable_is_none(name: str, field: str, secret: str) -> None:
    """compose writes `X_FILE=` if its own variable is not set."""
    found = from_environ({name: secret, f"{name}_FILE": ""})
    assert operator.attrgetter(field)(found) == secret


@SECRETS
@pytest.mark.parametrize("content", ["", "\n", "\r\n"])
def test_an_empty_secret_is_refused(tmp_path: Path, name: str, field: str, secret: str, content: str) -> None:
    """For the variable and the file, with the name of the variable and the hint."""
    (tmp_path / "secret").write_bytes(content.encode())
    for variable, value in ((f"{name}_FILE", str(tmp_path / "secret")), (name, "")):
        problem = problem_of(**{variable: value})
        assert (problem.variable, problem.reason) == (variable, "is empty")
        assert "unset the variable to have one generated" in problem.hint


def test_a_missing_file(tmp_path: Path) -> None:
    """The message contains the path, the reason and the hint."""
    problem = problem_of(DEVPI_PASSWORD_FILE=str(tmp_path / "absent"))
    assert problem.variable == "DEVPI_PASSWORD_FILE"
    assert problem.reason == f"can't read '{tmp_path}/absent': No such file or directory"
    assert problem.hint == "mount the file and start again"


@pytest.mark.parametrize("kind", ["directory", "fifo", "device"])
def test_what_is_no_file(tmp_path: Path, kind: str) -> None:
    """A folder (docker creates one if the source is missing), a FIFO and a device are refused without blocking."""
    path = {"directory": tmp_path, "fifo": tmp_path / "fifo", "device": Path("/dev/zero")}[kind]
    if kind == "fifo":
        os.mkfifo(path)
    problem = problem_of(SIDECAR_ADMIN_TOKEN_FILE=str(path))
    assert problem.variable == "SIDECAR_ADMIN_TOKEN_FILE"
    assert problem.reason == f"{str(path)!r} is not a regular file"
    assert problem.hint == "set the path of a secret file"


def test_a_link_is_followed(tmp_path: Path) -> None:
    """Kubernetes mounts secrets as links."""
    (tmp_path / "data").write_text("correct horse")
    (tmp_path / "secret").symlink_to("data")
    found = from_environ({"DEVPI_PASSWORD_FILE": str(tmp_path / "secret")})
    assert found.credentials.root_password == "correct horse"


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    """The message says so without the bytes."""
    (tmp_path / "secret").write_bytes(b"caf\xe9-caf\xe9-caf\xe9")
    problem = problem_of(DEVPI_PASSWORD_FILE=str(tmp_path / "secret"))
    assert problem.reason == f"the content of '{tmp_path}/secret' is not UTF-8"
    assert problem.hint == "write the secret as UTF-8 text"


@pytest.mark.parametrize("name", ["/nul\0", "/surrogate\ud800", "/" + "x" * 300, "/" + "x/" * 5000])
def test_a_file_name_that_no_system_takes(name: str) -> None:
    """A normal problem, whatever Python raises."""
    problem = problem_of(DEVPI_PASSWORD_FILE=name)
    assert problem.variable == "DEVPI_PASSWORD_FILE"
    assert problem.reason.startswith("can't read ")


UNREADABLE = """
import os, sys
from sidecar.core.settings import SettingsError, from_environ
if os.getuid() == 0:
    os.setgroups([])
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
try:
    from_environ({"DEVPI_PASSWORD_FILE": sys.argv[1]})
except SettingsError as error:
    print(error)
"""


def test_an_unreadable_file() -> None:
    """The message names the file, the reason, and the uid that needs access."""
    uid = os.getuid() or 65534
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "secret"
        path.write_text("correct horse")
        path.chmod(0o000)
        command = [sys.executable, "-c", UNREADABLE, str(path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    expected = (
        f"DEVPI_PASSWORD_FILE: can't read '{path}': Permission denied; mount the file so that uid {uid} can read it\n"
    )
    assert done.stdout == expected


@pytest.mark.parametrize("bad", ["a\tb", "a\x00b", "a\x1bb", "a\x7fb", "a\u2028b", "a\u202eb", "a\ud800b", "a\nb"])
def test_control_characters_in_a_password(bad: str) -> None:
    """Control and unprintable characters are refused without showing the rest."""
    problem = problem_of(DEVPI_PASSWORD=bad)
    assert str(problem) == "DEVPI_PASSWORD: has control or unprintable characters; use printable characters only"


@pytest.mark.parametrize("bad", [TOKEN + " ", TOKEN + "é", TOKEN + "\n", TOKEN + '"', TOKEN + ","])
def test_what_a_bearer_token_cant_have(bad: str) -> None:
    """The hint contains a command that generates a valid token."""
    problem = problem_of(SIDECAR_ADMIN_TOKEN=bad)
    assert problem.reason == "has characters that a bearer token can't have"
    assert "openssl rand -hex 32" in problem.hint


@pytest.mark.parametrize(
    ("name", "length", "hint"),
    [
        ("DEVPI_PASSWORD", parsers.PASSWORD_MAX + 1, "use at most 1024"),
        ("SIDECAR_ADMIN_TOKEN", parsers.TOKEN_MIN - 1, "use 16 to 1024"),
        ("SIDECAR_ADMIN_TOKEN", parsers.TOKEN_MAX + 1, "use 16 to 1024"),
    ],
)
def test_lengths_of_secrets(tmp_path: Path, name: str, length: int, hint: str) -> None:
    """A secret that is too long, or a token that is too short, is refused with the limit; so is a huge file."""
    problem = problem_of(**{name: "x" * length})
    assert (problem.reason, problem.hint) == (f"has {length} characters", hint)
    (tmp_path / "secret").write_bytes(b"x" * 2**20)
    assert problem_of(**{f"{name}_FILE": str(tmp_path / "secret")}).hint == hint


@pytest.mark.parametrize("length", [parsers.TOKEN_MIN, parsers.TOKEN_MAX])
def test_lengths_of_tokens_that_are_allowed(length: int) -> None:
    """Both ends of the range."""
    assert from_environ({"SIDECAR_ADMIN_TOKEN": "x" * length}).credentials.admin_token == "x" * length


# --- Kubernetes' service links, and the child's environment ---------------------------------------------------------

LINK = "tcp://10.96.0.17:3141"


@pytest.mark.parametrize("name", ["DEVPI_PORT", "SIDECAR_PORT", "DEVPISERVER_PORT"])
@pytest.mark.parametrize("scheme", ["tcp", "udp", "sctp"])
def test_a_service_link_is_passed_over(name: str, scheme: str) -> None:
    """A service link is ignored, its name is recorded for the log, and it is not passed to the child."""
    link = {name: f"{scheme}://10.96.0.17:3141"}
    found = from_environ(link)
    assert found == dataclasses.replace(from_environ({}), ignored_service_links=(name,))
    assert child_environment(link) == {}


def test_what_only_looks_like_a_service_link() -> None:
    """Other schemes are errors; other variables of this form are ignored."""
    assert problem_of(DEVPI_PORT="http://10.0.0.1").variable == "DEVPI_PORT"
    assert problem_of(SIDECAR_PORT="tcp://a b").variable == "SIDECAR_PORT"
    assert problem_of(SIDECAR_HOST=LINK).variable == "SIDECAR_HOST"
    assert child_environment({"DB_PORT": LINK}) == {"DB_PORT": LINK}


def test_the_childs_environment() -> None:
    """Without secrets, service links, and settings that the worker gets checked; the rest is unchanged."""
    kept = {"PATH": "/bin", "DEVPISERVER_PORT": "8000", "DEVPISERVER_THREADS": "8", "LANG": "C", "SIDECAR_PORT": "1"}
    dropped = {
        "DEVPI_PASSWORD": "a",
        "DEVPI_PASSWORD_FILE": "/b",
        "SIDECAR_ADMIN_TOKEN": "c",
        "SIDECAR_ADMIN_TOKEN_FILE": "/d",
        "DEVPI_MIRROR_URL": "https://u:p@pypi.corp/",
        "DEVPI_MIRROR_USER": "a-token",
        "DEVPI_MIRROR_PASSWORD": "h",
        "DEVPI_MIRROR_PASSWORD_FILE": "/i",
        "DEVPISERVER_ROOT_PASSWD": "e",
        "DEVPISERVER_ROOT_PASSWD_HASH": "f",
        "DEVPI_SERVERDIR": "/g",
        "DEVPI_PORT": "1",
    }
    given_environ = kept | dropped
    assert child_environment(given_environ) == kept
    assert given_environ == kept | dropped


# --- the upstream of root/pypi --------------------------------------------------------------------------------------

UPSTREAM = "https://pypi.corp/simple/"


@pytest.mark.parametrize(
    ("url", "user", "password"),
    [
        ("https://reader:secret@pypi.corp/simple", "reader", "secret"),
        ("https://r%40corp:p%2Fa%3As%25s%C3%A4%23@pypi.corp/simple/", "r@corp", "p/a:s%sä#"),
        ("HTTPS://reader:a:b+c@PyPI.corp/simple/", "reader", "a:b+c"),
        ("https://token@pypi.corp/simple/", "token", None),
        ("https://token:@pypi.corp/simple/", "token", None),
        ("https://@pypi.corp/simple/", None, None),
        (UPSTREAM, None, None),
    ],
)
def test_credentials_in_the_url(url: str, user: str | None, password: str | None) -> None:
    """They are decoded, and the URL has none."""
    found = from_environ({"DEVPI_MIRROR_URL": url}).mirror
    assert (found.url, found.user, found.password) == (UPSTREAM, user, password)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://user:Zq9/x@pypi.corp/", "not an http or https URL"),
        ("https://user:12/Zq9@pypi.corp/", "a URL with @ in its path"),
        ("https://user:12?Zq9@pypi.corp/", "a URL with a query or a fragment"),
        ("https://user:12#Zq9@pypi.corp/", "a URL with a query or a fragment"),
        ("https://user:Zq9 x@pypi.corp/", "not an http or https URL"),
        ("https://:Zq9@pypi.corp/", "a URL with invalid credentials"),
        ("https://us%3Aer:Zq9@pypi.corp/", "a URL with invalid credentials"),
        ("https://user:Zq9%0A@pypi.corp/", "a URL with invalid credentials"),
        ("https://user:Zq9%FF@pypi.corp/", "a URL with credentials that are not UTF-8"),
        ("https://user:Zq9" + "x" * 16_384 + "@pypi.corp/", "a URL with invalid credentials"),
        ("https://pypi.corp/simple/?token=Zq9", "a URL with a query or a fragment"),
        ("user:Zq9@pypi.corp", "not an http or https URL"),
    ],
)
def test_a_url_that_may_have_a_password_is_not_shown(url: str, reason: str) -> None:
    """The error has the variable, the reason and the hint."""
    problem = problem_of(DEVPI_MIRROR_URL=url)
    assert (problem.variable, problem.reason) == ("DEVPI_MIRROR_URL", f"the value is {reason}")
    assert problem.hint.startswith("use ")
    assert "Zq9" not in str(problem)


@pytest.mark.parametrize("character", "?#")
def test_an_empty_query_or_fragment(character: str) -> None:
    """It is refused too: devpi-server would append a project's name to it."""
    problem = problem_of(DEVPI_MIRROR_URL=f"{UPSTREAM}{character}")
    assert "a URL with a query or a fragment" in problem.reason


def test_credentials_beside_the_url(tmp_path: Path) -> None:
    """They are taken unchanged, also a token of some thousand characters; a user without a password is possible."""
    (tmp_path / "secret").write_text("p%2Fw:" + "x" * 8000 + "\n")
    environ = {"DEVPI_MIRROR_URL": UPSTREAM, "DEVPI_MIRROR_USER": "re%40der"}
    found = from_environ({**environ, "DEVPI_MIRROR_PASSWORD_FILE": str(tmp_path / "secret")}).mirror
    assert (found.url, found.user, found.password) == (UPSTREAM, "re%40der", "p%2Fw:" + "x" * 8000)
    assert "xxx" not in repr(found)
    assert "re%40der" not in repr(found)
    assert from_environ({**environ, "DEVPI_MIRROR_PASSWORD": " p "}).mirror.password == " p "
    assert from_environ(environ).mirror.password is None


@pytest.mark.parametrize(
    ("environ", "problem"),
    [
        (
            {"DEVPI_MIRROR_USER": "Zq9"},
            "DEVPI_MIRROR_USER: is set without DEVPI_MIRROR_URL; set DEVPI_MIRROR_URL to the upstream that gets it",
        ),
        (
            {"DEVPI_MIRROR_PASSWORD": "Zq9"},
            "DEVPI_MIRROR_PASSWORD: is set without DEVPI_MIRROR_URL; set DEVPI_MIRROR_URL to the upstream that gets it",
        ),
        (
            {"DEVPI_MIRROR_URL": UPSTREAM, "DEVPI_MIRROR_PASSWORD": "Zq9"},
            "DEVPI_MIRROR_PASSWORD: is set without DEVPI_MIRROR_USER; set DEVPI_MIRROR_USER (for a token often "
            "__token__)",
        ),
        (
            {"DEVPI_MIRROR_URL": "https://a:Zq9@h/", "DEVPI_MIRROR_PASSWORD": "Zq9"},
            "DEVPI_MIRROR_URL: has credentials, and DEVPI_MIRROR_PASSWORD is set; remove the credentials from the URL",
        ),
        (
            {"DEVPI_MIRROR_URL": "https://Zq9@h/", "DEVPI_MIRROR_USER": "Zq9"},
            "DEVPI_MIRROR_URL: has credentials, and DEVPI_MIRROR_USER is set; remove the credentials from the URL",
        ),
        (
            {"DEVPI_MIRROR_URL": UPSTREAM, "DEVPI_MIRROR_USER": "Zq9:Zq9"},
            "DEVPI_MIRROR_USER: has a colon or control characters; set the name of the user only",
        ),
        (
            {"DEVPI_MIRROR_URL": UPSTREAM, "DEVPI_MIRROR_USER": "a", "DEVPI_MIRROR_PASSWORD": "Zq9\t"},
            "DEVPI_MIRROR_PASSWORD: has control or unprintable characters; use printable characters only",
        ),
        (
            {"DEVPI_MIRROR_URL": UPSTREAM, "DEVPI_MIRROR_USER": "a", "DEVPI_MIRROR_PASSWORD": ""},
            "DEVPI_MIRROR_PASSWORD: is empty; set a password, or unset the variable",
        ),
        (
            {"DEVPI_MIRROR_URL": UPSTREAM, "DEVPI_MIRROR_USER": "a", "DEVPI_MIRROR_PASSWORD": "x" * 16_385},
            "DEVPI_MIRROR_PASSWORD: has 16385 characters; use at most 16384",
        ),
    ],
)
def test_incomplete_or_contradicting_credentials(environ: dict[str, str], problem: str) -> None:
    """One error that names the fix, without the value."""
    assert [str(each) for each in problems_of(environ)] == [problem]


def test_a_password_file_without_a_user(tmp_path: Path) -> None:
    """The error names the variable that is set."""
    (tmp_path / "secret").write_text("Zq9")
    problem = problem_of(DEVPI_MIRROR_PASSWORD_FILE=str(tmp_path / "secret"))
    assert (problem.variable, problem.reason) == ("DEVPI_MIRROR_PASSWORD_FILE", "is set without DEVPI_MIRROR_URL")


def test_a_network_with_bits_after_its_prefix() -> None:
    """The hint has the network that was meant."""
    problem = problem_of(DEVPI_MIRROR_ALLOW="pypi.corp,10.1.2.3/8")
    assert problem.reason.endswith("is not a list of hosts: 10.1.2.3/8 has bits after its prefix")
    assert problem.hint == "use 10.0.0.0/8"


@pytest.mark.parametrize("name", ["MAX_PAGE_SIZE", "MAX_LIST_SIZE"])
def test_a_size_of_nothing(name: str) -> None:
    """It would refuse every answer."""
    problem = problem_of(**{f"DEVPI_MIRROR_{name}": "0"})
    assert str(problem) == f"DEVPI_MIRROR_{name}: '0' is not a positive size; use more than 0 bytes"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "has no valid PEM certificate"),
        (b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", "has no valid PEM certificate"),
        (b"-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n", "has no valid PEM certificate"),
        (b"\x30\x82\x01\x00", "has no valid PEM certificate"),
        (b"x" * (certificates.MAX_BYTES + 1), f"has {certificates.MAX_BYTES + 1} bytes"),
    ],
)
def test_a_file_without_a_ca(tmp_path: Path, content: bytes, reason: str) -> None:
    """The error has the path, the reason and the hint."""
    path = tmp_path / "ca.pem"
    path.write_bytes(content)
    problem = problem_of(DEVPI_MIRROR_CA=str(path))
    assert (problem.variable, problem.reason) == ("DEVPI_MIRROR_CA", f"{str(path)!r} {reason}")
    assert "PEM file" in problem.hint


def test_a_ca_that_is_no_readable_file(tmp_path: Path) -> None:
    """A missing file, a folder and a FIFO, which must not block."""
    os.mkfifo(tmp_path / "fifo")
    for name, reason in (("absent", "No such file"), ("", "is not a regular file"), ("fifo", "is not a regular file")):
        problem = problem_of(DEVPI_MIRROR_CA=str(tmp_path / name))
        assert problem.variable == "DEVPI_MIRROR_CA"
        assert reason in problem.reason
        assert problem.hint


def test_mirror_settings_as_a_message() -> None:
    """All fields, as JSON."""
    environ = {
        "DEVPI_MIRROR_URL": "https://a:b@pypi.corp/",
        "DEVPI_MIRROR_CA": CA,
        "DEVPI_MIRROR_ALLOW": "::1",
        "DEVPI_ROOT_PYPI": "true",
    }
    assert json.loads(json.dumps(from_environ(environ).mirror.as_json())) == {
        "root_pypi": True,
        "url": "https://pypi.corp/",
        "user": "a",
        "password": "b",
        "ca": CA,
        "allow": ["::1"],
        "unknown": "ask",
        "max_page_bytes": 64 * 2**20,
        "max_list_bytes": 256 * 2**20,
        "page_seconds": 60.0,
        "list_seconds": 600.0,
    }


# --- any input ------------------------------------------------------------------------------------------------------

ANY_TEXT = st.text(st.characters())  # surrogates too: so Python reads what isn't UTF-8
ALL_NAMES = [variable.name for variable in VARIABLES] + [*FILES, *FORBIDDEN, "DEVPISERVER_PORT", "TMPDIR"]
PLAUSIBLE = st.sampled_from([text for variable in VARIABLES for text in (*variable.valid, *variable.bad)] + [LINK])
ENVIRONS = st.dictionaries(st.sampled_from(ALL_NAMES), ANY_TEXT | PLAUSIBLE | st.from_regex(r"[0-9]+ ?[a-zA-Z]{0,3}"))


@given(ENVIRONS)
def test_any_environment_is_understood_or_refused(environ: dict[str, str]) -> None:
    """Only `SettingsError` is raised; each problem names a variable that is set, and has a hint."""
    problems: tuple[Problem, ...] = ()
    try:
        understood = from_environ(environ)
    except SettingsError as error:
        understood, problems = None, error.problems
    assert bool(problems) != isinstance(understood, Settings)
    assert {problem.variable for problem in problems} <= set(environ)
    assert all(problem.reason and problem.hint for problem in problems)


# A prefix that no message contains by itself: hypothesis finds the strings in our sources and tries them.
SECRET_TEXT = st.builds(
    "Zq9~{}".format, ANY_TEXT | st.text("abcXYZ09-._~+/=", min_size=12) | st.text("x", min_size=1020)
)


@given(SECRET_TEXT, SECRET_TEXT, st.booleans())
def test_no_secret_is_ever_shown(password: str, token: str, wrong: bool) -> None:
    """Neither repr(Settings) nor a problem shows secrets, valid or not."""
    environ = {"DEVPI_PASSWORD": password, "SIDECAR_ADMIN_TOKEN": token} | ({"SIDECAR_PORT": "x"} if wrong else {})
    environ |= {"DEVPI_MIRROR_URL": UPSTREAM, "DEVPI_MIRROR_USER": token, "DEVPI_MIRROR_PASSWORD": password}
    try:
        shown = repr(from_environ(environ))
    except SettingsError as error:
        shown = f"{error} {error!r} {error.problems!r}"
    assert "Zq9~" not in shown


@given(SECRET_TEXT)
def test_no_password_of_a_url_is_ever_shown(password: str) -> None:
    """Whatever its syntax, encoded or not."""
    for text in (password, quote(password, errors="surrogatepass")):
        try:
            shown = repr(from_environ({"DEVPI_MIRROR_URL": f"https://user:{text}@pypi.corp/"}))
        except SettingsError as error:
            shown = f"{error} {error!r} {error.problems!r}"
        assert "Zq9~" not in shown


@given(SECRET_TEXT.filter(lambda text: text.isascii() or not any("\ud800" <= c <= "\udfff" for c in text)))
def test_no_secret_of_a_file_is_ever_shown(password: str) -> None:
    """The same for the content of a file; printable content is unchanged."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "secret"
        path.write_bytes(password.encode())
        try:
            found = from_environ({"DEVPI_PASSWORD_FILE": str(path)})
        except SettingsError as error:
            shown = f"{error} {error.problems!r}"
        else:
            shown = repr(found)
            assert found.credentials.root_password == password.removesuffix("\n").removesuffix("\r")
    assert "Zq9~" not in shown


@given(st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=1024))
def test_every_printable_password_is_taken(password: str) -> None:
    """A secret in a variable is not stripped."""
    assert from_environ({"DEVPI_PASSWORD": f" {password} "[:1024]}).credentials.root_password == f" {password} "[:1024]


# --- who reads the environment --------------------------------------------------------------------------------------

READERS = {
    "entrypoint.py": "hands it to settings.from_environ",
    "sidecar/worker/tools.py": "replaces it for a tool of devpi's that runs in its place",
    "sidecar/cli/commands.py": "hands it to discovery.runtime_dir",
    "sidecar/cli/healthcheck.py": "hands it to discovery.runtime_dir",
    "sidecar/worker/upstream/trust.py": "reads the usual variables of CA certificates, as devpi does",
    "sidecar/worker/options.py": "names the DEVPISERVER_* that are no option, in the child",
}


def environ_reads(tree: ast.AST) -> Iterator[int]:
    """Lines that read the process's environment. `os.environ[…] = …` and a bare `os.environ.pop(…)` only write."""
    writes = set()
    for node in ast.walk(tree):
        match node:
            case ast.Subscript(value=target, ctx=ast.Store() | ast.Del()):
                writes.add(target)
            case ast.Expr(ast.Call(ast.Attribute(value=target, attr="pop"))):
                writes.add(target)
    names = {"environ", "environb", "getenv", "getenvb", "expandvars"}
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(ast.Name("os" | "path" | "posix"), attr) if attr in names and node not in writes:
                yield node.lineno
            case ast.ImportFrom("os" | "posix", imported) if names & {alias.name for alias in imported}:
                yield node.lineno


def test_nobody_else_reads_the_environment() -> None:
    """Only modules that pass it on use `os.environ`, by their syntax trees."""
    sources = [ROOT / "entrypoint.py", *(ROOT / "sidecar").rglob("*.py")]
    reads = {str(path.relative_to(ROOT)): list(environ_reads(ast.parse(path.read_text()))) for path in sources}
    readers = {name for name, lines in reads.items() if lines}
    assert readers == set(READERS)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import os\nos.environ['X']", [2]),
        ("import os\nx = os.environ.pop('X')", [2]),
        ("import os\nf(os.getenv('X'))", [2]),
        ("from os import environ", [1]),
        ("import os\nos.environ['X'] = '1'", []),
        ("import os\nos.environ.pop('X', None)", []),
        ("self.environ['X']", []),
    ],
)
def test_reads_are_told_from_writes(source: str, found: list[int]) -> None:
    """The search finds each kind of access."""
    assert list(environ_reads(ast.parse(source))) == found
