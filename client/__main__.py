"""``python -m client``: the command line."""

import os
import sys

from client.cli import main


def run() -> int:
    """The command line over this process's own streams."""
    try:
        code = main(sys.argv[1:], os.environ, sys.stdout, sys.stderr)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader (`head`, a pager) has seen enough; what is buffered must not be flushed at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


if __name__ == "__main__":
    sys.exit(run())
