"""Workers on one machine: started together, replaced when they die, stopped with their parent."""

import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import optuna
import torch

from data import DataError
from data.processes import FORK_SERVER
from study import StudyError
from study.search.devices import environment_for_device
from study.search.engine import Work
from study.signals import StopRequest, stop, stoppable, unmasked
from study.storage.door import wait_for_server

SECONDS_TO_END = 4.2
"""Seconds until workers that were told to stop are killed: a little more than `study.signals.PATIENCE`."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Order:
    """Instructions for a worker."""

    name: str
    url: str
    device: str
    threads: int
    work: Work


def local_processes(
    name: str, url: str, devices: Sequence[str], work: Work, ending: Connection | None = None
) -> Iterator[Any]:
    """Run worker processes on this machine: an `Engine`.

    A worker that dies is replaced, and the log says so. `ending`: once it closes, the workers are told to stop. Raises
    StudyError with a worker's error message, or if workers die one after the other and nothing new is reported; news
    with a `mark` that was there before is not new.
    """
    # The final training needs it; it is imported now, while the fork server imports too and nobody trains yet.
    import_module("torch._dynamo")
    threads = max(1, torch.get_num_threads() // len(devices))
    hands: dict[Connection, tuple[BaseProcess, Order]] = {}
    patience = 2 * len(devices) + 3  # deaths in a row, without any news between them
    deaths = 0
    seen: set[Any] = set()  # marks of epochs that were trained before, perhaps by a worker that died
    try:
        for device in devices:
            _hire(hands, Order(name, url, device, threads, work))
        while hands:
            for pipe in wait([*hands, *([ending] if ending else [])]):
                assert isinstance(pipe, Connection)
                if pipe is ending:
                    return
                news = _heard(pipe)
                if isinstance(news, str):
                    raise StudyError(news)
                if news is not None:
                    mark = getattr(news, "mark", None)
                    deaths = deaths if mark in seen else 0
                    seen |= set() if mark is None else {mark}
                    yield news
                    continue
                worker, order = hands.pop(pipe)
                worker.join()
                if worker.exitcode == 0:
                    continue
                deaths += 1
                if deaths >= patience:
                    raise StudyError(f"{deaths} workers died one after another, the last by {_how(worker)}")
                logger.warning(f"worker {worker.pid} died ({_how(worker)}); another one takes its place")
                _hire(hands, order)
    finally:
        _dismiss([worker for worker, _ in hands.values()])


def _hire(hands: dict[Connection, tuple[BaseProcess, Order]], order: Order) -> None:
    ours, theirs = FORK_SERVER.Pipe(duplex=False)
    worker = FORK_SERVER.Process(target=_live, args=(theirs, order), name=f"worker of {order.name}")
    worker.start()
    theirs.close()  # so that the pipe ends when the worker ends
    hands[ours] = worker, order


def _heard(pipe: Connection) -> Any:
    """Receive news or an error message; return None when the worker has ended (perhaps while it sent something)."""
    try:
        return pipe.recv()
    except (EOFError, OSError, pickle.UnpicklingError):
        return None


def _how(worker: BaseProcess) -> str:
    code = worker.exitcode or 0
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _dismiss(workers: list[BaseProcess]) -> None:
    """Stop the workers: ask them to end, then kill those that have not ended in time."""
    end = time.monotonic() + SECONDS_TO_END
    for worker in workers:
        worker.terminate()
    for worker in workers:
        worker.join(max(0.0, end - time.monotonic()))
        if worker.is_alive():
            worker.kill()


def _live(pipe: Connection, order: Order) -> None:
    """Run a worker's process. It sees only its own device, so that it takes no memory on another one."""
    os.setpgid(0, 0)  # Ctrl-C in a terminal goes to the parent alone, which passes it on
    os.environ.update(
        seen := environment_for_device(order.device, os.environ)
    )  # in time: the fork server has used no device
    threading.Thread(target=_end_with_parent, daemon=True).start()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with stoppable():
        try:
            with unmasked():
                _tell(pipe, _work(order, torch.device("cuda:0" if seen else order.device)))
        except StopRequest as stop:
            sys.exit(stop.exit_code)
        except BrokenPipeError:
            sys.exit(1)  # the parent has died


def _work(order: Order, device: torch.device) -> Iterator[Any]:
    wait_for_server(order.url)  # it answered when this worker was ordered
    yield from order.work(order.name, order.url, device, order.threads)


def _tell(pipe: Connection, all_news: Iterator[Any]) -> None:
    try:
        for news in all_news:
            pipe.send(news)
    except (StudyError, DataError) as error:
        pipe.send(str(error))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    stop()
