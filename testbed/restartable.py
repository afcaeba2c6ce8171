"""The entrypoint with restarts of devpi-server at SIGUSR1; the log has the result.

For tests and bench, because users can't request a restart yet.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from pathlib import Path

log = logging.getLogger("restartable")

DONE, REFUSED = "restart: done", "restart: refused"
"""The prefixes of the log line with the result."""


def main(arguments: list[str]) -> int:
    """Run; return the exit code."""
    sys.path[0] = str(Path(__file__).resolve().parents[1])  # as for entrypoint.py
    import entrypoint
    from sidecar.container import main as container
    from sidecar.container.supervisor import RestartRefused

    class RestartableLife(container.Life):
        """A life that handles SIGUSR1."""

        async def run(self) -> None:
            """See `Life.run`."""
            self._asked: set[asyncio.Task[None]] = set()
            asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, self._ask)
            await super().run()

        def _ask(self) -> None:
            task = asyncio.ensure_future(self._restart())
            self._asked.add(task)
            task.add_done_callback(self._asked.discard)

        async def _restart(self) -> None:
            try:
                await self.supervisor.restart_devpi()
            except RestartRefused as refusal:
                log.warning("%s: %s", REFUSED, refusal)
            else:
                log.info("%s", DONE)

    container.Life = RestartableLife  # type: ignore[misc]
    return entrypoint.main(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
