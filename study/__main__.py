"""The program's entry: imports take seconds, in which Ctrl-C must not show our insides."""

import codecs
import io
import locale
import os
import signal
import sys

from study.storage.processes import now


def main() -> None:
    """Import the command and run it."""
    began = now()
    _open_streams()
    _in_utf8()
    heard = _listen()
    try:
        from study.cli import main as command

        command(began)
    except (KeyboardInterrupt, Exception):
        if not heard:
            raise
        raise SystemExit(128 + signal.SIGINT) from None  # whatever a library that is cut off in an import makes of it


def _listen() -> list[int]:
    """Raise KeyboardInterrupt on SIGINT, as Python does, and note it in the list that is returned."""
    heard: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        heard.append(number)
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    return heard


def _open_streams() -> None:
    """Let what was closed before we began lead nowhere: the next file that is opened would be in its place."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    sys.stdin = sys.stdin or os.fdopen(0, encoding="utf-8")
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8")
    sys.stderr = sys.stderr or os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace")
    codecs.register_error(SHOWABLE, _showable)
    if isinstance(sys.stdout, io.TextIOWrapper):  # stderr writes such characters as numbers
        sys.stdout.reconfigure(errors=SHOWABLE)


SHOWABLE = "study-showable"
"""The error handler of what we print: nothing that a terminal or a pipe cannot show ends a command."""


def _showable(error: UnicodeError) -> tuple[str | bytes, int]:
    """Bytes of a file's name that are no text as they are; "?" for each other character that cannot be encoded."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    some = error.object[error.start : error.end]
    return b"".join(bytes([ord(one) - 0xDC00]) if "\udc80" <= one <= "\udcff" else b"?" for one in some), error.end


def _in_utf8() -> None:
    """Begin again, once, in Python's UTF-8 mode where the locale has another encoding.

    Names of files are bytes, which that mode takes as they are and others refuse; what is printed is UTF-8 then, too.
    """
    if sys.flags.utf8_mode or os.environ.get("PYTHONUTF8") == "1":
        return
    if locale.getencoding().lower().replace("-", "") == "utf8":
        return
    os.environ["PYTHONUTF8"] = "1"  # for the processes that we start
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


if __name__ == "__main__":
    main()
