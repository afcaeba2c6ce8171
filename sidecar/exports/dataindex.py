"""Checks of a ``dataindex.json``: everything that devpi's importer relies on without checking."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Collection
from typing import Any, NoReturn

from sidecar.core.password_hash import MOST, is_bearable, is_checkable
from sidecar.exports.sources import ImportRefused, Omissions, shown

_EXPORT_AGAIN = "export again with devpi-export, or remove the named entry from dataindex.json"
_ALLOW_UNVERIFIED = "export again with a newer devpi-server, or set SIDECAR_IMPORT_ALLOW_UNVERIFIED=true"
_SET_AGAIN = "set the password again and export again, or remove the pwhash from dataindex.json to import no password"
_HEX_DIGITS = {
    "md5": 32, "sha1": 40, "sha224": 56, "sha256": 64, "sha384": 96, "sha512": 128, "blake2s": 64,
    "blake2b": 128, "sha3_224": 56, "sha3_256": 64, "sha3_384": 96, "sha3_512": 128,
}  # fmt: skip
_HEX = re.compile(r"[0-9a-f]+")
_TYPES = ("releasefile", "doczip", "toxresult")
_DEPTH = 400  # of lists and objects in free-form values: devpi's API, which recurses, accepts 300 and fails at 400
_FOLDERS = 32  # of a relpath; an export has four
_BLOCKED = re.compile(r'[\x00-\x1f !"#$%&\'()*+,/:;<=>?\[\\\]^`{|}~]')  # devpi_server.model.name_char_blocklist_regexp
_NO_HEADER = re.compile(r"[^\t -~\x80-\xff]")
_RENAME = "on the original server, delete it or upload it under another name; then export again"
_UNSAFE_RUNS = re.compile(r"[^A-Za-z0-9]+")


def normalized(project: str) -> str:
    """A project's name, normalized as devpi does to compare names."""
    return _UNSAFE_RUNS.sub("-", project).lower()


class Checked:
    """One export's ``dataindex.json``; raises ImportRefused for the first entry that would make devpi fail.

    ``data`` is the checked JSON, without what can't be loaded safely (``omissions``). Users without a password get the
    hash None, with which devpi rejects every password. ``dumpversion`` is 1 or 2. ``relpaths`` are the files, in order;
    two projects of an index that have the same documentation share one.
    """

    def __init__(
        self, data: dict[str, Any], archive: str, member: str, allow_unverified: bool, omissions: Omissions
    ) -> None:
        self.data = data
        self.archive = archive
        self.relpaths: dict[str, None] = {}
        self.member = member
        self._allow_unverified = allow_unverified
        self._omissions = omissions
        for key in ("dumpversion", "users", "indexes"):
            if key not in data:
                self._refuse(f"lacks {key!r}")
        self.dumpversion = self._version(data["dumpversion"])
        for name, user in self._object(data["users"], "'users'").items():
            self._user(name, self._object(user, f"user {shown(name)}"))
        for name, index in self._object(data["indexes"], "'indexes'").items():
            self._index(name, self._object(index, f"index {shown(name)}"))

    def _refuse(self, reason: str, hint: str = _EXPORT_AGAIN) -> NoReturn:
        raise ImportRefused(reason, hint, self.archive, self.member)

    def _object(self, value: object, what: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            self._refuse(f"{what} is not an object but {shown(value)}")
        return value

    def _array(self, value: object, what: str) -> list[Any]:
        if not isinstance(value, list):
            self._refuse(f"{what} is not an array but {shown(value)}")
        return value

    def _string(self, value: object, what: str) -> str:
        if not isinstance(value, str):
            self._refuse(f"{what} is not a string but {shown(value)}")
        return value

    def _part(self, value: object, what: str) -> str:
        """A string that devpi uses as a part of a key: a slash in it would change the key."""
        text = self._string(value, what)
        if "/" in text:
            self._refuse(f"{what} can't be {shown(text)}")
        return text

    def _name(self, value: str, what: str) -> None:
        if _BLOCKED.search(value):
            self._refuse(f"{what} is {shown(value)}; devpi allows no ASCII symbols in it except - . @ _")

    def _shallow(self, value: object, what: str) -> None:
        level: list[Any] = [value]
        for _ in range(_DEPTH):
            children = (each.values() if isinstance(each, dict) else each for each in level)
            level = [child for each in children for child in each if isinstance(child, dict | list)]
            if not level:
                return
        self._refuse(f"{what} is nested more than {_DEPTH} deep")

    def _version(self, value: object) -> int:
        if not isinstance(value, int | str) or str(value) not in ("1", "2"):  # str(True) is neither
            self._refuse(f"has dumpversion {shown(value)}, this devpi-server supports 1 and 2")
        return int(value)

    def _user(self, name: str, user: dict[str, Any]) -> None:
        what = f"user {shown(name)}"
        self._name(name, "a user's name")
        self._shallow(user, what)
        pwhash, pwsalt = user.get("pwhash") or "", user.get("pwsalt")
        is_text = isinstance(pwhash, str) and isinstance(pwsalt, str | None)
        # a hash that can't be checked costs nothing: nobody can log in with it
        if not is_text or (is_checkable(pwhash, pwsalt) and not is_bearable(pwhash, pwsalt)):
            memory, passes, lanes = MOST.values()
            most = f"{memory // 1024} MiB, {passes} passes and {lanes} lanes"
            reason = f"is an argon2 hash that requires more than {most}" if is_text else "is not a string"
            self._omissions.add(reason, _SET_AGAIN, self.archive, f"the password hash of {what}")
            user.pop("pwsalt", None)
            user["pwhash"] = None
        if user.get("username", name) != name:
            self._refuse(f"{what} has the username {shown(user['username'])}")
        if user.get("indexes"):  # devpi would load them unchecked
            self._refuse(f"{what} contains indexes, which belong under 'indexes'")
        if name != "root" and not user.get("pwhash"):
            # as --autocreate-users creates them: devpi's importer would keep its initial hash, that of ""
            user["pwhash"] = None

    def _index(self, name: str, index: dict[str, Any]) -> None:
        what = f"index {shown(name)}"
        user, slash, ixname = name.partition("/")
        if not slash:
            self._refuse(f"{what} is not named 'user/index'")
        self._name(ixname, f"the name of {what}")
        if user not in self.data["users"] and user != "root":  # devpi creates root before it imports
            self._refuse(f"{what} belongs to a user that isn't in the export")
        config = self._object(index.get("indexconfig"), f"indexconfig of {what}")
        self._shallow(config, f"indexconfig of {what}")
        kind = self._string(config.get("type"), f"type of {what}")
        for base in self._array(config.get("bases", []), f"bases of {what}"):
            self._string(base, f"a base of {what}")
        projects = self._object(index.get("projects", {}), f"projects of {what}")
        for project, versions in projects.items():
            self._project(f"project {shown(project)} of {what}", project, versions)
        known = {normalized(project) for project in projects}
        kept: list[dict[str, Any]] = []
        missing: set[tuple[str, str, str]] = set()  # project, version and name of omitted release files
        seen: set[tuple[str, str]] = set()
        for position, entry in enumerate(self._array(index.get("files", []), f"files of {what}")):
            file = self._object(entry, f"file {position} of {what}")
            relpath = self._string(file.get("relpath"), f"relpath of file {position} of {what}")
            if (reason := self._is_unsafe(name, relpath)) is not None:
                self._omissions.add(reason, _RENAME, self.archive, relpath)
                missing.add(_identity(file, relpath))
                continue
            self._relpath(relpath, f"relpath of file {position} of {what}")
            self._file(file, f"file {shown(relpath)} of {what}", known, kind == "mirror")
            if (key := (normalized(file["projectname"]), relpath)) in seen:
                self._refuse(f"file {shown(relpath)} is in {what} twice")
            seen.add(key)
            kept.append(file)
        if missing:
            kept = [file for file in kept if not self._hangs_on(missing, file)]
        if "files" in index:
            index["files"] = kept
        self.relpaths.update(dict.fromkeys(file["relpath"] for file in kept))

    def _is_unsafe(self, index: str, relpath: str) -> str | None:
        """Why devpi must not load the file: it would read or write outside of the import's folders."""
        if relpath.startswith("/") or _leads_out(relpath):
            return "leads out of the export"
        if index.startswith("/") or _leads_out(index):
            return f"would be stored outside of devpi-server's files because it is in index {shown(index)}"
        return None

    def _hangs_on(self, missing: Collection[tuple[str, str, str]], file: dict[str, Any]) -> bool:
        """Whether the file is the tox result of an omitted file; it is then omitted, too."""
        if file["type"] != "toxresult" or _identity(file, file["for_entrypath"]) not in missing:
            return False
        reason = f"is the tox result of {shown(file['for_entrypath'])}, which is left out"
        self._omissions.add(reason, _RENAME, self.archive, file["relpath"])
        return True

    def _project(self, what: str, project: str, versions: object) -> None:
        self._part(project, "a project's name")
        for version, value in self._object(versions, what).items():
            self._part(version, f"a version of {what}")
            where = f"version {shown(version)} of {what}"
            metadata = self._object(value, where)
            self._shallow(metadata, where)
            self._part(metadata.get("name"), f"the name in {where}")
            if metadata.get("version"):
                self._part(metadata["version"], f"the version in {where}")
            for key in metadata:
                if key.startswith("+") and key != "+doczip":
                    self._refuse(f"{where} has the key {shown(key)}")

    def _relpath(self, path: str, what: str) -> None:
        """Refuse a path that can't be a file's; devpi-export writes `..` for the version `..`."""
        if "\0" in path or path.rpartition("/")[2] in ("", ".", ".."):
            self._refuse(f"{what} is {shown(path)}, which can't be the path of a file")
        if path.count("/") > _FOLDERS:
            self._refuse(f"{what} is {shown(path)}, which is more than {_FOLDERS} folders deep")

    def _file(self, file: dict[str, Any], what: str, projects: Collection[str], in_mirror: bool) -> None:
        kind = file.get("type")
        if kind not in _TYPES:
            self._refuse(f"{what} has the type {shown(kind)}, devpi supports {', '.join(_TYPES)}")
        project = self._string(file.get("projectname"), f"projectname of {what}")
        if normalized(project) not in projects:
            self._refuse(f"{what} belongs to project {shown(project)}, which is not in the index")
        if self.dumpversion > 1:
            self._part(file.get("version"), f"version of {what}")
        log = file.get("log")
        for entry in [] if log is None else self._array(log, f"log of {what}"):
            self._shallow(self._object(entry, f"log of {what}"), f"log of {what}")
        if kind == "toxresult":
            self._string(file.get("for_entrypath"), f"for_entrypath of {what}")
        elif "for_entrypath" in file:  # devpi drops the digests of such a file, whatever its type is
            self._refuse(f"{what} has a for_entrypath, which only tox results may have")
        mapping = self._object(file.get("entrymapping", {}), f"entrymapping of {what}")
        self._shallow(mapping, f"entrymapping of {what}")
        if mapping.get("last_modified") is not None:
            text = self._string(mapping["last_modified"], f"last_modified of {what}")
            if _NO_HEADER.search(text):  # devpi sends it unchanged as a header
                self._refuse(f"last_modified of {what} is {shown(text)}, which is no valid header value")
        has_digest = self._digests(mapping, what)
        if kind == "releasefile":
            if "last_modified" not in mapping:
                self._refuse(f"{what} has no last_modified")
            if in_mirror:
                self._string(mapping.get("url"), f"url of {what}")
            if not has_digest and not self._allow_unverified:
                self._refuse(f"{what} has no digest, so it can't be verified", _ALLOW_UNVERIFIED)

    def _digests(self, mapping: dict[str, Any], what: str) -> bool:
        digests = list(self._object(mapping.get("hashes", {}), f"hashes of {what}").items())
        if "md5" in mapping:
            digests.append(("md5", mapping["md5"]))
        if "hash_spec" in mapping:
            algorithm, _, value = self._string(mapping["hash_spec"], f"hash_spec of {what}").partition("=")
            digests.append((algorithm, value))
        values: dict[str, str] = {}
        for algorithm, value in digests:
            is_hex = isinstance(value, str) and _HEX.fullmatch(value)
            if not is_hex or len(value) != _HEX_DIGITS.get(algorithm):
                self._refuse(f"{what} has a digest {shown(algorithm)}: {shown(value)} that is not valid")
            if values.setdefault(algorithm, value) != value:
                self._refuse(f"{what} has two different digests {shown(algorithm)}")
        return bool(values)


def _leads_out(path: str) -> bool:
    return posixpath.normpath(path).split("/")[0] == ".."


def _identity(file: dict[str, Any], path: str) -> tuple[str, str, str]:
    """Project, version and name of the release file, by which devpi's importer finds it for a tox result."""
    name = path.partition("#")[0].rpartition("/")[2]
    return normalized(str(file.get("projectname"))), str(file.get("version")), name
