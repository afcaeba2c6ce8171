"""`sidecar.devpi.protocol`: messages between the sidecar and its child arrive unchanged, and show no secret."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.core.errors import Exit, ExitCode
from sidecar.devpi import protocol
from sidecar.devpi.protocol import PACKET_BYTES, Drain, Initialise, Message, PrepareFailed, Serve, decode, encode
from sidecar.worker.channel import Channel, SidecarGone

KINDS = [kind for kind in Message.__subclasses__() if dataclasses.is_dataclass(kind)]
SECRETS = {"password", "new_root_password", "probe_secret"}
"""Fields whose value must not be shown."""
NO_SECRETS = {"secretfile", "secretfile_changed", "password_provided", "root_password"}
"""Fields that only sound like a secret: a path, switches, and the name of a state."""

ANY_TEXT = st.text(st.characters(), max_size=100)  # surrogates too: Python reads what isn't UTF-8 like this
JSON = st.recursive(st.none() | st.booleans() | st.integers() | ANY_TEXT, lambda inner: st.lists(inner, max_size=3))


def messages_of(kind: type[Message]) -> st.SearchStrategy[Message]:
    """Return any message of a kind, by the types of its fields."""
    strategies: dict[str, st.SearchStrategy[Any]] = {}
    for name, hint in get_type_hints(kind).items():
        if hint is float:
            strategies[name] = st.floats(allow_nan=False)
        elif "Any" in str(hint):
            strategies[name] = st.none() | st.lists(st.dictionaries(ANY_TEXT, JSON, max_size=3), max_size=3)
        else:
            strategies[name] = st.from_type(hint)
    return st.builds(kind, **strategies)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_every_message_arrives_as_it_was_sent(kind: type[Message], data: st.DataObject) -> None:
    """Its kind and each of its fields, with any text in them."""
    message = data.draw(messages_of(kind))
    packet = encode(message)
    assert packet.isascii()
    assert decode(packet) == message
    assert type(decode(packet)) is kind


def test_every_kind_is_known() -> None:
    """No two have the same name, and none is missing."""
    assert len(KINDS) >= 16
    assert {kind.__name__: kind for kind in KINDS} == protocol._KINDS


def test_a_packet_says_what_it_is() -> None:
    """One JSON object, so that a trace of it is readable."""
    assert json.loads(encode(Drain(2.5))) == {"message": "Drain", "grace": 2.5, "keep_listening": False}
    assert json.loads(encode(Initialise("/x", "secret"))) == {
        "message": "Initialise",
        "target": "/x",
        "password": "secret",
    }


def test_a_message_that_is_too_large_is_refused() -> None:
    """The largest is sent; one more byte is an error that has only its kind and size."""
    overhead = len(encode(Initialise("", "")))
    largest = Initialise("", "x" * (PACKET_BYTES - overhead))
    assert decode(encode(largest)) == largest
    with pytest.raises(ValueError, match=f"Initialise of {PACKET_BYTES + 1} bytes is too large") as caught:
        encode(Initialise("", "x" * (PACKET_BYTES - overhead + 1)))
    assert "xxx" not in str(caught.value)


def test_the_largest_packet_is_one_that_the_kernel_takes() -> None:
    """In one piece, with Linux' default buffers."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.setblocking(False)
        assert ours.send(b"x" * PACKET_BYTES) == PACKET_BYTES
        assert len(theirs.recv(2 * PACKET_BYTES)) == PACKET_BYTES


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@given(data=st.data())
def test_no_secret_is_in_a_repr(kind: type[Message], data: st.DataObject) -> None:
    """A message may appear in a log or a traceback; its secrets must not."""
    message = data.draw(messages_of(kind))
    secrets = {name: f"Zq9~{name}" for name in SECRETS & {each.name for each in dataclasses.fields(message)}}
    message = dataclasses.replace(message, **secrets)
    assert "Zq9~" not in repr(message)
    assert decode(encode(message)) == message


def test_every_field_that_sounds_like_a_secret_is_judged() -> None:
    """A new field must be added to one of the two lists above."""
    names = {each.name for kind in KINDS for each in dataclasses.fields(kind)}
    assert {name for name in names if "password" in name or "secret" in name} == SECRETS | NO_SECRETS


def test_the_childs_end_tells_that_the_sidecar_is_gone() -> None:
    """Both for reading and for writing: the child must not run on unwatched."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel = Channel(theirs.detach())
    with ours, channel._socket:
        ours.send(encode(Initialise("/x", "secret")))
        assert channel.receive() == Initialise("/x", "secret")
        channel.send(PrepareFailed("r", "m"))
        assert decode(ours.recv(PACKET_BYTES)) == PrepareFailed("r", "m")
        ours.close()
        with pytest.raises(SidecarGone):
            channel.receive()
        with pytest.raises(SidecarGone):
            channel.send(PrepareFailed("r", "m"))


@pytest.fixture
def channel() -> Iterator[tuple[socket.socket, Channel]]:
    """The sidecar's socket, and the child's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel = Channel(theirs.detach())
    with ours, channel._socket:
        yield ours, channel


SERVE = Serve("/tmp", "/secret", cheap_derivation=True, probe_secret="p")


def test_listening_sockets_come_with_serve(channel: tuple[socket.socket, Channel]) -> None:
    """All arrive in order, once, and close-on-exec: as many as the kernel passes with one packet."""
    ours, theirs = channel
    with ExitStack() as stack:
        sent = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        sent += [sent[0]] * 250
        socket.send_fds(ours, [encode(SERVE)], [each.fileno() for each in sent])
        assert SERVE == theirs.receive()
        taken = [stack.enter_context(each) for each in theirs.take_listeners()]
        assert [each.getsockname() for each in sent] == [each.getsockname() for each in taken]
        assert not any(os.get_inheritable(each.fileno()) for each in taken)
    assert [] == theirs.take_listeners()


def test_no_room_for_a_descriptor(channel: tuple[socket.socket, Channel]) -> None:
    """Exit code 71 with the limit to raise: devpi-server would serve only some of its addresses."""
    ours, theirs = channel
    with socket.create_server(("127.0.0.1", 0)) as sent:
        socket.send_fds(ours, [encode(SERVE)], [sent.fileno()])
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with os.fdopen(os.dup(sent.fileno()), "rb") as next_one:
            free = next_one.fileno()
        resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
        try:
            with pytest.raises(Exit, match="ulimit -n") as caught:
                theirs.receive()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert ExitCode.EXHAUSTED == caught.value.code
