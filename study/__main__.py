"""The program's entry: imports take seconds, in which Ctrl-C must not show our insides."""

import locale
import os
import signal
import sys

from study.storage.processes import now


def main() -> None:
    """Import the command and run it."""
    began = now()
    _in_utf8()
    try:
        from study.cli import main as command
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    command(began)


def _in_utf8() -> None:
    """Begin again in Python's UTF-8 mode where the locale has another encoding.

    Names of files are bytes, which that mode takes as they are and others refuse; what is printed is UTF-8 then, too.
    """
    if sys.flags.utf8_mode or locale.getencoding().lower().replace("-", "") == "utf8":
        return
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


if __name__ == "__main__":
    main()
