"""The process that workers are forked from: it imports everything once, and never touches the device."""

from multiprocessing import forkserver

from data.processes import FORK_SERVER, apart

PRELOADED = ["study.search.local", "torch._dynamo", "alembic.command"]


def gather() -> None:
    """Start the server's imports, which take seconds, while the caller goes on; calling this again does no harm."""
    FORK_SERVER.set_forkserver_preload(PRELOADED)
    with apart():
        forkserver.ensure_running()
