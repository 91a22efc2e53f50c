"""``methodbench open``."""

import os
import subprocess

from tests.command import METHODBENCH, methodbench


def test_the_browser_is_given_the_report(tmp_path):
    (tmp_path / "report.html").write_text("<!doctype html>")
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/asked\n')
    browser.chmod(0o755)
    environment = {**os.environ, "BROWSER": f"{browser} %s"}
    done = subprocess.run([METHODBENCH, "open", "."], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "asked").read_text().strip() == (tmp_path / "report.html").as_uri()


def test_without_a_browser_the_path_is_printed(tmp_path):
    (tmp_path / "report.html").write_text("<!doctype html>")
    environment = {
        key: value for key, value in os.environ.items() if key not in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY")
    }
    done = subprocess.run(
        [METHODBENCH, "open", tmp_path], env={**environment, "PATH": ""}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, f"{tmp_path}/report.html\n")


def test_without_a_report_it_says_how_to_write_one(tmp_path):
    assert f"report.html: no such file; `methodbench report {tmp_path}` writes it" in methodbench(
        "open", tmp_path, status=2
    )
