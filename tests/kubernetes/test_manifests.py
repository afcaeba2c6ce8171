"""`deploy/kubernetes` without a cluster: schemas, Pod Security, and consistency with the code and the documents."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sidecar.core import settings
from sidecar.web.app import ROUTES
from tests.kubernetes import cluster
from tests.support import documents

pytestmark = pytest.mark.kubernetes

VERSIONS = [f"1.{minor}" for minor in range(25, 38)]
VALIDATOR = "kubernetes-validate==1.37.0"
"""22 MB of schemas, so not among the development dependencies: installed only for this test."""
VALIDATE = """
import json, sys, kubernetes_validate as k
objects = json.load(sys.stdin)
for version in sys.argv[1:]:
    for each in objects:
        try:
            k.validate(each, version, strict=True)
        except Exception as error:
            print(version, each["kind"], each["metadata"]["name"], repr(error)[:2000])
"""
WITH_EVERYTHING = ("# - ../", "- ../"), ("# - secrets/", "- secrets/")
"""Commented-out lines of the example, and the lines without the comment sign."""


@pytest.fixture(scope="module", autouse=True)
def _kubectl() -> None:
    cluster.require_kubectl()


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """Name → objects: the manifests, the example without and with its commented-out lines, and the loading pod."""
    deploy = cluster.copy_of_deploy(tmp_path_factory.mktemp("manifests"))
    example = deploy / "example"
    (example / "secrets").mkdir()
    for name in ("admin-token", "root-password"):
        (example / "secrets" / name).write_text("0123456789abcdef\n")
    found = {name: cluster.render(deploy / name) for name in (".", "example", "example/load", "import/load")}
    text = (example / "kustomization.yaml").read_text()
    for commented, used in WITH_EVERYTHING:
        assert commented in text
        text = text.replace(commented, used)
    (example / "kustomization.yaml").write_text(text)
    return found | {"everything": cluster.render(example)}


def one(objects: list[dict[str, Any]], kind: str, name: str = "devpi") -> dict[str, Any]:
    """Return the only object of that kind and name."""
    (found,) = [each for each in objects if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def pods(rendered: dict[str, list[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Return the spec of every pod."""
    for objects in rendered.values():
        for each in objects:
            if each["kind"] == "Pod":
                yield each["spec"]
            elif each["kind"] == "StatefulSet":
                yield each["spec"]["template"]["spec"]


@pytest.fixture
def pod(rendered: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return the pod without changes."""
    return dict(one(rendered["."], "StatefulSet")["spec"]["template"]["spec"])


def test_the_schemas_of_all_versions_accept_them(
    rendered: dict[str, list[dict[str, Any]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Strictly: a field that a version doesn't have is an error."""
    packages = tmp_path_factory.mktemp("kubernetes-validate")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--target", packages, VALIDATOR]
    installed = subprocess.run(pip, capture_output=True, text=True, timeout=120, check=False)
    if installed.returncode:
        pytest.skip(f"NOT TESTED: {VALIDATOR} can't be installed: {installed.stderr.strip()[-300:]}")
    every = json.dumps([each for objects in rendered.values() for each in objects])
    validate = [sys.executable, "-c", VALIDATE]
    environ = os.environ | {"PYTHONPATH": str(packages)}
    told = subprocess.run([*validate, *VERSIONS], input=every, env=environ, capture_output=True, text=True, check=False)
    assert ("", 0) == (told.stdout, told.returncode), told.stderr
    # and it does find mistakes
    wrong = json.dumps([{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"}, "spec": {"port": 1}}])
    told = subprocess.run([*validate, "1.25"], input=wrong, env=environ, capture_output=True, text=True, check=False)
    assert "port" in told.stdout, told


def test_every_pod_fulfils_the_restricted_profile(rendered: dict[str, list[dict[str, Any]]]) -> None:
    """Kubernetes' Pod Security Standards, "restricted"; also numeric users, a read-only root and no token."""
    found = list(pods(rendered))
    assert len(found) >= 5
    for spec in found:
        context = spec["securityContext"]
        assert context["runAsNonRoot"]
        assert (1000, 1000, 1000) == tuple(context[name] for name in ("runAsUser", "runAsGroup", "fsGroup"))
        assert {"type": "RuntimeDefault"} == context["seccompProfile"]
        assert "OnRootMismatch" == context["fsGroupChangePolicy"]
        assert spec["enableServiceLinks"] is spec["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
        kinds = {kind for each in spec["volumes"] for kind in each if kind != "name"}
        assert kinds <= {"emptyDir", "secret", "persistentVolumeClaim"}
        for each in spec["containers"]:
            own = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
            assert own == each["securityContext"]
            assert each["resources"]["limits"].keys() == {"memory"}  # a CPU limit throttles probes
            assert each["resources"]["requests"].keys() == {"cpu", "memory"}


def test_probes_go_to_their_routes(pod: dict[str, Any]) -> None:
    """On the sidecar's port; a liveness probe on `/readyz` would kill an import."""
    (container,) = pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    routes = {route.path for route in ROUTES if route.method == "GET"}
    for probe, path in {"startup": "/startupz", "liveness": "/livez", "readiness": "/readyz"}.items():
        get = container[f"{probe}Probe"]["httpGet"]
        assert (path, settings.Listen().port) == (get["path"], ports[get["port"]])
        assert path in routes


def test_the_settings_are_valid_and_the_grace_is_long_enough(rendered: dict[str, list[dict[str, Any]]]) -> None:
    """More than delay, grace, and devpi-server's time after SIGTERM together."""
    from sidecar.container.shutdown import PATIENCE

    spec = one(rendered["everything"], "StatefulSet")["spec"]["template"]["spec"]
    variables = {each["name"]: each["value"] for each in spec["containers"][0]["env"]}
    assert set(variables) <= documents.code_variables()
    read = settings.from_environ({name: value for name, value in variables.items() if not name.endswith("_FILE")})
    assert read.stop.delay > 0
    assert spec["terminationGracePeriodSeconds"] >= read.stop.delay + read.stop.grace + 3 * PATIENCE + 5


def test_secrets_come_by_file_and_every_mount_has_its_volume(rendered: dict[str, list[dict[str, Any]]]) -> None:
    """With every component: the files are keys of the generated Secret, below its mount."""
    stateful = one(rendered["everything"], "StatefulSet")["spec"]
    spec = stateful["template"]["spec"]
    (container,) = spec["containers"]
    volumes = {each["name"]: each for each in spec["volumes"]}
    mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
    claims = {each["metadata"]["name"] for each in stateful["volumeClaimTemplates"]}
    assert set(mounts.values()) == {*volumes, *claims}
    assert mounts[str(settings.DEFAULT_SERVERDIR)] in claims
    assert {"/tmp", str(settings.ImportSettings().init_dir)} <= mounts.keys()
    (secret,) = [each for each in rendered["everything"] if each["kind"] == "Secret"]
    files = {Path(each["value"]) for each in container["env"] if each["name"].endswith("_FILE")}
    assert {file.name for file in files} == secret["data"].keys() == {"admin-token", "root-password"}
    assert {volumes[mounts[str(file.parent)]]["secret"]["secretName"] for file in files} == {secret["metadata"]["name"]}
    assert not any("secret" in volume for volume in next(pods({"": rendered["."]}))["volumes"])


def test_services_select_the_pod_and_only_the_sidecars_take_one_that_is_not_ready(
    rendered: dict[str, list[dict[str, Any]]],
) -> None:
    """Users reach only devpi-server, and only when it is ready."""
    objects = rendered["."]
    stateful = one(objects, "StatefulSet")["spec"]
    ports = {port["name"]: port["containerPort"] for port in stateful["template"]["spec"]["containers"][0]["ports"]}
    reached = {}
    for service in [each for each in objects if each["kind"] == "Service"]:
        spec = service["spec"]
        assert spec["selector"].items() <= stateful["template"]["metadata"]["labels"].items()
        numbers = [(port["port"], ports[port["targetPort"]]) for port in spec["ports"]]
        assert all(port == target for port, target in numbers)
        reached[service["metadata"]["name"]] = (
            [port for port, _ in numbers],
            spec.get("publishNotReadyAddresses", False),
        )
    assert {
        "devpi": ([3141], False),
        "devpi-sidecar": ([3142], True),
        "devpi-headless": ([3141, 3142], True),
    } == reached
    assert "devpi-headless" == stateful["serviceName"]


def test_the_loading_pod_is_nobodys_endpoint(rendered: dict[str, list[dict[str, Any]]]) -> None:
    """And it has the same image as the rest of the example."""
    loader = one(rendered["example/load"], "Pod", "devpi-load")
    server = one(rendered["example"], "StatefulSet")["spec"]["template"]
    assert loader["metadata"]["labels"] != server["metadata"]["labels"]
    assert loader["spec"]["containers"][0]["image"] == server["spec"]["containers"][0]["image"]
    assert loader["metadata"]["namespace"] == one(rendered["example"], "StatefulSet")["metadata"]["namespace"]


def test_the_documented_pod_is_the_manifests(rendered: dict[str, list[dict[str, Any]]]) -> None:
    """docs/kubernetes-manifest.md has the same probes, rights, grace and mounts."""
    shown = documents.manifest("StatefulSet")["spec"]["template"]["spec"]
    spec = one(rendered["everything"], "StatefulSet")["spec"]["template"]["spec"]
    same = ("enableServiceLinks", "automountServiceAccountToken", "terminationGracePeriodSeconds", "securityContext")
    assert {name: spec[name] for name in same} == {name: shown[name] for name in same}
    base = one(rendered["."], "StatefulSet")["spec"]["template"]["spec"]["containers"][0]
    (container,) = shown["containers"]
    probes = ("startupProbe", "livenessProbe", "readinessProbe")
    for name in ("ports", *probes, "terminationMessagePolicy", "resources", "securityContext"):
        assert base[name] == container[name], name
    everything = spec["containers"][0]
    assert {(e["name"], e["value"]) for e in container["env"]} == {(e["name"], e["value"]) for e in everything["env"]}
    assert {each["mountPath"] for each in container["volumeMounts"]} == {
        each["mountPath"] for each in everything["volumeMounts"] if each["name"] != "exports"
    }
