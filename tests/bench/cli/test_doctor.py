"""The doctor: what it says must follow from what is there."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from bench.cli import doctor
from bench.cli.doctor import Noise, examine, judge, spread
from bench.machine import machine
from bench.recipe import registry
from bench.recipe.declarations import Broken
from tests.command import methodbench
from tests.subjects import HERE


@pytest.fixture(scope="module")
def here():
    return machine.look("cpu")


@pytest.fixture(scope="module")
def findings(here):
    return {finding.name: finding for finding in examine(here, samples=5)}


def test_everything_is_looked_at(findings):
    names = {
        "packages",
        "threads",
        "device",
        "methods",
        "peak memory",
        "waiting",
        "compiler",
        "disk",
        "noise",
    }
    assert names <= findings.keys()
    assert all(finding.state in ("ok", "warn", "missing") and finding.text for finding in findings.values())


def test_json_has_every_finding(findings):
    said = json.loads(methodbench("doctor", "--json"))
    assert {finding["name"] for finding in said} == findings.keys()
    assert all(finding.keys() == {"name", "state", "text"} for finding in said)


def test_packages(here):
    found = doctor._packages(here)
    assert found.state == "ok"
    assert f"torch {dict(here.versions)['torch']}" in found.text
    without = replace(
        here, versions=tuple(pair for pair in here.versions if pair[0] not in ("torch", "numpy", "torchao"))
    )
    found = doctor._packages(without)
    assert found.state == "missing"
    assert found.text.startswith("torch, numpy: pip install torch numpy")


def test_more_threads_than_cores(here):
    assert doctor._threads(replace(here, threads=4, cores=4)).state == "ok"
    found = doctor._threads(replace(here, threads=5, cores=4))
    assert found.state == "warn"
    assert "set threads = 4" in found.text


def test_device(here):
    cuda = doctor._device(replace(here, device="cuda", device_name="NVIDIA H100", gpus=2))
    assert (cuda.state, cuda.text) == ("ok", "cuda: NVIDIA H100, 2 visible")
    versions = (("torch", "2.13.0+cpu"),)
    build = doctor._device(replace(here, gpus=1, versions=versions))
    assert build.state == "warn"
    assert "torch 2.13.0+cpu is built for CPUs only" in build.text
    assert doctor._device(replace(here, gpus=1, versions=(("torch", "2.13.0"),))).text.endswith("the CPU was asked for")
    assert doctor._device(replace(here, gpus=0)).state == "ok"


class Ready:
    needs = ("json", "xml.dom")
    breaks_with = ()


class Absent:
    needs = ("json", "torch_no_such", "no_such.part")
    breaks_with = ()


class Breaks:
    needs = ()
    breaks_with = (
        Broken(("torch>=2.13", "peft>=0.22"), "not these", "pip install nothing"),
        Broken(("torch>=2.13", "peft<0.22"), "they do not agree", "pip install peft==0.22"),
    )


def test_methods_that_the_installed_versions_break(monkeypatch):
    monkeypatch.setattr(registry, "methods", lambda: {"ready": Ready, "breaks": Breaks})
    every, broken = doctor._methods(HERE)
    assert every.state == "ok"
    assert (broken.name, broken.state) == ("method breaks", "warn")
    assert broken.text.endswith("with torch>=2.13 and peft<0.22: they do not agree; pip install peft==0.22")


def test_methods_that_lack_a_package(monkeypatch):
    monkeypatch.setattr(registry, "methods", lambda: {"ready": Ready, "absent": Absent})
    every, absent = doctor._methods(HERE)
    assert (every.state, every.text) == ("ok", "1 of 2 have all the packages they need")
    assert (absent.name, absent.state) == ("method absent", "missing")
    assert absent.text == "needs torch-no-such, no-such: pip install torch-no-such no-such"


def test_a_registry_that_does_not_load(monkeypatch):
    def broken():
        raise registry.RegistryError("entry point `mine = my.methods` does not load: no such module")

    monkeypatch.setattr(registry, "methods", broken)
    (found,) = doctor._methods(HERE)
    assert found.state == "missing"
    assert "my.methods" in found.text


def test_peak_memory_and_run_queue(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "_PROC", tmp_path)
    assert doctor._peak_memory().state == "missing"
    assert "No such file" in doctor._peak_memory().text
    assert doctor._run_queue().state == "missing"
    (tmp_path / "self").mkdir()
    (tmp_path / "thread-self").mkdir()
    assert doctor._peak_memory().state == "ok"
    assert (tmp_path / "self" / "clear_refs").read_text() == "5"
    (tmp_path / "thread-self" / "schedstat").write_text("0 0 0\n")
    assert doctor._run_queue().state == "missing"
    (tmp_path / "thread-self" / "schedstat").write_text("5000000000 2000000000 7\n")
    assert doctor._run_queue().state == "ok"
    assert doctor._waited() == 2.0
    seen = doctor.noise(2)  # no /proc/stat either
    assert (seen.waiting, seen.others) == (0.0, None)


def test_compiler(tmp_path, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = doctor._compiler()
    assert found.state == "missing"
    assert "install g++" in found.text
    compiler = tmp_path / "my-c++"
    compiler.write_text("")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", "my-c++")
    assert doctor._compiler().text.startswith(str(compiler))


def test_disk(tmp_path, monkeypatch):
    for free, state in [(50e9, "ok"), (1e9, "warn")]:
        monkeypatch.setattr(shutil, "disk_usage", lambda folder, free=free: shutil._ntuple_diskusage(0, 0, int(free)))
        assert doctor._disk(tmp_path).state == state


def test_spread_by_hand():
    assert spread([1.0] * 20) == 0
    assert spread([10.0 + i for i in range(11)]) == pytest.approx((19 - 11) / 15)


@pytest.mark.parametrize(
    ("noise", "state", "says"),
    [
        (Noise(0.02, 0.02, 0.0, 0.0), "ok", "quiet now"),
        (Noise(0.02, 0.02, None, None), "ok", "quiet now"),
        (Noise(0.30, 0.02, 0.0, 0.0), "warn", "wall time is not steady, CPU time is"),
        # A low spread does not prove a quiet machine: the neighbours are counted.
        (Noise(0.02, 0.02, 0.3, 0.0), "warn", "other programs are running"),
        (Noise(0.02, 0.02, 0.0, 2.0), "warn", "others keep 2.0 of 4 cores busy: other programs are running"),
        (Noise(0.30, 0.30, 0.0, 0.0), "warn", "not even CPU time is steady"),
    ],
)
def test_what_follows_from_noise(noise, state, says):
    found = judge(noise, 4)
    assert found.state == state
    assert says in found.text
    assert f"spread of wall time {noise.wall_spread:.1%}, of CPU time {noise.cpu_spread:.1%}" in found.text


def test_a_neighbour_on_the_same_core_is_seen():
    """One core, this process and a hog on it: about half of the time goes in waiting, whatever the spread."""
    code = (
        "import os, subprocess, sys; os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])\n"
        "from bench.cli.doctor import judge, noise\n"
        "hog = subprocess.Popen([sys.executable, '-c', 'while True: pass'])\n"
        "try:\n    seen = noise(8)\nfinally:\n    hog.kill(); hog.wait()\n"
        "print(seen.waiting, seen.others, judge(seen, 1).state)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    waiting, others, state = done.stdout.split()
    assert float(waiting) > 0.2
    assert float(others) > 0.3
    assert state == "warn"


def test_the_command_prints_what_it_finds():
    assert "noise" in methodbench("doctor")
