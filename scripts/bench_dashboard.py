#!/usr/bin/env python
"""How long optuna-dashboard takes to show a long history in a real browser: plain, and with our notes and figures.

The history is that of `bench_sql.py`: 10,000 trials of 15 epochs, three quarters of them in the study that is looked
at. Each side is served by a process of its own and opened in a new Chromium, once after the start and once again.

What takes longer than the patience is written as `more than`.

Usage: python scripts/bench_dashboard.py [--trials 10000] [--epochs 15] [--patience 300] [--screenshots DIR] [--json]
"""

import argparse
import json
import math
import multiprocessing
import os
import platform
import shutil
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import optuna
from bench_sql import fill
from optuna_dashboard import wsgi
from playwright.sync_api import Browser, sync_playwright
from playwright.sync_api import TimeoutError as TooLong

from study.dashboard import application, serve
from study.storage import views
from study.storage.door import open_storage

FIGURE = "document.querySelectorAll('.js-plotly-plot .point').length >= 40"
"""Points are drawn, not the empty frame that comes before them."""


def served(side: str, url: str, place: str, ready: "multiprocessing.Queue[str]") -> None:
    """Serve one side until it is ended."""
    os.chdir(place)
    app = application(url, write=False) if side == "ours" else wsgi(optuna.storages.RDBStorage(url))
    serve(app, 0, ready.put)


def seconds_until(browser: Browser, address: str, condition: str, patience: float, picture: Path | None) -> float:
    """Seconds until the condition holds on a new page; infinite if the patience ends before."""
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


def measure(side: str, url: str, place: str, patience: float, screenshots: Path | None) -> dict[str, float]:
    context = multiprocessing.get_context("spawn")
    ready: multiprocessing.Queue[str] = context.Queue()
    server = context.Process(target=served, args=(side, url, place, ready), daemon=True)
    server.start()
    address = ready.get(timeout=120)
    found = {}
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
            # A browser of its own: a page that still draws keeps its process busy.
            with sync_playwright() as playwright:
                chromium = shutil.which("chromium") or shutil.which("google-chrome")
                arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
                browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
                found[step] = seconds_until(browser, page, condition, patience, picture)
                browser.close()
            print(side, step, found[step], file=sys.stderr, flush=True)
    finally:
        server.kill()
        server.join()
    return found


def told(seconds: float, patience: float) -> str:
    return f"more than {patience:.0f}" if math.isinf(seconds) else f"{seconds:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--patience", type=float, default=300, help="seconds")
    parser.add_argument("--screenshots", type=Path)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with tempfile.TemporaryDirectory() as place:
        url = f"sqlite:///{place}/optuna.db"
        share = given.trials * 3 // 4
        for name, count in (("one", share), ("two", given.trials - share)):
            fill(url, name, count, given.epochs)
        views.refresh(open_storage(url, create=False).engine)
        sides = {}
        for side in ("ours", "optuna-dashboard alone"):
            sides[side] = measure(side, url, place, given.patience, given.screenshots)
    if given.json:
        print(json.dumps({"machine": platform.machine(), "cores": os.cpu_count(), "sides": sides}))
        return
    print(
        f"{platform.machine()}, {os.cpu_count()} cores; {given.trials} trials of {given.epochs} epochs; seconds, n = 1"
    )
    for what in sides["ours"]:
        print(f"{what:20}" + "".join(f"  {side} {told(found[what], given.patience)}" for side, found in sides.items()))


if __name__ == "__main__":
    main()
