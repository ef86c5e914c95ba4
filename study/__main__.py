"""The program's entry: imports take seconds, in which Ctrl-C must not show our insides."""

import signal


def main() -> None:
    """Import the command and run it."""
    try:
        from study.cli import main as command
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    command()


if __name__ == "__main__":
    main()
