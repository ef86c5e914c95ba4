#!/usr/bin/env python
"""Make docs/report.png: the top of a report, as a browser draws it. Needs Chromium and playwright (the extra dev).

Usage: python scripts/picture.py [MODEL_FOLDER] [OUT.png]       (by default the quickstart's model)
"""

import shutil
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[1]
WIDTH, HEIGHT = 900, 760


def main(model: Path, out: Path) -> None:
    """Draw the page at a width that fits a README."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as play:
        started = play.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = started.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto((model / "report.html").resolve().as_uri())
        page.screenshot(path=str(out))
        started.close()


if __name__ == "__main__":
    defaults = [ROOT / "runs" / "quick-digits" / "model", ROOT / "docs" / "report.png"]
    given = [Path(word) for word in sys.argv[1:3]]
    main(*given, *defaults[len(given) :])
