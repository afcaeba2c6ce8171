"""The command `sidecar`, for operators and HEALTHCHECK inside the container.

`healthcheck` bypasses argparse and all imports of the other commands.
"""

from __future__ import annotations

import sys


def main(argv: list[str] | None = None) -> int:
    """Run `sidecar argv…` and return its exit code; `argv` does not include the program's name."""
    arguments = sys.argv[1:] if argv is None else argv
    if arguments in (["healthcheck"], ["healthcheck", "--wait"]):
        from sidecar.cli import healthcheck

        return healthcheck.main(wait="--wait" in arguments)
    from sidecar.cli import commands

    return commands.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
