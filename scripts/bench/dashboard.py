#!/usr/bin/env python
"""Time that optuna-dashboard takes to show a long history in a real browser: plain, and with our notes and figures.

The history is that of `sql.py`: 10,000 trials of 15 epochs, three quarters of them in the study that is opened. Each
side is served by a process of its own and opened in a new Chromium, once after the start and once more.

A step that takes longer than the patience is shown as `more than`.

Usage: python scripts/bench/dashboard.py [--trials 10000] [--epochs 15] [--patience 300] [--screenshots DIR] [--json]
"""

import argparse
import math
import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import optuna
from harness import Cell, Row, run, turned
from optuna_dashboard import wsgi
from playwright.sync_api import Browser, sync_playwright
from playwright.sync_api import TimeoutError as TooLong
from sql import filled

from study.dashboard import application, serve
from study.history import views
from study.storage.door import open_storage

FIGURE = "document.querySelectorAll('.js-plotly-plot .point').length >= 40"
"""Condition (JavaScript) that the points of a figure are drawn, and not only the empty frame that comes before them."""


def served(side: str, url: str, place: str, ready: "multiprocessing.Queue[str]") -> None:
    """Serve one side until it is ended."""
    os.chdir(place)
    app = application(url, write=False) if side == "ours" else wsgi(optuna.storages.RDBStorage(url))
    serve(app, 0, ready.put)


def seconds_until(browser: Browser, address: str, condition: str, patience: float, picture: Path | None) -> float:
    """Measure the seconds until the condition holds on a new page; infinite if that takes longer than `patience`."""
    page = browser.new_page(viewport={"width": 1300, "height": 1200})
    start = time.perf_counter()
    try:
        page.goto(address)
        page.wait_for_function(condition, timeout=patience * 1000)
        found = time.perf_counter() - start
        if picture:
            page.screenshot(path=picture, full_page=True)
    except TooLong:
        found = math.inf
    with suppress(TooLong):
        page.close()
    return found


def measure(side: str, url: str, place: str, patience: float, screenshots: Path | None) -> Row:
    """Measure the seconds of each step; a step that takes longer than `patience` is described in words."""
    context = multiprocessing.get_context("spawn")
    ready: multiprocessing.Queue[str] = context.Queue()
    server = context.Process(target=served, args=(side, url, place, ready), daemon=True)
    server.start()
    address = ready.get(timeout=120)
    found: Row = {}
    listed = "document.body.innerText.includes('one') && document.body.innerText.includes('two')"
    steps = {
        "list of studies": (address, listed),
        "first figure": (f"{address}/studies/1", FIGURE),
        "first figure, again": (f"{address}/studies/1", FIGURE),
        "list of trials": (f"{address}/studies/1/trials", "document.body.innerText.includes('Trial 1')"),
    }
    try:
        for step, (page, condition) in steps.items():
            picture = screenshots / f"{side}, {step}.png" if screenshots else None
            # Each step has its own browser, because a page that is still drawing keeps its process busy.
            with sync_playwright() as playwright:
                chromium = shutil.which("chromium") or shutil.which("google-chrome")
                arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
                browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
                taken = seconds_until(browser, page, condition, patience, picture)
                browser.close()
            found[step] = f"more than {patience:.0f}" if math.isinf(taken) else taken
    finally:
        server.kill()
        server.join()
    return found


def cells(given: argparse.Namespace) -> Iterator[Cell]:
    with tempfile.TemporaryDirectory() as place:
        url = f"sqlite:///{place}/optuna.db"
        filled(url, given.trials, given.epochs)
        views.refresh(open_storage(url, create=False).engine)
        for side in ("ours", "optuna-dashboard alone"):
            yield side, partial(measure, side, url, place, given.patience, given.screenshots)


if __name__ == "__main__":
    options = {"--trials": 10_000, "--epochs": 15, "--patience": (300.0, "seconds"), "--screenshots": Path}
    run(__doc__ or "", cells, options, turned)
