"""The import of `/devpi-init.d`: unpack, verify, load with devpi's own importer, and report progress."""

from __future__ import annotations

import functools
import logging
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from devpi_server import auth, importexport, model
from devpi_server.main import Fatal
from devpi_server.normalized import normalize_name

from sidecar.core import garbage
from sidecar.devpi.protocol import Import, ImportState, Prepared
from sidecar.exports import merge, sources, unpack
from sidecar.exports.sources import ImportRefused
from sidecar.worker.passwords import digest, hash_of, is_hash_of_empty
from sidecar.worker.patches import table
from sidecar.worker.patches.staged_storage import Batches, can_link, disk_error, with_fast_copies, without_fsync
from sidecar.worker.progress import Reporter
from sidecar.worker.verification import CannotTell

if TYPE_CHECKING:
    from devpi_common.terminal import TerminalWriter
    from devpi_server.main import XOM
    from devpi_server.model import BaseStage
    from pluggy import PluginManager

    from sidecar.worker.channel import Channel
    from sidecar.worker.flags import ServerFlags


def import_exports(request: Import, flags: ServerFlags, plugins: PluginManager, channel: Channel) -> Prepared:
    """Import everything in the init directory into the target. Raises ImportRefused and devpi's errors."""
    report = Reporter(channel)
    limits = sources.Limits(**request.limits)  # type: ignore[arg-type]
    omissions = sources.Omissions(strict=request.strict)
    found = sources.find(Path(request.init_dir))
    with _hash_of_empty_ahead():
        trees = _unpack(found, Path(request.scratch), limits, omissions, report)
    report.state(ImportState.LOADING)
    export = merge.load(
        trees,
        limits,
        omissions,
        allow_unverified=request.allow_unverified,
        root_password_provided=request.password_provided,
    )
    report.totals(export.totals, omissions)
    gets_another = request.password_provided or export.root_user(is_hash_of_empty) != "set"
    chosen_hash = hash_of(request.password) if gets_another else None
    if chosen_hash is not None:
        merge.set_root_hash(export, chosen_hash)
    _load(export, request, flags, plugins, report, chosen_hash)
    if chosen_hash is not None:
        return Prepared("password", digest(chosen_hash))
    return Prepared("from_import", digest(export.data["users"]["root"]["pwhash"]))


@contextmanager
def _hash_of_empty_ahead() -> Iterator[None]:
    """Hash "" once, during the unpacking: devpi hashes it for every user, before it sets the export's own hash.

    A thread is enough: argon2 releases the GIL, and unpacking mostly waits for the decompressor.
    """
    if not table.holds("empty_hash"):
        yield
        return
    hash_password = functools.cache(auth.hash_password)
    model.hash_password = hash_password  # type: ignore[attr-defined]

    def ahead() -> None:
        with suppress(CannotTell):  # raised again when the hash is needed, if argon2 still can't run
            hash_password("")

    thread = threading.Thread(target=ahead, name="hash")
    thread.start()
    try:
        yield
    finally:
        thread.join()


def _unpack(
    found: sources.Found, scratch: Path, limits: sources.Limits, omissions: sources.Omissions, report: Reporter
) -> list[sources.Unpacked]:
    report.begin(found)
    budget = sources.Budget.of(limits, scratch)
    trees = []
    for number, source in enumerate(found.sources):
        trees.append(unpack.unpack(source, scratch / str(number), limits, budget, report, omissions))
        report.unpacked(trees[-1])
    return trees


def _load(
    export: merge.Export,
    request: Import,
    flags: ServerFlags,
    plugins: PluginManager,
    report: Reporter,
    root_hash: str | None,
) -> None:
    """Run devpi's importer on the verified export."""
    scratch, staging = Path(request.scratch), Path(request.target).parent
    links = can_link(scratch, staging)
    importer: list[ObservedImporter] = []

    class Importer(ObservedImporter):
        def __init__(self, tw: TerminalWriter, xom: XOM) -> None:
            super().__init__(tw, xom)
            self.export, self.report = export, report
            self.scratch, self.links = scratch, links
            importer.append(self)

    argv = ["devpi-import", "--serverdir", request.target, *flags.tool_flags, "--no-events"]
    if not export.has_root_pypi:
        argv.append("--no-root-pypi")  # or devpi creates one; set otherwise, it drops the export's
    if root_hash is not None:
        argv += ["--root-passwd-hash", root_hash]
    argv.append(request.scratch)  # must be a folder; the importer reads the verified files instead
    logging.disable(logging.INFO)  # devpi logs a line for each file; this process does nothing else
    without_fsync(plugins)
    with_fast_copies()
    # the export lives to the end, a batch of projects until its commit: garbage collection would find little
    garbage.spare(20_000, full=10)
    importexport.Importer = Importer  # type: ignore[misc]  # devpi's do_import looks it up there
    code = importexport.import_(pluginmanager=plugins, argv=argv)
    if importer and importer[0].refusal is not None:
        raise importer[0].refusal
    if code != 0:
        raise ImportRefused("devpi-import failed; its error is in the log above", "fix the cause")
    report.loaded()


class _Files:
    """A substitute for the import's root folder: `root / relpath` is the verified file, in whatever folder it is."""

    def __init__(self, export: merge.Export) -> None:
        self._files = export.files

    def __truediv__(self, relpath: str) -> Path:
        return self._files[relpath]


class ObservedImporter(importexport.Importer):
    """devpi's importer, which reads the verified export, reports progress, and keeps the reason of a failure."""

    export: merge.Export
    scratch: Path
    links: bool
    """Whether files in `scratch` can be hard-linked into the target."""
    report: Reporter
    refusal: ImportRefused | None = None
    _current: str | None = None
    _batches: Batches | None = None
    _shared_names: frozenset[str] = frozenset()
    """Names under which several files of the current index are stored."""

    def read_json(self, path: Path) -> dict[str, Any]:
        """Return the dataindex, which is read and checked already."""
        return self.export.data

    @property  # type: ignore[override]
    def import_rootdir(self) -> _Files:
        """Where devpi looks up relpaths."""
        return _Files(self.export)

    @import_rootdir.setter
    def import_rootdir(self, path: Path) -> None:
        """Ignore the folder that devpi was called with; it is empty."""

    def validate(self, json_path: Path) -> None:
        """Refuse index types of plugins that are not installed."""
        known = {*self.index_customizers, *self.types_to_skip}
        for name, index in self.import_indexes.items():
            kind = index["indexconfig"]["type"]
            if kind not in known:
                raise ImportRefused(
                    f"index {name!r} is of the unknown type {kind!r}",
                    "install the devpi-server plugin that provides this type, "
                    f"or skip such indexes with DEVPISERVER_SKIP_IMPORT_TYPE={kind}",
                    archive=self.export.archive_of.get(name),
                    member=name,
                    retryable=True,
                )
        super().validate(json_path)

    def import_all(self, path: Path) -> None:
        """Load everything. An error becomes `refusal`, with the place where it happened."""
        try:
            super().import_all(path)
            if self._batches is not None:
                self._batches.end()
        except ImportRefused as error:
            self.refusal = error
        except Fatal as error:
            self.refusal = self._refused(str(error))
        except (MemoryError, OSError):
            raise
        except (Exception, SystemExit) as error:
            if disk_error(error) is not None:
                raise
            logging.getLogger("sidecar").exception("devpi's importer failed")
            self.refusal = self._refused(f"devpi's importer failed with {type(error).__name__}: {error}")
        if self.refusal is not None:
            raise Fatal(str(self.refusal)) from None

    def _refused(self, reason: str) -> ImportRefused:
        for relpath, file in self.export.files.items():
            if str(file) in reason:  # devpi names the path on disk, which is internal
                reason = reason.replace(str(file), relpath)
                break
        return ImportRefused(
            reason,
            "export again from a healthy server, and replace the archive",
            archive=self._archive(),
            member=self._current,
        )

    def _archive(self) -> str | None:
        index = "/".join((self._current or "").split("/")[:2])
        return self.export.archive_of.get(index)

    def display_import_header(self, path: Path) -> None:
        """Print nothing (devpi calls this before it imports the users)."""

    def iter_projects_normalized(self, projects: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield an index's projects (devpi calls this once an index, and asks for the next after each commit)."""
        index = next((name for name, each in self.import_indexes.items() if each.get("projects") is projects), None)
        if self._batches is None:  # users and indexes are imported, each in a transaction of its own
            self._batches = Batches(self.xom.keyfs)
            self._batches.begin()
        self.report.users_done()
        files = self.import_indexes[index].get("files", []) if index is not None else []
        self._shared_names = frozenset(name for name, many in Counter(map(_stored_name, files)).items() if many > 1)
        spellings = Counter(map(normalize_name, projects))
        for project, versions in super().iter_projects_normalized(projects):
            self._current = f"{index}/{project}"
            self.report.now_at(self._current)
            yield project, versions
            self.report.project_done(spellings[project])
        self.report.index_done()

    def import_filedesc(self, stage: BaseStage, filedesc: dict[str, Any], versions: dict[str, Any]) -> None:
        """Import one file (devpi calls this for each)."""
        relpath = filedesc["relpath"]
        self._current = relpath if relpath.startswith(f"{stage.name}/") else f"{stage.name}: {relpath}"
        # an unpacked file is ours, and on the target's file system; a file of a folder in the init directory is not
        is_ours = self.export.files[relpath].is_relative_to(self.scratch)
        # equal files of one name have one path, which devpi writes in place if both are in one transaction
        is_alone = _stored_name(filedesc) not in self._shared_names
        self.xom.config.args.hard_links = is_ours and is_alone and self.links
        super().import_filedesc(stage, filedesc, versions)
        self.report.file_done(self.export.sizes[relpath])


def _stored_name(filedesc: dict[str, Any]) -> str:
    """Return the name under which devpi stores a file of an export."""
    if filedesc["type"] == "doczip":
        return f"{normalize_name(filedesc['projectname'])}-{filedesc['version']}.doc.zip"
    path: str = filedesc.get("entrymapping", {}).get("url") or filedesc["relpath"]
    return path.partition("#")[0].rpartition("/")[2]
