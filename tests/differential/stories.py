"""Stories: what users do to a devpi-server over its API, as a list of steps. Some steps are odd on purpose."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

Step = dict[str, Any]

UNBEARABLE = "$argon2id$v=19$m=4194304,t=3,p=4$c2FsdHNhbHQ$zL2j6VSjJKz0Sj5GL1rhtxu2dZzdrCRos/qoJ13bpBE"
"""An argon2 hash that asks for 4 GiB."""


def user(name: str, **fields: object) -> Step:
    """A new user."""
    return {"method": "PUT", "path": f"/{name}", "json": {"password": "p", **fields}, "user": None}


def change(name: str, **fields: object) -> Step:
    """A user changes their own record."""
    return {"method": "PATCH", "path": f"/{name}", "json": fields, "user": name}


def index(owner: str, name: str, **config: object) -> Step:
    """A new index to which anybody may upload."""
    settings = {"volatile": True, "acl_upload": [":ANONYMOUS:"], **config}
    return {"method": "PUT", "path": f"/{owner}/{name}", "json": settings, "user": owner}


def release(where: str, project: str, version: str, file: str, content: str = "x", **metadata: str) -> Step:
    """The upload of a file."""
    form = {":action": "file_upload", "name": project, "version": version, **metadata}
    return {"path": f"/{where}/", "form": form, "file": file, "content": content, "user": None}


def docs(where: str, project: str, version: str, content: str = "x") -> Step:
    """The upload of documentation."""
    form = {":action": "doc_upload", "name": project, "version": version}
    return {"path": f"/{where}/", "form": form, "file": "docs.zip", "content": content, "user": None}


def registered(where: str, project: str, version: str, **metadata: str) -> Step:
    """A version without a file."""
    form = {":action": "submit", "name": project, "version": version, **metadata}
    return {"path": f"/{where}/", "form": form, "user": None}


def nested(levels: int) -> object:
    """A list in a list in a list."""
    value: object = "x"
    for _ in range(levels):
        value = [value]
    return value


ODD = [
    "\u00a0",
    "\u200b",
    "\u2028",
    "\u3000",
    "\u202e",
    "\x85",
    "\x7f",
    "\t",
    "\x1b[31m",
    "\\",
    "~",
    " ",
    "\ufffd",
    "é",
    "\U0001d4b3",
]
"""Names that make no sense, but that devpi accepts."""

odd_text = st.lists(st.sampled_from([*ODD, ".", "..", "-", "_", "1", "a"]), min_size=1, max_size=4).map("".join)
names = st.sampled_from(["alice", "bob", ".", "a.b", "b@c", "dev"]) | odd_text.filter(
    lambda text: not set(text) & set("\\~\t\x1b[ ")
)
projects = st.sampled_from(
    ["pkg", "Mixed.Name", "mixed_name", "a-b", "a", "\u017f", "pkg\u017f", "\u212aelvin", "x--y"]
)
versions = st.sampled_from(["1.0", "1.0-1", "b-1", "..", ".", "...", "1.0+local", "0"]) | odd_text
endings = st.sampled_from([".zip", ".tar.gz", "-py3-none-any.whl", ".doc.zip", ".egg"])
values: st.SearchStrategy[object] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
fields = st.dictionaries(
    st.sampled_from(["title", "email", "description", "custom_data", "pwsalt", "pwhash"]),
    values | st.sampled_from([UNBEARABLE, "salt", nested(100)]),
    max_size=3,
)
configs = st.fixed_dictionaries(
    {},
    optional={
        "title": st.text(max_size=5),
        "custom_data": values,
        "description": st.text(max_size=5),
        "mirror_whitelist": st.lists(st.sampled_from(["pkg", "*", "a_b"]), max_size=2),
        "volatile": st.sampled_from([True, False, "yes", "no"]),
        "acl_upload": st.just([":ANONYMOUS:", "alice"]),
    },
)


@st.composite
def stories(draw: st.DrawFn) -> list[Step]:
    """Two users with an index each, and uploads to these."""
    steps: list[Step] = []
    places = []
    for name in draw(st.lists(names, min_size=1, max_size=2, unique=True)):
        place = draw(names)
        places.append(f"{name}/{place}")
        steps += [user(name, **draw(fields)), index(name, place, **draw(configs))]
        if draw(st.booleans()):
            steps.append(change(name, **draw(fields)))
    for _ in range(draw(st.integers(1, 5))):
        place, project, version = draw(st.sampled_from(places)), draw(projects), draw(versions)
        content = draw(st.sampled_from(["x", "y"]))
        kind = draw(st.sampled_from(["release", "release", "docs", "registered"]))
        if kind == "release":
            file = f"{project}-{version}{draw(odd_text | st.just(''))}{draw(endings)}"
            steps.append(release(place, project, version, file, content, summary=draw(st.text(max_size=5))))
        elif kind == "docs":
            steps.append(docs(place, project, version, content))
        else:
            steps.append(registered(place, project, version))
    return steps
