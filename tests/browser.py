"""The browser that the tests open pages in: Chromium, the system's or Playwright's own.

``python -m tests.browser`` installs it where there is none.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def find():
    """The path of a Chromium; None where there is none."""
    system = next((found for name in NAMES if (found := shutil.which(name))), None)
    if system:
        return system
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        own = driver.chromium.executable_path
    return own if Path(own).exists() else None


def install():
    """Install one: Debian's where that is possible, else Playwright's."""
    ways = [[sys.executable, "-m", "playwright", "install", "--with-deps", "chromium"]]
    if shutil.which("apt-get") and os.geteuid() == 0:
        ways.insert(0, ["apt-get", "install", "--yes", "--no-install-recommends", "chromium"])
    for way in ways:
        print("installing a browser:", " ".join(way), flush=True)
        if subprocess.run(way).returncode == 0 and find():
            return
    print("there is no browser, so the tests of pages are skipped", flush=True)


if __name__ == "__main__" and not find():
    install()
