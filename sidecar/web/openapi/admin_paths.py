"""The paths for the bearer of the admin token, each described once."""

from __future__ import annotations

from sidecar.web.openapi import examples
from sidecar.web.openapi.answers import ADMIN, ADMIN_POST, answer, failing, json_body, query, shared
from sidecar.web.openapi.part import Operation
from sidecar.web.openapi.schemas import problem

BOOTSTRAP: Operation = {
    "tags": ["admin"],
    "summary": "What there is to claim, until when; when it was claimed, and from where.",
    "security": [{"adminToken": []}],
    "responses": ADMIN
    | {"403": shared("Forbidden")}
    | {"200": answer("It is told.", json_body("Bootstrap", claimed=examples.BOOTSTRAP))},
}

CLAIM: Operation = {
    "tags": ["admin"],
    "summary": "Take the generated root password, once.",
    "description": "That it was claimed is on disk before the answer leaves. If the answer is lost: rotate.",
    "security": [{"adminToken": []}],
    "responses": ADMIN_POST
    | {
        "200": answer("The password.", json_body("Password", claimed=examples.PASSWORD)),
        "404": failing(
            "None was generated.",
            "NothingToClaim",
            given=problem(
                404,
                "nothing-to-claim",
                "root's password was given by the operator (DEVPI_PASSWORD), none was generated",
                hint="if it is lost: `sidecar rotate`",
            ),
        ),
        "410": failing(
            "It was claimed before, it has expired, or it is not root's any more.",
            "AlreadyClaimed",
            "Expired",
            "Superseded",
            claimed=problem(
                410,
                "already-claimed",
                "somebody took the password at 2026-11-22T10:21:30.456Z, from 10.0.3.7",
                claimed_at="2026-11-22T10:21:30.456Z",
                claimed_from="10.0.3.7",
                hint="if that was not you, or it is lost: `sidecar rotate` or POST /bootstrap/rotate",
            ),
            expired=problem(
                410,
                "expired",
                "nobody claimed the password until 2026-11-22T11:20:30.456Z, and it was thrown away",
                expired_at="2026-11-22T11:20:30.456Z",
                hint="to set a new one: `sidecar rotate` or POST /bootstrap/rotate",
            ),
            superseded=problem(
                410,
                "superseded",
                "root's password was changed in another way, the generated one is not root's any more",
                hint="if nobody knows the new one: `sidecar rotate` or POST /bootstrap/rotate",
            ),
        ),
    },
}

ROTATE: Operation = {
    "tags": ["admin"],
    "summary": "Give root a new password, and end all logins unless `keep_logins` is true, in the query or as JSON.",
    "security": [{"adminToken": []}],
    "parameters": [
        query(
            "keep_logins",
            "Logins outlive the change. The body must not say otherwise.",
            {"type": "string", "enum": ["true", "1", "false", "0"]},
            example="true",
        )
    ],
    "requestBody": {
        "description": "May be empty. Its media type is not looked at.",
        "content": json_body("Rotation", keep={"keep_logins": True}, end={}),
    },
    "responses": ADMIN_POST
    | {
        "200": answer("The new password.", json_body("Password", rotated=examples.PASSWORD)),
        "400": failing(
            "`keep_logins` can't be read, the body does not come whole, or this is not HTTP.",
            "Problem",
            example=problem(400, detail="keep_logins is neither true nor false"),
        ),
        "409": failing(
            "It can't be rotated here.",
            "CannotRotate",
            replica=problem(
                409,
                "cannot-rotate",
                "this is a replica, the primary owns the users; rotate at the primary",
                hint="rotate at the primary",
            ),
        ),
    },
}
