"""Foreign names: what serving leans on in waitress."""

from __future__ import annotations

from sidecar.worker.patches.patch import Patch

WAITRESS = (
    Patch(
        "drain",
        ("serve",),
        "waitress ends with its running requests cut; it has no way to stop listening and finish them",
        "waitress-drain",
        {
            "waitress.server:BaseWSGIServer": "",
            "waitress.server:MultiSocketServer.map": "in MultiSocketServer.__init__",
            "waitress.server:BaseWSGIServer.trigger": "in BaseWSGIServer.__init__",
            "waitress.server:BaseWSGIServer.active_channels": "in BaseWSGIServer.__init__",
            "waitress.server:BaseWSGIServer.effective_host": "in BaseWSGIServer.__init__",
            "waitress.server:BaseWSGIServer.effective_port": "in BaseWSGIServer.__init__",
            "waitress.server:BaseWSGIServer._map": "in BaseWSGIServer.run",
            "waitress.trigger:trigger.pull_trigger": "(self, thunk)",
            "waitress.trigger:trigger._closed": "in trigger.close",
            "waitress.wasyncore:dispatcher.close": "(self)",
            "waitress.channel:HTTPChannel.creation_time": "in HTTPChannel.__init__",
            "waitress.channel:HTTPChannel.handle_close": "(self)",
        },
    ),
    Patch(
        "limit",
        ("serve",),
        "at its limit waitress accepts nobody, until some were silent for 2 minutes; and a lack of descriptors ends it",
        "waitress-limit",
        {
            "waitress.server:BaseWSGIServer.channel_class": "in BaseWSGIServer.handle_accept",
            "waitress.server:BaseWSGIServer.accept": "(self)",
            "waitress.server:BaseWSGIServer.handle_accept": "(self)",
            "waitress.server:BaseWSGIServer.readable": "(self)",
            "waitress.channel:HTTPChannel": "(server, sock, addr, adj, map)",
            "waitress.channel:HTTPChannel.parser_class": "in HTTPChannel.received",
            "waitress.channel:HTTPChannel.readable": "(self)",
            "waitress.channel:HTTPChannel.requests": "in HTTPChannel.__init__",
            "waitress.channel:HTTPChannel.request": "in HTTPChannel.received",
            "waitress.channel:HTTPChannel.connected": "in HTTPChannel.__init__",
            "waitress.channel:HTTPChannel.last_activity": "in HTTPChannel.__init__",
            "waitress.channel:HTTPChannel.total_outbufs_len": "in HTTPChannel.writable",
            "waitress.channel:HTTPChannel.will_close": "in HTTPChannel.handle_write",
            "waitress.parser:HTTPRequestParser": "(adj)",
            "waitress.parser:HTTPRequestParser.parse_header": "(self, header_plus)",
            "waitress.parser:HTTPRequestParser.body_bytes_received": "in HTTPRequestParser.received",
            "waitress.parser:ParsingError": "",
        },
    ),
    Patch(
        "threads",
        ("serve",),
        "requests that wait for a password check would take all of waitress' threads",
        "waitress-threads",
        {
            "waitress.server:BaseWSGIServer.task_dispatcher": "in BaseWSGIServer.__init__",
            "waitress.task:ThreadedTaskDispatcher.set_thread_count": "(self, count)",
            "waitress.task:ThreadedTaskDispatcher.threads": "in ThreadedTaskDispatcher.__init__",
            "waitress.task:ThreadedTaskDispatcher.lock": "in ThreadedTaskDispatcher.__init__",
            "waitress.task:ThreadedTaskDispatcher.stop_count": "",
        },
    ),
    Patch(
        "traffic",
        ("serve",),
        "how many bytes of a file were sent, which waitress does not tell the app",
        "waitress-files",
        {
            "waitress.buffers:ReadOnlyFileBasedBuffer.prepare": "(self, size)",
            "waitress.buffers:ReadOnlyFileBasedBuffer.close": "(self)",
            "waitress.buffers:ReadOnlyFileBasedBuffer.remain": "",
            "waitress.task:ReadOnlyFileBasedBuffer": "in WSGITask.execute",
            "devpi_server.views:INSTALLER_USER_AGENT": "",
        },
    ),
)
