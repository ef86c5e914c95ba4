"""The program's entry: imports take seconds, in which Ctrl-C must not show our insides."""

import signal
import sys

from study.forkserver import gather


def main() -> None:
    """Import the command and run it."""
    try:
        if any(word.startswith("--workers") for word in sys.argv):
            gather()  # imports what they need, while this process imports too
        from study.cli import main as command
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    command()


if __name__ == "__main__":
    main()
