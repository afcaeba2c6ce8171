"""A real cluster, by kubectl: a test's own namespaces with the manifests of `deploy/kubernetes`."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.support import engine
from tests.support.container import Answer, login, request, wait_for

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy" / "kubernetes"
LABEL = "devpi-sidecar-test"
FLAGS = ("--no-root-pypi", "--offline-mode")
"""Flags with which devpi-server reaches no other server."""
HOW = 'see docs/kubernetes.md, "Test the manifests"'


def kubectl(
    *arguments: str | Path, check: bool = True, stdin: str | None = None, patience: float = 120.0
) -> subprocess.CompletedProcess[str]:
    """Run `kubectl ARGUMENTS`; with `check` it must succeed."""
    done = subprocess.run(
        ["kubectl", *map(str, arguments)], input=stdin, capture_output=True, text=True, timeout=patience, check=False
    )
    assert not check or done.returncode == 0, f"kubectl {' '.join(map(str, arguments))}\n{done.stdout}{done.stderr}"
    return done


def require_kubectl() -> None:
    """Skip without kubectl."""
    if shutil.which("kubectl") is None:
        pytest.skip("NOT TESTED: there is no kubectl command")


def require_cluster() -> None:
    """Skip without a cluster for tests. Fail if one is named but doesn't answer."""
    require_kubectl()
    if not os.environ.get("KUBECONFIG"):
        pytest.skip(f"NOT TESTED: KUBECONFIG is not set; {HOW}")
    # these tests drain the node, so never use a shared cluster
    server = kubectl("config", "view", "--minify", "--output", "jsonpath={.clusters[0].cluster.server}").stdout
    if not re.match(r"https?://(127\.\d+\.\d+\.\d+|localhost|\[::1\])[:/]", server + "/"):
        pytest.fail(f"KUBECONFIG names {server}, which is not this machine: these tests drain nodes")
    nodes = kubectl("get", "nodes", "--output", "name", check=False)
    if nodes.returncode:
        pytest.fail(f"KUBECONFIG is set, but no API server answers: {nodes.stderr.strip()[-500:]}")
    assert len(nodes.stdout.split()) == 1, f"a cluster of one node is needed: {nodes.stdout}"


def render(kustomization: Path) -> list[dict[str, Any]]:
    """Return all objects that `kubectl kustomize` makes of a folder."""
    return [dict(each) for each in YAML(typ="safe").load_all(kubectl("kustomize", kustomization).stdout)]


def copy_of_deploy(into: Path) -> Path:
    """Return a copy of `deploy/kubernetes` whose kustomizations may be edited."""
    return Path(shutil.copytree(DEPLOY, into / "deploy" / "kubernetes", ignore=shutil.ignore_patterns("secrets")))


def deep_patch(patch: dict[str, Any]) -> dict[str, Any]:
    """Return a strategic merge patch of the StatefulSet's pod."""
    body = {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "devpi"}, "spec": {"template": patch}}
    return {"patch": json.dumps(body)}


class Site:
    """One namespace with `deploy/kubernetes/base`, `components`, and changes to the container."""

    def __init__(
        self,
        name: str,
        home: Path,
        *,
        components: tuple[str, ...] = (),
        container: dict[str, Any] | None = None,
        pod: dict[str, Any] | None = None,
    ) -> None:
        self.namespace = f"{LABEL}-{name}-{uuid.uuid4().hex[:6]}"
        self.home = home
        self.volumes: list[str] = []
        self.deploy = copy_of_deploy(home)
        changes = {"name": "devpi", "imagePullPolicy": "Never", "args": list(FLAGS)} | (container or {})
        overlay = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "namespace": self.namespace,
            "resources": ["../base"],
            "components": [f"../{each}" for each in components],
            "images": [image()],
            "patches": [deep_patch({"spec": (pod or {}) | {"containers": [changes]}})],
        }
        self.overlay = self.deploy / "overlay"
        self.overlay.mkdir()
        (self.overlay / "kustomization.yaml").write_text(json.dumps(overlay))
        namespace = {
            "metadata": {
                "name": self.namespace,
                "labels": {LABEL: "", "pod-security.kubernetes.io/enforce": "restricted"},
            }
        }
        create({"apiVersion": "v1", "kind": "Namespace"} | namespace)

    @classmethod
    def adopt(cls, namespace: str, home: Path) -> Site:
        """Use a namespace to which something else is applied."""
        self = cls.__new__(cls)
        self.namespace = namespace
        self.home = home
        self.volumes = []
        return self

    def kubectl(self, *arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run kubectl in the namespace."""
        return kubectl("--namespace", self.namespace, *arguments, **options)

    def volume(self, name: str, as_claim: str | None = None) -> Path:
        """Create a volume on the node, owned by root, for the claim of that name; return its folder."""
        folder = self.home / name
        folder.mkdir(parents=True)
        self.volumes.append(make_volume(folder, self.namespace, as_claim or name))
        return folder

    def apply(self) -> Site:
        """Run `kubectl apply`."""
        self.kubectl("apply", "--kustomize", self.overlay)
        return self

    def get(self, what: str, name: str) -> dict[str, Any]:
        """Return an object of the API server; empty if there is none."""
        done = self.kubectl("get", what, name, "--ignore-not-found", "--output", "json")
        return dict(json.loads(done.stdout)) if done.stdout else {}

    @property
    def container(self) -> dict[str, Any]:
        """Return the container's status; empty if there is none yet."""
        statuses = self.get("pod", "devpi-0").get("status", {}).get("containerStatuses", [{}])
        return dict(statuses[0])

    @property
    def ready(self) -> bool:
        """Whether the pod is ready."""
        conditions = self.get("pod", "devpi-0").get("status", {}).get("conditions", [])
        return {"Ready": "True"}.items() <= {each["type"]: each["status"] for each in conditions}.items()

    def wait_ready(self, patience: float = 90.0) -> Site:
        """Wait until the pod is ready, by one watching kubectl: polling would take the CPU that the pod needs."""
        watch = ("wait", "--for=condition=Ready", "pod/devpi-0", "--timeout=5s")
        try:
            wait_for(lambda: self.kubectl(*watch, check=False).returncode == 0, "a ready pod", patience)
        except AssertionError:
            raise AssertionError(f"not ready\n{self.described}\n{self.log}") from None
        return self

    @property
    def addresses(self) -> tuple[int, int]:
        """Return how many pods are endpoints of the Service `devpi`, and how many would be if they were ready."""
        subsets = self.get("endpoints", "devpi").get("subsets", [])
        return tuple(sum(len(s.get(k, [])) for s in subsets) for k in ("addresses", "notReadyAddresses"))  # type: ignore[return-value]

    def wait_reachable(self, patience: float = 90.0) -> Site:
        """Wait until requests to the Service `devpi` reach the pod; kube-proxy is later than the endpoints."""
        wait_for(lambda: self.addresses == (1, 0), "the pod among the endpoints", patience)
        wait_for(lambda: request(f"{self.devpi}/+api").status == 200, "devpi-server through its Service", patience)
        return self

    @property
    def described(self) -> str:
        """Return `kubectl describe` of the pod."""
        return self.kubectl("describe", "pod", "devpi-0", check=False).stdout

    @property
    def log(self) -> str:
        """Return the log of the container that runs, or ran last."""
        return self.kubectl("logs", "devpi-0", check=False).stdout

    def exec(self, *command: str) -> str:
        """Return a command's output in the container."""
        return self.kubectl("exec", "devpi-0", "--", *command).stdout

    def python(self, code: str) -> str:
        """Return the output of a piece of Python in the container, which has no shell."""
        return self.exec("python3", "-c", code)

    def service(self, name: str, port: int) -> str:
        """Return the URL of a Service, with its cluster address, which this machine's kube-proxy knows."""
        return f"http://{self.get('service', name)['spec']['clusterIP']}:{port}"

    @property
    def devpi(self) -> str:
        """Return devpi-server's URL for users."""
        return self.service("devpi", 3141)

    def sidecar(self, path: str, method: str = "GET", token: str | None = None) -> Answer:
        """Send a request to the sidecar, through its Service."""
        return request(self.service("devpi-sidecar", 3142) + path, method, token=token)

    def claim(self) -> str:
        """Claim and return the generated root password."""
        return self.exec("sidecar", "claim").strip()

    def login(self, password: str, user: str = "root") -> int:
        """Return the HTTP status of a login at devpi-server."""
        return login(self.devpi, user, password)[0]

    def container_id(self) -> str:
        """Return the engine's name of the container."""
        return str(self.container["containerID"]).removeprefix("docker://")

    def remove(self) -> None:
        """Delete its pods without waiting; `gone` waits."""
        self.kubectl("delete", "statefulset,pod", "--all", "--wait=false", check=False)

    def gone(self) -> None:
        """Wait until nothing of it runs. The rest of the deletion needs no wait."""
        named = ("ps", "--quiet", "--filter", f"name=_{self.namespace}_")
        wait_for(lambda: not engine.docker(*named).stdout, "the containers' exit", 60)
        forget_ended_pods(self.namespace)
        kubectl("delete", "namespace", self.namespace, "--ignore-not-found", "--wait=false", check=False)
        for volume in self.volumes:
            kubectl("delete", "pv", volume, "--ignore-not-found", "--wait=false", check=False)


def forget_ended_pods(namespace: str) -> None:
    """Delete ended pods from the API server: kubelet 1.20 does it up to 40 s later."""
    pods = kubectl("--namespace", namespace, "get", "pods", "--output", "json", check=False)
    for pod in json.loads(pods.stdout or "{}").get("items", []):
        states = [each["state"] for each in pod["status"].get("containerStatuses", [])]
        if "deletionTimestamp" in pod["metadata"] and all("terminated" in each for each in states):
            name = pod["metadata"]["name"]
            kubectl("--namespace", namespace, "delete", "pod", name, "--force", "--grace-period=0", check=False)


@contextmanager
def ended_pods_forgotten(namespace: str) -> Iterator[None]:
    """Meanwhile do what newer kubelets do at once: see `forget_ended_pods`."""
    over = threading.Event()

    def forget() -> None:
        while not over.wait(1):
            forget_ended_pods(namespace)

    thread = threading.Thread(target=forget)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def create(*objects: dict[str, Any]) -> None:
    """Run `kubectl create`."""
    kubectl("create", "--filename", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))


def make_volume(folder: Path, namespace: str, claim: str) -> str:
    """Create a volume for that claim on the node. `local`, not `hostPath`: so the kubelet applies fsGroup."""
    (node,) = json.loads(kubectl("get", "nodes", "--output", "json").stdout)["items"]
    host = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node["metadata"]["name"]]}
    name = f"{LABEL}-{uuid.uuid4().hex[:10]}"
    create(
        {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": name, "labels": {LABEL: ""}},
            "spec": {
                "capacity": {"storage": "100Gi"},
                "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain",
                "claimRef": {"namespace": namespace, "name": claim},
                "local": {"path": str(folder)},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [host]}]}},
            },
        }
    )
    return name


def image() -> dict[str, str]:
    """Return kustomize's entry that replaces the manifests' image by the image under test."""
    name, _, tag = engine.IMAGE.partition(":")
    return {"name": "devpi-sidecar", "newName": name, "newTag": tag}
