"""The program's entry point: imports take seconds, in which Ctrl-C must not show a traceback."""

import codecs
import io
import locale
import os
import signal
import sys

from study.storage.owners.processes import now


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
        # Also for another error: a library whose import is interrupted may raise any.
        raise SystemExit(128 + signal.SIGINT) from None


def _listen() -> list[int]:
    """Raise KeyboardInterrupt on SIGINT, as Python does, and record each SIGINT in the list that is returned."""
    heard: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        heard.append(number)
        raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, interrupt)
    return heard


def _open_streams() -> None:
    """Open the null device in place of each standard stream that is closed, and let stdout print any character.

    Otherwise the next file that is opened would take the stream's place.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    sys.stdin = sys.stdin or os.fdopen(0, encoding="utf-8")
    sys.stdout = sys.stdout or os.fdopen(1, "w", encoding="utf-8")
    sys.stderr = sys.stderr or os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace")
    codecs.register_error(SHOWABLE, _showable)
    if isinstance(sys.stdout, io.TextIOWrapper):  # stderr escapes such characters already
        sys.stdout.reconfigure(errors=SHOWABLE)


SHOWABLE = "study-showable"
"""Name of the error handler for what we print: no character ends a command because it cannot be shown."""


def _showable(error: UnicodeError) -> tuple[str | bytes, int]:
    """Return the bytes of file names that are no text as they are, and "?" for all other unencodable characters."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    some = error.object[error.start : error.end]
    return b"".join(bytes([ord(one) - 0xDC00]) if "\udc80" <= one <= "\udcff" else b"?" for one in some), error.end


def _in_utf8() -> None:
    """Restart the program, once, in Python's UTF-8 mode if the locale has another encoding.

    File names are bytes, which that mode takes as they are and others refuse; what is printed is then UTF-8, too.
    """
    if sys.flags.utf8_mode or os.environ.get("PYTHONUTF8") == "1":
        return
    if locale.getencoding().lower().replace("-", "") == "utf8":
        return
    os.environ["PYTHONUTF8"] = "1"  # for the processes that we start
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


if __name__ == "__main__":
    main()
