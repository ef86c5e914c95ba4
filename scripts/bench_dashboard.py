#!/usr/bin/env python
"""How long optuna-dashboard takes to show a long history in a real browser: plain, and with our notes and figures.

The history is that of `bench_sql.py`: 10,000 trials of 15 epochs, three quarters of them in the study that is looked
at. Each side is served by a process of its own and opened in a new Chromium, once after the start and once again.

Usage: python scripts/bench_dashboard.py [--trials 10000] [--epochs 15] [--screenshots DIR] [--json]
"""

import argparse
import json
import multiprocessing
import os
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path

import optuna
from bench_sql import fill
from optuna_dashboard import wsgi
from playwright.sync_api import Page, sync_playwright

from study.dashboard import application, serve
from study.storage import views
from study.storage.door import open_storage

FIGURE = "document.querySelectorAll('.js-plotly-plot .point').length >= 40"
"""Points are drawn, not the empty frame that comes before them."""
PATIENCE = 120_000
"""Milliseconds."""


def served(side: str, url: str, place: str, ready: "multiprocessing.Queue[str]") -> None:
    """Serve one side until it is ended."""
    os.chdir(place)
    app = application(url, write=False) if side == "ours" else wsgi(optuna.storages.RDBStorage(url))
    serve(app, 0, ready.put)


def seconds_until(page: Page, action: str, condition: str) -> float:
    start = time.perf_counter()
    page.goto(action)
    page.wait_for_function(condition, timeout=PATIENCE)
    return time.perf_counter() - start


def measure(side: str, url: str, place: str, screenshots: Path | None) -> dict[str, float]:
    context = multiprocessing.get_context("spawn")
    ready: multiprocessing.Queue[str] = context.Queue()
    server = context.Process(target=served, args=(side, url, place, ready), daemon=True)
    server.start()
    address = ready.get(timeout=120)
    found = {}
    try:
        with sync_playwright() as playwright:
            chromium = shutil.which("chromium") or shutil.which("google-chrome")
            arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
            browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
            page = browser.new_page(viewport={"width": 1300, "height": 1200})
            listed = "document.body.innerText.includes('one') && document.body.innerText.includes('two')"
            found["list of studies"] = seconds_until(page, address, listed)
            for when in ("first figure", "first figure, again"):
                found[when] = seconds_until(page, f"{address}/studies/1", FIGURE)
            if screenshots:
                page.wait_for_timeout(5000)
                page.screenshot(path=screenshots / f"{side}.png", full_page=True)
            found["list of trials"] = seconds_until(
                page, f"{address}/studies/1/trials", "document.body.innerText.includes('Trial 1')"
            )
            browser.close()
    finally:
        server.kill()
        server.join()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=15)
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
        for side in ("optuna-dashboard alone", "ours"):
            sides[side] = measure(side, url, place, given.screenshots)
            print(side, sides[side], file=sys.stderr)
    if given.json:
        print(json.dumps({"machine": platform.machine(), "cores": os.cpu_count(), "sides": sides}))
        return
    print(
        f"{platform.machine()}, {os.cpu_count()} cores; {given.trials} trials of {given.epochs} epochs; seconds, n = 1"
    )
    for what in sides["ours"]:
        print(f"{what:20}" + "".join(f"  {side} {found[what]:6.1f}" for side, found in sides.items()))


if __name__ == "__main__":
    main()
