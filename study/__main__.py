"""The program's entry: imports take seconds, in which Ctrl-C must not show our insides."""

import signal

from study.storage.processes import now


def main() -> None:
    """Import the command and run it."""
    began = now()
    try:
        from study.cli import main as command
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    command(began)


if __name__ == "__main__":
    main()
