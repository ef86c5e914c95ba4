"""Workers on a Ray cluster: Ray chooses their machines and starts them again elsewhere when one is lost.

No other module of `study` uses Ray. In each place that Ray gives, `local_processes` runs one worker, so that a worker
is everywhere the same: a process that gives its trial back when it has to end.
"""

import logging
import math
import multiprocessing
import os
import queue
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import chdir, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data import counted
from data.processes import apart
from study import StudyError
from study.search.engine import Engine, Work
from study.search.local import Order, local_processes
from study.signals import as_stopped
from study.storage.owners.processes import now

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
"""Seconds in which an address must answer."""
END_SECONDS = 3.0
"""Seconds for workers to give their trials back before Ray ends them: fewer than `study.signals.PATIENCE`."""
SILENCE = 30.0
"""Seconds without any news after which the log says so: a worker that dies at every start sends none."""
LAST_PATIENCE = 30.0
"""Seconds for the other workers to end, once one worker has ended because nothing is left to do."""

INSTALL = "pip install 'ray[client]'"


@dataclass(frozen=True)
class PlaceOrder:
    """Instructions for a `Place`."""

    order: Order
    folder: str  # folder of the command, from which relative paths count


class Place:
    """Place in the cluster: an actor of Ray that runs one worker, which ends with it."""

    def __init__(self, mission: PlaceOrder) -> None:
        self._news: queue.Queue[Any] = queue.Queue()
        self._ending, self._end = multiprocessing.Pipe(duplex=False)
        self._worker = threading.Thread(target=self._work, args=(mission.order, mission.folder), daemon=True)
        self._worker.start()

    def end(self) -> None:
        """Tell the worker to stop, and wait until it has ended, before Ray kills it."""
        self._end.close()
        self._worker.join()

    def news(self) -> list[Any]:
        """Wait for news, and return all since the last call: a str is an error, None is the end."""
        found = [self._news.get()]
        with suppress(queue.Empty):
            while True:
                found.append(self._news.get_nowait())
        return found

    def _work(self, order: Order, folder: str) -> None:
        try:
            if not Path(folder).is_dir():
                raise StudyError(f"{os.uname().nodename} does not see the folder {folder} of this command")
            os.chdir(folder)
            torch.set_num_threads(order.threads)
            for news in local_processes(order.name, order.url, [order.device], order.work, self._ending):
                self._news.put(news)
        except StudyError as error:
            self._news.put(str(error))
        except Exception as error:  # else the launching process would wait for ever
            logger.exception("the worker's place has failed")
            self._news.put(f"{type(error).__name__}: {error}")
        self._news.put(None)


def ray_actors(address: str | None, gpus: float | None) -> Engine:
    """Make the engine of a Ray cluster.

    `address`: the address of Ray, such as "auto" or ray://HOST:10001; None starts Ray on this machine. `gpus`: GPUs of
    each worker, perhaps a fraction of one; None: one GPU if the cluster has any. Raises StudyError if Ray is not
    installed or cannot be reached.
    """
    ray = _ray()

    def engine(name: str, url: str, devices: Sequence[str], work: Work) -> Iterator[Any]:
        _connect(ray, address)
        try:
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            share = _gpus(gpus, [node.get("GPU", 0.0) for node in nodes], len(devices))
            threads = threads_each([int(node.get("CPU", 0)) for node in nodes], len(devices))
            order = Order(name, url, "cuda:0" if share else "cpu", max(1, threads), work)
            options = {"num_cpus": threads, "num_gpus": share, "max_restarts": -1, "max_task_retries": -1}
            place = ray.remote(Place).options(**options, max_concurrency=2)  # `end` is answered during `news`
            places = [place.remote(PlaceOrder(order, os.getcwd())) for _ in devices]
            try:
                yield from _follow(ray, places)
            finally:
                _end(ray, places)
        except KeyboardInterrupt as error:
            raise as_stopped(error) from None
        finally:
            ray.shutdown()

    return engine


def threads_each(cpus: Sequence[int], workers: int) -> int:
    """Return the most threads that each worker can have on nodes with these CPUs; 0 if some must share one."""
    fitting = [each for each in range(1, max(cpus, default=0) + 1) if sum(one // each for one in cpus) >= workers]
    return max(fitting, default=0)


def _gpus(asked: float | None, there: Sequence[float], workers: int) -> float:
    """Return the GPUs of each worker. Raises StudyError if the cluster has no place for a single worker."""
    share = asked if asked is not None else float(any(there))
    if share and not any(one >= share for one in there):
        raise StudyError(
            f"--gpus-per-worker {share:g}: no node of the cluster has that many GPUs (0: train on processors)"
        )
    places = sum(int(one / share) for one in there) if share else workers
    if places < workers:
        logger.warning(
            f"the cluster has room for {places} of {counted(workers, 'worker')}; the others wait for more nodes"
        )
    return share


def _follow(ray: Any, places: list[Any]) -> Iterator[Any]:
    """Yield the news of all workers until each has ended. Raises StudyError with a worker's error message.

    `places`: a place whose worker has ended is removed from the list. The news of a lost place is lost with it; Ray
    asks for news again once it has started the place anew.
    """
    asked = {place.news.remote(): place for place in places}
    nodes = _alive(ray)
    over = math.inf  # when the first worker ended
    heard = said = now()
    while asked and now() < over + LAST_PATIENCE:
        ready, _ = ray.wait(list(asked), timeout=1.0)  # the timeout lets a signal through
        if ready:
            heard = said = now()
        elif now() > said + SILENCE:
            said = now()
            logger.warning(f"no worker has said anything for {said - heard:.0f} s (Ray's logs say why, if they die)")
        for one in ready:
            place = asked.pop(one)
            for news in ray.get(one):
                if isinstance(news, str):
                    raise StudyError(news)
                if news is not None:
                    yield news
                    continue
                over = min(over, now())
                places.remove(place)
                ray.kill(place)  # makes room for one that waits
                break
            else:
                asked[place.news.remote()] = place
        if lost := nodes - (nodes := _alive(ray)):
            logger.warning(f"{len(lost)} of the cluster's nodes went away; workers start again where there is room")


def _end(ray: Any, places: list[Any]) -> None:
    if ends := [place.end.options(max_task_retries=0).remote() for place in places]:
        ray.wait(ends, num_returns=len(ends), timeout=END_SECONDS)


def _alive(ray: Any) -> set[str]:
    return {node["NodeID"] for node in ray.nodes() if node["Alive"]}


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to anybody
    try:
        import ray  # imported late: it takes seconds, and not everybody has it
    except ImportError as error:
        raise StudyError(f"--engine ray: Ray is not installed ({INSTALL})") from error
    return ray


def _connect(ray: Any, address: str | None) -> None:
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    options |= {"address": address} if address else {"address": "local", "include_dashboard": False}
    host, _, port = (address or "").rpartition("://")[2].rpartition(":")
    if host and port.isdigit():  # Ray itself would try for minutes
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
        except OSError as error:
            raise StudyError(f"Ray at {address} cannot be reached: {error.strerror or error}") from error
    before = signal.getsignal(signal.SIGTERM)  # Ray replaces it with its own
    try:
        with chdir("/"), apart():  # Ray's workers import from the folder in which Ray starts
            ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise StudyError(f"Ray at {address} cannot be reached: {str(error).splitlines()[0]}") from error
    finally:
        signal.signal(signal.SIGTERM, before)
