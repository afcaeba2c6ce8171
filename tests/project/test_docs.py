"""Compare README and docs/ with the code: names, defaults, codes, routes, links and examples."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import certifi
import pytest
from ruamel.yaml import YAML

from bench import mirrors
from sidecar.cli import commands
from sidecar.core import settings
from sidecar.core.errors import ExitCode
from sidecar.core.lifecycle import Phase
from sidecar.features.bootstrap.import_status import ImportState
from sidecar.features.credentials.password_status import RootPassword
from sidecar.web.app import ROUTES
from sidecar.worker import tools
from tests.support import faults, needs
from tests.support.container import Container, cleared_away
from tests.support.described import CHECKS
from tests.support.documents import (
    DOCUMENTS,
    ROOT,
    anchors,
    blocks,
    code_variables,
    document,
    manifest,
    metrics_table,
    rows,
    section,
)
from tests.support.engine import trimmed
from tests.support.exposition import families, is_devpis_own

ARCHITECTURE = document("architecture")
NONE = "\N{EN DASH}"
"""In the settings table: there is no default."""

# --- the documents ------------------------------------------------------------------------------------------------


def in_backticks(text: str) -> set[str]:
    """Return everything in backticks, outside of fenced blocks."""
    return set(re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)))


def settings_table() -> dict[str, str]:
    """Return variable → default, as documented, without backticks."""
    return {cells[0].strip("`"): cells[1].strip("`") for cells in rows(section("settings", "Variables"))}


# --- what the code says -------------------------------------------------------------------------------------------


@cache
def code_defaults() -> dict[str, object]:
    """Return variable → the default that `settings.from_environ` passes to its reader; None for secrets."""
    everything = settings.from_environ({})
    found: dict[str, object] = {}
    for module, base in (("settings", everything), ("mirror_settings", everything.mirror)):
        for node in ast.walk(ast.parse((ROOT / "sidecar" / "core" / f"{module}.py").read_text())):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="read"), attr="value"),
                    args=[ast.Constant(value=str(name)), _, given],
                ):
                    found[name] = eval(ast.unparse(given), {"base": base})
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="read"), attr="secret"),
                    args=[ast.Constant(value=str(name)), *_],
                ):
                    found[name] = found[f"{name}_FILE"] = None
    return found


@cache
def devpi_variables() -> frozenset[str]:
    """Return every DEVPISERVER_ variable of devpi's parsers: each long option has one."""
    (folder,) = [Path(path) for path in importlib.util.find_spec("devpi_server").submodule_search_locations or ()]  # type: ignore[union-attr]
    text = "".join(path.read_text() for path in folder.glob("*.py"))
    options = re.findall(r"addoption\(\s*[^)]*?[\"']--([a-z][a-z0-9-]+)[\"']", text)
    return frozenset(f"DEVPISERVER_{option.upper().replace('-', '_')}" for option in options)


def source() -> str:
    """Return the text of the whole package."""
    return "\n".join(path.read_text() for path in (ROOT / "sidecar").rglob("*.py"))


def matches_route(method: str, path: str) -> bool:
    """Whether a concrete path is one of the app's."""
    return any(
        route.method == method and re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", route.path), path) for route in ROUTES
    )


# --- settings -----------------------------------------------------------------------------------------------------


def test_the_settings_table_has_every_setting_and_no_other() -> None:
    """A setting that is added, renamed or removed shows here."""
    assert code_variables() == frozenset(settings_table())


def test_every_variable_in_the_documents_is_one_of_the_code() -> None:
    """A misspelt variable would have no effect."""
    known = code_variables()
    unknown = {
        f"{path.name}: {name}"
        for path in DOCUMENTS
        for name in re.findall(r"\b(?:DEVPI|SIDECAR)_[A-Z_]*[A-Z]\b(?!\*|_\*)", path.read_text())
        if name not in known and not any(each.startswith(f"{name}_") for each in known)
    }
    assert set() == unknown


def test_every_documented_devpiserver_variable_is_an_option_of_devpi() -> None:
    """devpi ignores a DEVPISERVER_ variable that it doesn't know."""
    named = {name for path in DOCUMENTS for name in re.findall(r"\bDEVPISERVER_[A-Z_]*[A-Z]\b", path.read_text())}
    assert named
    assert set() == named - devpi_variables()


def test_documented_defaults_are_the_codes() -> None:
    """Setting a variable to its documented default changes nothing; a dash stands for none."""
    defaults = code_defaults() | {"DEVPI_RESTRICT_MODIFY": "root", "DEVPI_MIRROR_USER": None}
    special = {"DEVPI_SERVERDIR": str(settings.DEFAULT_SERVERDIR), "SIDECAR_RUNTIME_DIR": "$TMPDIR/devpi-sidecar-UID"}
    base = settings.from_environ({})
    wrong = []
    for name, documented in settings_table().items():
        if name in special:
            right = documented == special[name]
        elif documented == NONE:
            right = defaults[name] in (None, ())
        else:
            right = defaults[name] is not None and settings.from_environ({name: documented}) == base
        if not right:
            wrong.append(f"{name}: {documented}")
    assert [] == wrong


def test_the_documented_runtime_directory_is_the_one_that_is_used() -> None:
    """`$TMPDIR/devpi-sidecar-UID`, with /tmp where TMPDIR is unset."""
    documented = settings_table()["SIDECAR_RUNTIME_DIR"].replace("UID", str(os.getuid()))
    found = [str(settings.from_environ(environ).runtime_dir) for environ in ({"TMPDIR": "/var/x"}, {})]
    assert [documented.replace("$TMPDIR", "/var/x"), documented.replace("$TMPDIR", "/tmp")] == found


@pytest.mark.parametrize("name", sorted(code_variables()))
def test_every_documented_setting_is_really_read(name: str, tmp_path: Path) -> None:
    """Some value changes the settings; otherwise the comparison of defaults proves nothing."""
    secret = tmp_path / "secret"
    secret.write_text("a-secret-of-sixteen-or-more\n")
    texts = ("7", "exit", "wait", "json", "debug", "true", "a-secret-of-sixteen-or-more", "https://pypi.corp/")
    needed = {"DEVPI_MIRROR_URL": "https://pypi.corp/", "DEVPI_MIRROR_USER": "user"}
    environ = needed if name.startswith("DEVPI_MIRROR_PASSWORD") else {}
    if name == "DEVPI_MIRROR_USER":
        environ = {"DEVPI_MIRROR_URL": "https://pypi.corp/"}
    base = settings.from_environ(environ)
    for value in (*texts, str(secret), certifi.where()):
        try:
            changed = settings.from_environ({**environ, name: value})
        except settings.SettingsError:
            continue
        if changed != base:
            return
    pytest.fail(f"no value of {name} changes anything")


# --- names that an operator meets ---------------------------------------------------------------------------------


def test_every_phase_is_in_the_troubleshooting_table() -> None:
    """No other one is, either."""
    assert {phase.value for phase in Phase} == {
        cells[0].strip("`") for cells in rows(section("troubleshooting", "By phase"))
    }


def test_every_import_state_is_explained() -> None:
    """No other one is, either."""
    table = rows(section("import", "Watch it"))
    assert {state.value for state in ImportState} == {cells[0].strip("`") for cells in table}


def test_every_state_of_the_root_password_is_explained() -> None:
    """Each has a row that says what to do."""
    states = {cells[0].strip("`") for cells in rows(section("root-password", "States"))}
    assert {state.value for state in RootPassword} == states


def test_the_checks_are_listed_with_what_they_gate() -> None:
    """Name and weight of each check are the code's."""
    table = {cells[0].strip("`"): cells[1] for cells in rows(section("http-api", "Checks"))}
    assert {name: "yes" if gates else "no, warns" for name, gates in CHECKS.items()} == table


def test_every_check_in_the_troubleshooting_table_exists() -> None:
    """`check`: `reason`: both are in the code."""
    pairs = [re.findall(r"`([^`]+)`", cells[0]) for cells in rows(section("troubleshooting", "By check"))]
    pairs = [pair for pair in pairs if len(pair) == 2]
    assert {"process", "http", "write", "lock", "root-password", "replication"} <= {check for check, _ in pairs}
    assert [] == [pair for pair in pairs if not CHECKS.get(pair[0]) or pair[1] not in source()]


def test_the_import_failures_are_worded_as_the_code_words_them() -> None:
    """An operator searches for the words that `/status` shows."""
    table = rows(section("import", "Reasons"))
    fragments = [fragment for cells in table for fragment in re.findall(r"`([^`]+)`", cells[0])]
    assert len(fragments) > 5
    assert [] == [fragment for fragment in fragments if fragment not in source()]


def test_every_exit_code_is_listed_and_no_other_one_of_ours() -> None:
    """Codes of devpi-server and of other commands follow ours."""
    listed = {int(cells[0]) for cells in rows(document("exit-codes")) if cells[0].isdigit()}
    assert {code.value for code in ExitCode} == listed


# --- HTTP and commands --------------------------------------------------------------------------------------------


def test_the_api_table_has_exactly_the_routes_with_their_status_codes() -> None:
    """Method, path and codes are those of the app and of its handlers' docstrings."""
    in_code = {
        (route.method, route.path): set(re.findall(r"\b[1-5]\d\d\b", route.handler.__doc__ or "")) for route in ROUTES
    }
    documented = {
        (cells[0], cells[1].strip("`")): set(cells[3].split(", ")) for cells in rows(section("http-api", "Routes"))
    }
    assert in_code == documented


@pytest.mark.parametrize("block", [block for path in DOCUMENTS for block in blocks(path.read_text(), "sh")])
def test_shell_examples_are_shell_and_call_real_routes(block: str) -> None:
    """`bash -n` accepts them, and each URL on the sidecar's port has a route."""
    parsed = subprocess.run(["bash", "-n"], input=block, text=True, capture_output=True, check=False)
    assert (0, "") == (parsed.returncode, parsed.stderr)
    for command in block.replace("\\\n", " ").splitlines():
        for path in re.findall(r"localhost:3142(/[\w/-]*)", command):
            assert matches_route("POST" if "--request POST" in command else "GET", path), path


def test_the_sidecar_commands_are_listed() -> None:
    """The table has exactly the subcommands, and each of their options is mentioned in its row."""
    (choices,) = [action.choices for action in commands._parser()._actions if action.choices]
    listed = rows(section("command-line", "The `sidecar` command"))
    table = {cells[0].strip("`").removeprefix("sidecar "): cells[1] for cells in listed}
    assert set(choices) == set(table)
    missing = [
        f"{name} {option}"
        for name, parser in choices.items()
        for action in parser._actions
        for option in action.option_strings
        if option.startswith("--") and option != "--help" and option not in table[name]
    ]
    assert [] == missing


def test_the_sidecar_commands_exit_codes_are_listed() -> None:
    """They differ from the container's."""
    text = section("command-line", "The `sidecar` command").partition("Exit codes of `sidecar`:")[2]
    codes = {
        commands.DONE,
        commands.REFUSED,
        commands.NO_SIDECAR,
        commands.USAGE,
        commands.INTERRUPTED,
        commands.BROKEN_PIPE,
    }
    assert codes == set(map(int, re.findall(r"\b(\d+) ", text)))


def test_every_sidecar_command_that_is_named_anywhere_exists() -> None:
    """In all documents, with its options."""
    (choices,) = [action.choices for action in commands._parser()._actions if action.choices]
    named = {
        (path.name, word)
        for path in DOCUMENTS
        for word in re.findall(r"(?:`|bin/|exec (?:devpi|devpi-0 --|\S+) )sidecar ([a-z]+)", path.read_text())
    }
    assert len(named) > 10
    assert set() == {(name, word) for name, word in named if word not in choices}


def test_every_dev_command_that_is_named_exists() -> None:
    """`python3 dev.py …` and `just …` in any document."""
    records = {"CHANGELOG.md", "performance.md"}  # of earlier commands
    texts = [path.read_text() for path in DOCUMENTS if path.name not in records]
    recipes = re.findall(r"^([a-z-]+)(?: [*+]?[A-Z]+)*:", (ROOT / "justfile").read_text(), re.MULTILINE)
    assert {"run", "test"} == {word for text in texts for word in re.findall(r"python3 dev\.py ([a-z]+)", text)}
    named = {word for text in texts for word in re.findall(r"`(?:\.tools/bin/)?just ([a-z-]+)", text)}
    assert {"lint", "bench", "lock"} <= named <= set(recipes)


def test_the_tools_are_documented_with_their_lock() -> None:
    """Some of devpi's tools must not run beside a server."""
    text = section("command-line", "devpi's own tools")
    beside, alone = text.split("need exclusive access to the serverdir", 1)[0].split("```", 2)[::2]
    assert all(f"`{name}`" in beside for name in tools.BESIDE)
    assert all(f"`{name}`" in alone for name in tools.LOCKED)


# --- the manifest -------------------------------------------------------------------------------------------------


@cache
def pod() -> dict[str, Any]:
    """Return the manifest's pod."""
    return dict(manifest("StatefulSet")["spec"]["template"]["spec"])


@cache
def container() -> dict[str, Any]:
    """Return its only container."""
    (found,) = pod()["containers"]
    return dict(found)


@pytest.mark.parametrize(
    ("probe", "path"), [("startupProbe", "/startupz"), ("livenessProbe", "/livez"), ("readinessProbe", "/readyz")]
)
def test_each_probe_goes_to_its_route_on_the_sidecars_port(probe: str, path: str) -> None:
    """A liveness probe on `/readyz` would kill an import."""
    get = container()[probe]["httpGet"]
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    assert (path, settings.Listen().port) == (get["path"], ports.get(get["port"], get["port"]))
    assert matches_route("GET", get["path"])


def test_the_service_reaches_devpi_and_not_the_sidecar() -> None:
    """Its selector is the pod's label, its port a named one, which is 3141."""
    service, template = manifest("Service")["spec"], manifest("StatefulSet")["spec"]["template"]
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    assert service["selector"].items() <= template["metadata"]["labels"].items()
    assert [3141] == [ports[port["targetPort"]] for port in service["ports"]]
    assert manifest("StatefulSet")["spec"]["serviceName"] == manifest("Service")["metadata"]["name"]
    assert manifest("StatefulSet")["spec"]["selector"]["matchLabels"] == template["metadata"]["labels"]


def test_the_manifests_settings_are_valid_and_the_grace_is_long_enough() -> None:
    """More than delay, grace, and three times `shutdown.PATIENCE`: a rotation, the drain's end, SIGTERM."""
    from sidecar.container.shutdown import PATIENCE

    variables = {each["name"]: each["value"] for each in container()["env"]}
    read = settings.from_environ({name: value for name, value in variables.items() if not name.endswith("_FILE")})
    assert set(variables) <= code_variables()
    assert pod()["terminationGracePeriodSeconds"] > read.stop.delay + read.stop.grace + 3 * PATIENCE
    assert not pod()["enableServiceLinks"]


def test_the_manifests_secrets_and_volumes_are_mounted() -> None:
    """Each mount has its volume; secrets come by file, under a mounted secret."""
    spec = manifest("StatefulSet")["spec"]
    volumes = {each["name"]: each for each in pod()["volumes"]}
    claims = {each["metadata"]["name"] for each in spec["volumeClaimTemplates"]}
    mounts = {each["mountPath"]: each["name"] for each in container()["volumeMounts"]}
    assert set(mounts.values()) == {*volumes, *claims}
    assert mounts[str(settings.DEFAULT_SERVERDIR)] in claims
    files = [each["value"] for each in container()["env"] if each["name"].endswith("_FILE")]
    assert len(files) == 2
    assert all("secret" in volumes[mounts[str(Path(file).parent)]] for file in files)
    made = " ".join(block for block in blocks(document("kubernetes-manifest"), "sh") if "create secret" in block)
    assert all(f"--from-literal={Path(file).name}=" in made for file in files)


def test_the_manifest_fulfils_the_restricted_profile() -> None:
    """Kubernetes' Pod Security Standards, "restricted", and a read-only root."""
    context = container()["securityContext"]
    assert pod()["securityContext"]["runAsNonRoot"]
    assert pod()["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["readOnlyRootFilesystem"]
    assert "/tmp" in {each["mountPath"] for each in container()["volumeMounts"]}


def test_the_grace_periods_in_words_are_long_enough() -> None:
    """For `docker stop`, `docker run` and compose: all exceed the need of the defaults."""
    from sidecar.container.shutdown import PATIENCE

    need = settings.StopSettings().delay + settings.StopSettings().grace + 3 * PATIENCE
    pattern = r"(?:--time |--stop-timeout |stop_grace_period: )(\d+)"
    named = [seconds for path in DOCUMENTS for seconds in re.findall(pattern, path.read_text())]
    assert f"{need:.0f} s with the defaults" in document("stopping")
    assert len(named) >= 8
    assert [] == [seconds for seconds in named if int(seconds) <= need]


# --- operations ---------------------------------------------------------------------------------------------------


def test_the_table_of_faults_is_that_of_the_tests() -> None:
    """docs/operations.md has the table of `tests/support/faults.py`, which test_faults.py asserts."""
    found = re.findall(r"^\| fault \|.*?\n(?!\|)", document("operations") + "\n", re.MULTILINE | re.DOTALL)
    assert [faults.table()] == found


def test_every_fault_is_tested() -> None:
    """Each fault in the table is used in a test."""
    text = (ROOT / "tests" / "integration" / "test_faults.py").read_text()
    names = [name for name, value in vars(faults).items() if isinstance(value, faults.Fault)]
    assert len(names) > 15
    assert [] == [name for name in names if f"faults.{name}" not in text]


# --- the image ---------------------------------------------------------------------------------------------------


def test_the_table_of_what_is_left_out_is_the_list_that_the_build_goes_by() -> None:
    """docs/docker.md has the table of docker/trimmed.py; a container test compares that with the image."""
    text = document("docker")
    assert [trimmed().table()] == re.findall(r"^\| of \|.*?\n(?!\|)", text, re.MULTILINE | re.DOTALL)


def test_every_label_s_argument_is_in_the_documented_build() -> None:
    """Except the digest, which is known only after a pull of the base image."""
    text = document("docker")
    labels = re.findall(r"org\.opencontainers\.image\.\S+=\"\$\{(\w+)\}\"", (ROOT / "Dockerfile").read_text())
    told = set(re.findall(r"--build-arg (\w+)=", text))
    assert {"CREATED", "SOURCE", "URL", "REVISION"} <= set(labels)
    assert {"VERSION", "PYTHON_IMAGE", "PYTHON_IMAGE_DIGEST"} == set(labels) - told


def test_the_time_of_the_documented_build_is_that_of_its_files(tmp_path: Path) -> None:
    """`CREATED` as RFC 3339 in UTC, wherever the commit was made."""
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "GIT_COMMITTER_DATE": "2026-01-02T03:04:05+0500"}
    needs.program("git")
    (command,) = re.findall(r'CREATED="\$\((.*?)\)"', document("docker"))
    made = "git init -q && git -c user.name=x -c user.email=x commit -q --allow-empty -m x"
    done = subprocess.run(
        ["sh", "-ec", f"{made} && {command}"], cwd=tmp_path, env=environ, capture_output=True, text=True, check=True
    )
    assert "2026-01-01T22:04:05Z\n" == done.stdout


def test_the_required_versions_are_named() -> None:
    """In the README, the sample and docs/docker.md."""
    for name in ("README.md", "docker-compose.yml", "docs/docker.md"):
        text = (ROOT / name).read_text()
        assert re.search(r"Docker Engine 25\b", text), name
        assert "Compose 2.20.2" in " ".join(text.split()), name


def test_no_documented_loop_waits_for_a_container_that_has_ended() -> None:
    """`until docker exec …` would never end, because `docker exec` fails as it does for an unready devpi."""
    assert [] == [
        path.name for path in DOCUMENTS if re.search(r"^(until|while) .*docker", path.read_text(), re.MULTILINE)
    ]


# --- metrics ------------------------------------------------------------------------------------------------------


def test_the_metrics_table_has_every_metric_and_no_other(tmp_path: Path) -> None:
    """Name, type, and labels (of those with samples) match a real run's exposition."""
    with cleared_away(Container(tmp_path / "c").start()) as container:
        container.wait_ready()
        found = families(container.get("/metrics", accept="application/openmetrics-text").body.decode())
    documented = metrics_table()
    assert set(documented) == {name for name in found if not is_devpis_own(name)}
    assert {} == {
        name: (documented[name], found[name])
        for name in documented
        if documented[name][0] != found[name][0] or (found[name][1] and documented[name][1] != found[name][1])
    }


def test_the_alerts_table_has_every_alert() -> None:
    """The table has the alerts of deploy/prometheus."""
    rules = YAML(typ="safe").load(ROOT / "deploy" / "prometheus" / "alerts.yml")["groups"][0]["rules"]
    text = section("metrics", "Alerts")
    assert [rule["alert"] for rule in rules] == [cells[0].strip("`") for cells in rows(text)]


# --- CI -----------------------------------------------------------------------------------------------------------


def test_ci_leaves_its_checkout_by_one_documented_variable() -> None:
    """Each default of .ci/run is in docs/ci.md, and only one of them is a path outside the checkout."""
    code = re.sub(r"^#.*", "", (ROOT / ".ci" / "run").read_text(), flags=re.MULTILINE)
    defaults = {name: default for name, default in re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", code) if default}
    documented = {cells[0].strip("`"): cells[1].strip("`") for cells in rows(document("ci"))}
    assert {"CI", "CI_CONTAINERS"} <= set(defaults)
    assert defaults == {name: documented.get(name) for name in defaults}
    assert ["CI_CONTAINERS"] == [name for name, default in defaults.items() if "/" in default]
    assert {"HOME", "PWD", "XDG_CACHE_HOME", "DEVPI_BOX"}.isdisjoint(re.findall(r"\$\{?([A-Z_]+)", code))
    assert [] == [line for line in code.splitlines() if "../" in line and "CI_CONTAINERS" not in line]


# --- documents ----------------------------------------------------------------------------------------------------


def contract(name: str) -> list[set[str]]:
    """Return the layers of a contract of import-linter, from the top down, without packages that don't exist yet."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (found,) = [each for each in contracts if each["id"] == name]
    layers = [set(re.split(r"\s*[|:]\s*", layer)) for layer in found["layers"]]
    built = [{name for name in layer if not name.startswith("(")} for layer in layers]
    return [layer for layer in built if layer]


def test_the_architecture_is_short() -> None:
    """A new contributor reads it before the first change."""
    assert len(ARCHITECTURE.splitlines()) <= 250


def test_every_module_says_what_it_is() -> None:
    """Its docstring is the only list of modules that there is."""
    modules = [path for path in (ROOT / "sidecar").rglob("*.py") if path != ROOT / "sidecar" / "__init__.py"]
    assert len(modules) > 100
    assert [] == [str(path) for path in modules if not ast.get_docstring(ast.parse(path.read_text()))]


def test_the_architecture_describes_every_room() -> None:
    """There is a heading for each room of the contract, an item for each feature, and none for others."""
    text = ARCHITECTURE.partition("## Nine rooms on six floors")[2].partition("\n## ")[0]
    features = text.partition("### `features/`")[2].partition("\n### ")[0]
    assert set.union(*contract("floors")) == set(re.findall(r"^### `(\w+)/`: ", text, re.MULTILINE))
    assert set.union(*contract("features")) == set(re.findall(r"^- `(\w+)/?` ", features, re.MULTILINE))


def test_the_architecture_names_modules_that_there_are() -> None:
    """In the section of a room, every name in backticks is a module or a folder in it, or begins with one."""
    text = ARCHITECTURE.partition("## Nine rooms on six floors")[2].partition("### Allowed imports")[0]
    unknown = []
    for room, described in re.findall(r"^### `(\w+)/`: (.*?)(?=^### |\Z)", text, re.MULTILINE | re.DOTALL):
        inside = [path for path in (ROOT / "sidecar" / room).rglob("*") if path.name != "__pycache__"]
        known = {path.stem for path in inside} | {"sidecar"}
        named = [name for name in in_backticks(described) if re.fullmatch(r"[a-z_]\w*(?:\.(?!py$)\w+)*/?", name)]
        assert named, room
        unknown += [f"{room}: {name}" for name in named if re.split(r"[./]", name)[0] not in known]
    assert [] == unknown


def test_the_architecture_has_the_floors_of_the_contracts() -> None:
    """The numbered lists under "Allowed imports" are import-linter's, which checks them."""
    text = ARCHITECTURE.partition("### Allowed imports")[2].partition("\n## ")[0]
    layers = [set(re.findall(r"`(\w+)`", line)) for line in re.findall(r"^\d+\. (.*)$", text, re.MULTILINE)]
    assert [*contract("floors"), *contract("features")] == layers


def test_the_architecture_names_every_message() -> None:
    """The messages are those of `sidecar.devpi.protocol`."""
    from sidecar.devpi import protocol

    text = ARCHITECTURE.partition("## Messages between sidecar and worker")[2].partition("\n## ")[0]
    assert set() == set(protocol._KINDS) - in_backticks(text)


def test_the_architecture_has_every_name_below_sidecar() -> None:
    """Those of `sidecar.storage.layout`, except those in the staging folder and the monitor's test file."""
    from sidecar.storage import layout

    names = {value for name, value in vars(layout).items() if name.isupper()}
    names -= {layout.OWN, layout.STATE, layout.UNPACKED, layout.WRITE_PROBE}
    text = ARCHITECTURE.partition("## On the volume")[2].partition("\n## ")[0]
    assert names == {name.rstrip("/") for name in re.findall(r"^ {8}([\w.-]+/?) ", text, re.MULTILINE)}


def test_twelve_changes_name_the_files_that_they_touch() -> None:
    """Each row names code, and every path exists."""
    changes = rows(ARCHITECTURE.partition("## Twelve likely changes")[2])
    path = re.compile(r"`((?:[\w.-]+/)*[\w-]+(?:\.(?:py|md|toml|lock|html)|/))`")
    named = {cells[0]: path.findall(" ".join(cells[1:])) for cells in changes}
    assert 12 == len(named)
    assert all(any(each.startswith("sidecar/") for each in paths) for paths in named.values())
    assert [] == [(change, each) for change, paths in named.items() for each in paths if not (ROOT / each).exists()]


def test_every_path_in_the_documents_exists() -> None:
    """Files of this project, also with paths below `sidecar/`: `core/files.py`."""
    rooms = set.union(*contract("floors"))
    folders = {path.name for path in ROOT.iterdir() if path.is_dir()} - {"devpi-data"}
    wrong = []
    for path in DOCUMENTS:
        if path.name == "CHANGELOG.md":  # tells of what was, too
            continue
        for named in in_backticks(path.read_text()):
            head, slash, _ = named.partition("/")
            if not slash or not re.fullmatch(r"[\w./-]+", named) or head not in rooms | folders:
                continue
            if named.startswith("deploy/kubernetes/mine/"):  # the reader's own
                continue
            if not (ROOT / named).exists() and not (head in rooms and (ROOT / "sidecar" / named).exists()):
                wrong.append(f"{path.name}: {named}")
    assert [] == wrong


def test_one_limit_of_memory() -> None:
    """The budget adds up, and has the limit of docs, manifests and `bench soak`, which holds it."""
    budget = rows(section("operations", "Memory"))
    names = [cells[0] for cells in budget]
    parts = [int(cells[1]) for cells in budget[: names.index("together")]]
    assert sum(parts) == int(budget[len(parts)][1]) <= mirrors.LIMIT // 2**20
    limit = f"{mirrors.LIMIT // 2**20}"
    assert ["**the limit**", f"**{limit}**"] == budget[len(parts) + 1][:2]
    manifest = (ROOT / "deploy" / "kubernetes" / "base" / "statefulset.yaml").read_text()
    for text in (document("kubernetes-manifest"), manifest):
        assert [limit] == re.findall(r"limits:\n *memory: (\d+)Mi", text)
    assert f"--memory {limit}m" in document("docker")
    assert f"mem_limit: {limit}m" in (ROOT / "docker-compose.yml").read_text()


def test_relative_links_resolve() -> None:
    """Each leads to a file, and to a heading if there is a fragment."""
    broken = []
    for path in DOCUMENTS:
        for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
            if re.match(r"[a-z]+:", link):
                continue
            file, _, fragment = link.partition("#")
            target = (path.parent / file).resolve() if file else path
            if not target.exists() or (fragment and fragment not in anchors(target)):
                broken.append(f"{path.name}: {link}")
    assert [] == broken


def test_every_document_can_be_reached_from_the_readme() -> None:
    """Its index has all of them."""
    linked = set(re.findall(r"\]\(([^)#\s]+\.md)(?:#[\w-]+)?\)", (ROOT / "README.md").read_text()))
    assert {str(path.relative_to(ROOT)) for path in DOCUMENTS} - {"README.md"} == linked


def test_the_readme_is_short() -> None:
    """Everything else has a place in docs/."""
    assert len((ROOT / "README.md").read_text().splitlines()) <= 250


def test_every_document_that_a_file_names_exists() -> None:
    """In code, manifests and alerts, also if an anchor (`#…`) or a heading (`, "…"`) follows the name."""
    reference = re.compile(r"\b(docs/[\w-]+\.md|[A-Z]{6,}\.md)\b(?:#([\w-]+)|`?, \"([A-Z][^\"\n]+)\")?")
    tops = [ROOT / name for name in ("sidecar", "deploy", "docker", "tests", "bench", "testbed", ".ci")]
    files = [path for top in tops for path in top.rglob("*") if "__pycache__" not in path.parts]
    files += [path for path in ROOT.iterdir() if path not in DOCUMENTS]
    suffixes = {".py", ".yml", ".yaml", ".cfg", ".toml", ".json", ".html", ".js", ".css", ""}
    named, broken = 0, []
    for path in files:
        if not path.is_file() or path.suffix not in suffixes:
            continue
        for name, anchor, title in reference.findall(path.read_text(errors="replace")):
            named += 1
            wanted = anchor or re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
            if not (ROOT / name).exists() or (wanted and wanted not in anchors(ROOT / name)):
                broken.append(f"{path.relative_to(ROOT)}: {name} {wanted}")
    assert named > 50
    assert [] == broken


def test_examples_of_data_parse() -> None:
    """Fenced YAML and JSON, in all documents."""
    fenced = re.compile(r"^```(yaml|json)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    found = [each for path in DOCUMENTS for each in fenced.findall(path.read_text())]
    parsed = [json.loads(text) if kind == "json" else list(YAML(typ="safe").load_all(text)) for kind, text in found]
    assert parsed
    assert all(parsed)


def test_the_documents_name_no_registry_and_no_place_on_a_machine() -> None:
    """Examples must not depend on a specific index, registry or home."""
    pattern = r"pypi\.org|pythonhosted|docker\.io|ghcr\.io|quay\.io|/home/|/work/|/Users/"
    assert [] == [f"{path.name}: {hit}" for path in DOCUMENTS for hit in re.findall(pattern, path.read_text())]
