"""The process that workers are forked from: it imports everything once, and never touches the device."""

import multiprocessing
from multiprocessing import forkserver

CONTEXT = multiprocessing.get_context("forkserver")
PRELOADED = ["study.search.local", "torch._dynamo", "alembic.command"]


def gather() -> None:
    """Let it import, which takes seconds, while the caller does something else; more than once is no harm."""
    CONTEXT.set_forkserver_preload(PRELOADED)
    forkserver.ensure_running()
