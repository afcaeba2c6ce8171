"""Start-up time: `first-start`, `livez`, `restart`."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from bench import inputs
from bench.processes import CHEAP, ByHand, Ours, devpi_import, devpi_init, devpi_server, free_ports
from bench.report import Reach, Result, Row
from bench.rounds import Bench, Comparison, Values, Way

_DEFAULT, _CHEAP, _OURS = "plain devpi-server", "plain devpi-server, cheap argon2", "devpi-sidecar"
_TO_API = "first 200 of +api, polled every 20 ms"


def first_start(bench: Bench) -> Result:
    """An empty serverdir → ready."""
    outcome = bench.in_turn({_DEFAULT: _first_by_hand(), _CHEAP: _first_by_hand(*CHEAP), _OURS: _first_ours})
    ours = outcome.series(_OURS, "ready")
    return Result(
        [
            Row("empty → ready", "s", outcome.series(_DEFAULT, "ready"), ours, Reach("ratio", "≤", 0.18)),
            Row("the same, plain devpi-server with cheap argon2", "s", outcome.series(_CHEAP, "ready"), ours,
                Reach("ratio", "≤", 0.75)),
        ],
        [
            f"Plain devpi-server: `devpi-init --root-passwd … --no-root-pypi && devpi-server`, {_TO_API}.",
            f"Cheap: `devpi-server {' '.join(CHEAP)}`.",
            "devpi-sidecar: `entrypoint.py` with DEVPI_PASSWORD, first 200 of `/readyz`, polled every 20 ms.",
        ],
    )  # fmt: skip


def _first_by_hand(*flags: str) -> Way:
    def run(folder: Path) -> Values:
        (port,) = free_ports(1)
        state = folder / "serverdir"
        with ByHand(folder, devpi_init(state), devpi_server(state, port, *flags)) as server:
            return {"ready": server.first_200(port, "/+api")}

    return run


def _first_ours(folder: Path) -> Values:
    with Ours(folder) as ours:
        return {"ready": ours.ready()}


def restart(bench: Bench) -> Result:
    """Existing state → ready."""
    export = inputs.export(bench.inputs, inputs.SMALL)
    with bench.folder() as folder:
        states = _States(folder, export)
        outcome = bench.in_turn(
            {
                _DEFAULT: states.restart_by_hand(),
                _CHEAP: states.restart_by_hand(*CHEAP),
                _OURS: states.restart_ours,
            }
        )
    ours = outcome.series(_OURS, "ready")
    return Result(
        [
            Row("existing state → ready", "s", outcome.series(_DEFAULT, "ready"), ours, Reach("ratio", "≤", 0.18)),
            Row("the same, plain devpi-server with cheap argon2", "s", outcome.series(_CHEAP, "ready"), ours,
                Reach("ratio", "≤", 1.3)),
        ],
        [
            f"State: {export.spec.projects} projects, {export.spec.files} files; each starts from a copy of a "
            "state that it has served before.",
            f"Plain devpi-server: `devpi-server`, {_TO_API}.",
        ],
    )  # fmt: skip


class _States:
    """States with some files, one made by each, to be copied for every run."""

    def __init__(self, folder: Path, export: inputs.Export) -> None:
        self._by_hand = folder / "by-hand" / "serverdir"
        self._ours = folder / "ours" / "serverdir"
        for state in (self._by_hand, self._ours):
            state.parent.mkdir()
        (port,) = free_ports(1)
        importing = devpi_import(self._by_hand, export.tree), devpi_server(self._by_hand, port, *CHEAP)
        with ByHand(self._by_hand.parent, *importing) as server:
            server.first_200(port, "/+api")
        with Ours(self._ours.parent, init_dir=export.as_directory) as ours:
            ours.ready()

    def restart_by_hand(self, *flags: str) -> Way:
        def run(folder: Path) -> Values:
            (port,) = free_ports(1)
            state = shutil.copytree(self._by_hand, folder / "serverdir")
            with ByHand(folder, devpi_server(state, port, *flags)) as server:
                return {"ready": server.first_200(port, "/+api")}

        return run

    def restart_ours(self, folder: Path) -> Values:
        with Ours(folder, serverdir=self.copy_ours(folder)) as ours:
            return {"ready": ours.ready()}

    def live_ours(self, folder: Path) -> Values:
        with Ours(folder, serverdir=self.copy_ours(folder)) as ours:
            return {"live": ours.live()}

    def copy_ours(self, folder: Path) -> Path:
        return shutil.copytree(self._ours, folder / "serverdir")


def livez(bench: Bench) -> Result:
    """Process start → /livez, with several kinds of serverdir."""
    with bench.folder() as folder:
        small = inputs.export(bench.inputs, inputs.SMALL)
        large = small if bench.quick else inputs.export(bench.inputs, inputs.Spec(projects=500, files=2000))
        states = _States(folder, small)
        ways: dict[str, Callable[[Path], Values]] = {
            "empty serverdir": _live_empty,
            "existing state": states.live_ours,
            "importing": _live_importing(large.as_archive),
        }
        outcome = bench.in_turn(ways)
    rows = [
        Row(f"start → first 200 of /livez, {way}", "s", None, outcome.series(way, "live"), Reach("median", "≤", 0.7))
        for way in ways
    ]
    rows.append(
        Row("phase at that moment was `ready` already (1 = yes)", "", None, outcome.series("importing", "ready"))
    )
    return Result(rows, [f"Importing: a `.tar.bz2` of {large.spec.files:,} files. Polled every 20 ms."])


def _live_empty(folder: Path) -> Values:
    with Ours(folder) as ours:
        return {"live": ours.live()}


def _live_importing(init_dir: Path) -> Way:
    def run(folder: Path) -> Values:
        with Ours(folder, init_dir=init_dir) as ours:
            live = ours.live()
            return {"live": live, "ready": float(ours.status()["phase"] == "ready")}

    return run


COMPARISONS = (
    Comparison("first-start", "An empty serverdir → ready", first_start),
    Comparison("livez", "The sidecar's port answers", livez),
    Comparison("restart", "A restart on existing state → ready", restart),
)
