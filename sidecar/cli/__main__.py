"""The command `sidecar`: what an operator, or HEALTHCHECK, does inside the container.

`healthcheck` goes its own way, past argparse and all that the other commands import.
"""

from __future__ import annotations

import sys


def main(argv: list[str] | None = None) -> int:
    """Run `sidecar argv…` and return its exit code; `argv` is without the program's name."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments in (["healthcheck"], ["healthcheck", "--wait"]):
        from sidecar.cli import healthcheck

        return healthcheck.main(wait="--wait" in arguments)
    from sidecar.cli import commands

    return commands.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
