"""The words that paths are described in: answers, their headers, and what many paths share."""

from __future__ import annotations

from sidecar.core.feature import Json
from sidecar.web.openapi.json_schema import REQUEST_ID, ref
from sidecar.web.openapi.schemas import problem


def body(kind: str, schema: Json, **examples: object) -> Json:
    """The content of an answer in one media type."""
    return {kind: {"schema": schema, "examples": {name: {"value": value} for name, value in examples.items()}}}


def json_body(schema: str, **examples: object) -> Json:
    """The content of an answer in JSON, by the name of its schema."""
    return body("application/json", ref(schema), **examples)


def failing(description: str, *names: str, headers: tuple[str, ...] = (), **examples: Json) -> Json:
    """An error; `names`: the schemas it may have."""
    schema: Json = ref(names[0]) if len(names) == 1 else {"oneOf": [ref(name) for name in names]}
    return answer(description, body("application/problem+json", schema, **examples), headers=headers)


def answer(
    description: str, content: Json | None = None, *, headers: tuple[str, ...] = (), revalidate: bool = False
) -> Json:
    """A response with these headers, and those of every answer; one that ends with `?` may be absent.

    `revalidate`: it may be kept, and asked for again.
    """
    every = ("Cache-Control", "X-Content-Type-Options", "X-Request-ID", *headers)
    named = {name.rstrip("?"): name.replace("?", "-IfAny") for name in every}
    if revalidate:
        named["Cache-Control"] = "Revalidate"
    said: Json = {
        "description": description,
        "headers": {name: {"$ref": f"#/components/headers/{key}"} for name, key in named.items()},
    }
    return said | ({"content": content} if content else {})


def shared(name: str) -> Json:
    """The answer `name` of `RESPONSES`."""
    return {"$ref": f"#/components/responses/{name}"}


def query(name: str, description: str, schema: Json, **more: object) -> Json:
    """A parameter in the query."""
    return {"name": name, "in": "query", "description": description, "schema": schema, **more}


HEADERS: Json = {
    "Cache-Control": {"description": "No answer is kept.", "required": True, "schema": {"const": "no-store"}},
    "Revalidate": {
        "description": "To be kept, and asked for with `If-None-Match`.",
        "required": True,
        "schema": {"const": "no-cache"},
    },
    "X-Content-Type-Options": {"required": True, "schema": {"const": "nosniff"}},
    "X-Request-ID": {
        "description": "The request's own, if it was sane, else a new one; the log has it. Not where this was no HTTP.",
        "required": False,
        "schema": REQUEST_ID,
    },
    "Content-Security-Policy": {"description": "With HTML.", "required": False, "schema": {"type": "string"}},
    "Referrer-Policy": {"description": "With HTML.", "required": False, "schema": {"const": "no-referrer"}},
    "Vary": {"required": True, "schema": {"const": "Accept"}},
    "X-Accel-Buffering": {"description": "For nginx.", "required": True, "schema": {"const": "no"}},
    "ETag": {"required": True, "schema": {"type": "string"}, "example": '"5d41402abc4b2a76"'},
    "Allow": {
        "description": "The methods that this path takes.",
        "required": True,
        "schema": {"type": "string"},
        "example": "GET, HEAD, OPTIONS",
    },
    "Retry-After": {"description": "Seconds.", "required": True, "schema": {"type": "integer", "minimum": 1}},
    "Retry-After-IfAny": {"description": "Seconds.", "required": False, "schema": {"type": "integer", "minimum": 1}},
    "WWW-Authenticate": {"required": True, "schema": {"const": 'Bearer realm="devpi-sidecar"'}},
}

PARAMETERS: Json = {
    "check": {"name": "check", "in": "path", "required": True, "schema": ref("CheckName"), "example": "process"},
    "verbose": query("verbose", "Every check, also where all is well; in text, unless JSON is asked for.", {}),
}

VERBOSE: Json = {"$ref": "#/components/parameters/verbose"}

EVERYWHERE: Json = {
    "400": shared("BadRequest"),
    "417": shared("ExpectationFailed"),
    "431": shared("HeadersTooLarge"),
    "500": shared("InternalError"),
}
"""The answers that any request may get."""

RESPONSES: Json = {
    "BadRequest": failing("This is not HTTP.", "Problem", example=problem(400)),
    "ExpectationFailed": failing("`Expect` has something else than `100-continue`.", "Problem", example=problem(417)),
    "HeadersTooLarge": failing("A line or a header is too long.", "Problem", example=problem(431)),
    "InternalError": failing(
        "An error of the sidecar's own, which is in its log.",
        "Problem",
        example=problem(500, detail="an error of the sidecar's own, see its log"),
    ),
    "NotFound": failing("There is no such path.", "Problem", example=problem(404)),
    "MethodNotAllowed": failing(
        "The path does not take this method.",
        "Problem",
        headers=("Allow",),
        example=problem(405, detail="this path takes GET, HEAD, OPTIONS"),
    ),
    "Options": answer("What this path takes.", headers=("Allow",)),
    "Unauthorized": failing(
        "No admin token, or a wrong one.",
        "Problem",
        headers=("WWW-Authenticate",),
        example=problem(401, detail="an admin token is needed"),
    ),
    "Forbidden": failing(
        "A page of another origin made a browser send this, or the client certificate is missing that"
        " `SIDECAR_TLS_CLIENT_CA` asks for.",
        "Problem",
        example=problem(403, detail="Origin is not this server: no page of another site may do this"),
    ),
    "BodyTooSlow": failing(
        "The body did not come in time.",
        "Problem",
        example=problem(408, detail="the body did not come within 10 s"),
    ),
    "BodyTooLarge": failing(
        "The body is too large.", "Problem", example=problem(413, detail="the body may have 4096 bytes")
    ),
    "TooManyWrongTokens": failing(
        "Too many wrong admin tokens at the same time.",
        "Problem",
        headers=("Retry-After",),
        example=problem(429, detail="too many wrong admin tokens"),
    ),
    "NotYet": failing(
        "Not possible at this moment; or, without `Retry-After`, not before a restart.",
        "NotYet",
        "NotRunning",
        headers=("Retry-After?",),
        importing=problem(503, "not-yet", "devpi-server does not run yet (importing)"),
        failed=problem(503, "not-running", "it failed: see /status, fix that, and restart"),
    ),
}

ADMIN: Json = {
    "401": shared("Unauthorized"),
    "429": shared("TooManyWrongTokens"),
    "503": shared("NotYet"),
}
ADMIN_POST: Json = ADMIN | {
    "403": shared("Forbidden"),
    "408": shared("BodyTooSlow"),
    "413": shared("BodyTooLarge"),
}
