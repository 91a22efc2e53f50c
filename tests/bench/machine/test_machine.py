"""The machine as it is seen: what this process may use, and not what the box has."""

import importlib.util
import json
import os
import platform
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from types import SimpleNamespace

import pytest

from bench.machine import machine
from bench.machine.machine import PACKAGES, MachineError, environment, identity, look, satisfies
from tests.subjects import HERE

X86 = """processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R)  Xeon(R) Platinum 8481C CPU @ 2.70GHz
flags\t\t: fpu sse2 avx2 f16c avx512f amx_bf16 amx_int8 avx512_bf16 avx512_vnni

processor\t: 1
model name\t: another
flags\t\t: sve
"""
ARM = "processor\t: 0\nBogoMIPS\t: 243.75\nFeatures\t: fp asimd asimddp sve i8mm bf16\nCPU part\t: 0xd40\n"


@pytest.fixture(autouse=True)
def _plain(monkeypatch):
    for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def proc(tmp_path, monkeypatch):
    """An empty /proc and /sys/fs/cgroup of our own."""
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "cgroup").mkdir()
    monkeypatch.setattr(machine, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(machine, "_CGROUP", tmp_path / "cgroup")
    return tmp_path


def group(proc, lines, **files):
    (proc / "proc" / "self" / "cgroup").write_text(lines)
    for path, text in files.items():
        file = proc / "cgroup" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")


# -- CPU


def test_an_intel_cpu(proc, monkeypatch):
    (proc / "proc" / "cpuinfo").write_text(X86)
    seen = look()
    assert seen.cpu == "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz"
    features = ("avx2", "f16c", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
    assert seen.cpu_features == features


def test_an_arm_cpu_without_a_name(proc, monkeypatch):
    (proc / "proc" / "cpuinfo").write_text(ARM)
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    seen = look()
    assert (seen.cpu, seen.cpu_features) == ("aarch64", ("asimd", "asimddp", "i8mm", "bf16", "sve"))


def test_a_system_without_proc(proc, monkeypatch):
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    seen = look()
    assert (seen.cpu, seen.cpu_features) == ("arm", ())
    assert seen.cores >= 1
    assert seen.memory > 0


def test_the_real_machine():
    seen = look()
    assert seen.cores <= len(os.sched_getaffinity(0))
    assert seen.cpu
    assert seen.memory <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert seen.python == platform.python_version()
    assert dict(seen.versions)["torch"] == metadata.version("torch")
    assert seen.versions[0] == ("methodbench", metadata.version("methodbench"))


# -- cores and threads


def test_affinity_limits_cores():
    code = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
    code += "from bench.machine.machine import look; seen = look(); print(seen.cores, seen.threads)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1"]


@pytest.mark.parametrize(
    ("lines", "files", "cores"),
    [
        ("0::/\n", {}, 8),
        ("0::/\n", {"cpu.max": "max 100000"}, 8),
        ("0::/\n", {"cpu.max": "350000 100000"}, 3),
        ("0::/\n", {"cpu.max": "20000 100000"}, 1),
        ("0::/\n", {"cpu.max": "1600000 100000"}, 8),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "200000 100000"}, 2),
        ("0::/of/the/host\n", {"cpu.max": "200000 100000"}, 2),
        ("0::/../..\n", {"cpu.max": "200000 100000"}, 2),
        ("1:name=systemd:/x\n0::/x\n", {"unified/x/cpu.max": "200000 100000"}, 2),
        ("4:cpu,cpuacct:/d\n", {"cpu/d/cpu.cfs_quota_us": "250000", "cpu/d/cpu.cfs_period_us": "100000"}, 2),
        ("4:cpu:/d\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
        ("4:cpuset:/d\n", {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 8),
    ],
)
def test_control_groups_limit_cores(proc, monkeypatch, lines, files, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    group(proc, lines, **files)
    seen = look()
    assert (seen.cores, seen.threads) == (cores, cores)


def test_control_groups_limit_memory(proc, monkeypatch):
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert look().memory == physical
    group(proc, "0::/a\n", **{"memory.max": "max", "a/memory.max": "1000000"})
    assert look().memory == 1_000_000
    group(proc, "9:memory:/a\n", **{"memory/memory.limit_in_bytes": "9223372036854771712"})
    assert look().memory == physical
    group(proc, "9:memory:/a\n", **{"memory/a/memory.limit_in_bytes": "2000000"})
    assert look().memory == 2_000_000


@pytest.mark.parametrize(
    ("variable", "threads", "expected"),
    [
        ("3", None, 3),
        ("3", 2, 2),
        ("6,2", None, 6),
        ("", None, 8),
        ("0", None, 8),
        ("-1", None, 8),
        ("many", None, 8),
    ],
)
def test_threads(proc, monkeypatch, variable, threads, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    assert look(threads=threads).threads == expected


def test_no_threads():
    with pytest.raises(MachineError, match="threads: 0 asked for; at least 1"):
        look(threads=0)


# -- GPUs


class NVMLError(Exception):
    pass


GPUS = [("GPU-aaaa-1", "NVIDIA H100"), ("GPU-aabb-2", "NVIDIA A100"), ("GPU-cccc-3", "NVIDIA T4")]
MIG = ("MIG-1234", "NVIDIA H100 MIG 1g.10gb")


def driver(*gpus, broken=None):
    """A pynvml of our own; `broken` names a call that fails."""

    def call(name, answer):
        def function(*arguments):
            if name == broken:
                raise NVMLError(f"{name} failed")
            return answer(*arguments)

        return function

    def by_uuid(uuid):
        if uuid != MIG[0]:
            raise NVMLError("Not Found")
        return MIG

    return SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=call("nvmlInit", lambda: None),
        nvmlShutdown=call("nvmlShutdown", lambda: None),
        nvmlDeviceGetCount=call("nvmlDeviceGetCount", lambda: len(gpus)),
        nvmlDeviceGetHandleByIndex=lambda index: gpus[index],
        nvmlDeviceGetHandleByUUID=by_uuid,
        nvmlDeviceGetUUID=lambda handle: handle[0],
        nvmlDeviceGetName=call("nvmlDeviceGetName", lambda handle: handle[1]),
    )


@pytest.fixture
def gpus(monkeypatch):
    """Sets the driver, the build of torch and ``CUDA_VISIBLE_DEVICES``."""
    real = metadata.version

    def use(nvml, torch="2.13.0", visible=None):
        def version(name):
            if name == "torch" and torch is None:
                raise metadata.PackageNotFoundError(name)
            return torch if name == "torch" else real(name)

        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        monkeypatch.setattr(metadata, "version", version)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return use


@pytest.mark.parametrize("torch", ["2.13.0", "2.13.0+cu130"])
@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_cuda(gpus, device, torch):
    gpus(driver(*GPUS), torch)
    seen = look(device)
    assert (seen.device, seen.device_name, seen.gpus) == ("cuda", "NVIDIA H100", 3)


def test_cpu_although_there_is_a_gpu(gpus):
    gpus(driver(*GPUS))
    seen = look("cpu")
    assert (seen.device, seen.device_name, seen.gpus) == ("cpu", seen.cpu, 3)


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        ("0", ["NVIDIA H100"]),
        ("2, 0", ["NVIDIA T4", "NVIDIA H100"]),
        ("1,7,0", ["NVIDIA A100"]),  # CUDA stops at the first wrong entry
        ("1,-1,0", ["NVIDIA A100"]),
        ("-1", []),
        ("", []),
        ("NoDevFiles", []),
        ("GPU-cccc-3", ["NVIDIA T4"]),
        ("GPU-aab,0", ["NVIDIA A100", "NVIDIA H100"]),
        ("GPU-aa", []),  # which of two?
        ("GPU-ffff", []),
        ("MIG-1234", ["NVIDIA H100 MIG 1g.10gb"]),
        ("MIG-9999", []),
    ],
)
def test_visible_devices(gpus, visible, names):
    gpus(driver(*GPUS), visible=visible)
    found, why = machine.visible_gpus()
    assert found == names
    assert why == ("" if names else f"CUDA_VISIBLE_DEVICES={visible} hides every GPU; unset it")
    assert look().device == ("cuda" if names else "cpu")


@pytest.mark.parametrize(
    ("nvml", "torch", "visible", "why"),
    [
        (
            driver(*GPUS),
            "2.13.0+cpu",
            None,
            r"torch 2\.13\.0\+cpu is built for CPUs only; install a build with CUDA",
        ),
        (driver(*GPUS), None, None, "torch is not installed; pip install torch"),
        (driver(*GPUS), "2.13.0", "", "CUDA_VISIBLE_DEVICES= hides every GPU; unset it"),
        (driver(), "2.13.0", None, "the NVIDIA driver finds no GPU; see `nvidia-smi`"),
        (driver(*GPUS, broken="nvmlInit"), "2.13.0", None, r"no NVIDIA driver answers \(nvmlInit failed\)"),
        (driver(*GPUS, broken="nvmlDeviceGetName"), "2.13.0", None, "the NVIDIA driver failed"),
        (None, "2.13.0", None, "nvidia-ml-py is missing; pip install nvidia-ml-py"),
    ],
)
def test_cuda_that_is_not_there(gpus, nvml, torch, visible, why):
    gpus(nvml, torch, visible)
    with pytest.raises(MachineError, match=f'device: cuda asked for, but .*{why}.*; or use the CPU: device = "cpu"'):
        look("cuda")
    seen = look("auto")
    assert (seen.device, seen.device_name) == ("cpu", seen.cpu)


def test_a_driver_that_does_not_shut_down(gpus):
    gpus(driver(*GPUS, broken="nvmlShutdown"))
    assert look().device == "cuda"


PARTED = ("GPU-dddd-4", "NVIDIA A100")


def known(nvml, *, supports=12080, limit=350_000, memory=80 * 2**30):
    """`nvml` with what today's says beside names."""
    nvml.nvmlSystemGetDriverVersion = lambda: "570.86.15"
    nvml.nvmlSystemGetCudaDriverVersion_v2 = lambda: supports
    nvml.nvmlDeviceGetMemoryInfo = lambda handle: SimpleNamespace(total=memory if handle != MIG else memory // 8)
    nvml.nvmlDeviceGetMigMode = lambda handle: (int(handle == PARTED), 0)
    nvml.nvmlDeviceGetMigDeviceHandleByIndex = lambda handle, index: MIG

    def whole(handle):
        if handle != MIG:
            raise NVMLError("Invalid Argument")
        return PARTED

    def power(handle):
        if handle == MIG:
            raise NVMLError("Not Supported")
        return limit

    nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle = whole
    nvml.nvmlDeviceGetEnforcedPowerLimit = power
    return nvml


@pytest.fixture
def built(monkeypatch):
    """Sets the CUDA that torch is built for."""
    return lambda cuda: monkeypatch.setattr(machine, "_torch_cuda", lambda: cuda)


def test_what_figures_on_a_gpu_depend_on_is_in_environment_and_identity(gpus, built, tmp_path):
    built("12.8")
    gpus(known(driver(*GPUS)))
    seen = look()
    assert (seen.cuda, seen.driver, seen.gpu_memory, seen.power_limit, seen.mig) == (
        "12.8", "570.86.15", 80 * 2**30, 350.0, ""
    )  # fmt: skip
    recorded = environment(seen, tmp_path)["machine"]
    assert (recorded["power_limit"], recorded["driver"]) == (350.0, "570.86.15")
    for other in ({"limit": 250_000}, {"memory": 40 * 2**30}, {"supports": 13000}):
        gpus(known(driver(*GPUS), **other))
        assert (identity(look()) != identity(seen)) == ("supports" not in other), other
    built("12.6")
    gpus(known(driver(*GPUS)))
    assert identity(look()) != identity(seen)


@pytest.mark.parametrize("visible", [None, "MIG-1234"])
def test_a_part_of_a_gpu_is_known_by_its_profile(gpus, built, visible):
    built("12.8")
    gpus(known(driver(PARTED)), visible=visible)
    seen = look()
    assert (seen.device_name, seen.mig) == ("NVIDIA H100 MIG 1g.10gb", "1g.10gb")
    assert (seen.gpu_memory, seen.power_limit) == (10 * 2**30, 350.0)


def test_a_gpu_of_which_nvml_says_nothing_is_used_all_the_same(gpus, built):
    built("12.8")
    gpus(driver(*GPUS))
    seen = look()
    assert (seen.device, seen.driver, seen.gpu_memory, seen.power_limit, seen.mig) == ("cuda", "", None, None, "")


def test_on_a_cpu_nothing_of_a_gpu_counts(gpus, built):
    built("12.8")
    gpus(known(driver(*GPUS)))
    seen = look("cpu")
    assert (seen.cuda, seen.driver, seen.gpu_memory, seen.power_limit, seen.mig) == ("", "", None, None, "")
    assert "gpu" not in identity(seen)


@pytest.mark.parametrize(
    ("cuda", "supports", "runs"),
    [
        ("12.8", 12080, True),
        ("12.8", 12020, True),  # a driver runs each minor version
        ("12.8", 13000, True),
        ("", 11040, True),
        ("13.0", None, True),
        ("13.0", 12080, False),
        ("12.8", 11040, False),
    ],
)
@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_a_driver_too_old_for_torchs_cuda_is_refused_with_the_mend(gpus, built, device, cuda, supports, runs):
    built(cuda)
    gpus(known(driver(*GPUS), supports=supports))
    if runs:
        assert look(device).device == "cuda"
        return
    old = f"{supports // 1000}.{supports % 1000 // 10}"
    said = rf"device: the NVIDIA driver 570\.86\.15 runs CUDA up to {old}, and torch is built for CUDA {cuda}; install a newer"
    with pytest.raises(MachineError, match=said + rf'.*a torch for CUDA {old} .*device = "cpu"'):
        look(device)
    assert look("cpu").device == "cpu"


@pytest.mark.parametrize(
    ("text", "cuda"),
    [
        ("cuda: Optional[str] = '12.8'\nhip: Optional[str] = None\n", "12.8"),
        ('__version__ = "2.13.0"\ncuda = "13.0"\n', "13.0"),
        ("cuda: Optional[str] = None\nhip: Optional[str] = '6.2'\n", ""),
        (None, ""),
    ],
)
def test_torchs_cuda_is_read_where_torch_is_and_not_imported(tmp_path, monkeypatch, text, cuda):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise AssertionError('imported')")
    if text is not None:
        (tmp_path / "torch" / "version.py").write_text(text)
    spec = importlib.util.spec_from_file_location("torch", tmp_path / "torch" / "__init__.py")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    assert machine._torch_cuda() == cuda


def test_an_unknown_device():
    with pytest.raises(MachineError, match="unknown device `gpu`; there are: auto, cpu, cuda"):
        look("gpu")


# -- what goes into a record


def test_identity_changes_with_what_matters_alone(gpus):
    gpus(driver(*GPUS))
    base = identity(look(threads=2))
    assert base == identity(look(threads=2))
    assert base != identity(look(threads=1))
    assert base != identity(look("cpu", threads=2))
    gpus(driver(*GPUS), "2.14.0")
    assert base != identity(look(threads=2))
    assert not base.keys() & {"memory", "cores", "gpus", "system"}
    assert json.loads(json.dumps(base)) == base


def test_environment(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith(("TORCH", "PYTORCH", "MKL"))]:
        monkeypatch.delenv(name)
    counted = {
        "OMP_NUM_THREADS": "2",
        "MKL_DYNAMIC": "1",
        "PYTORCH_ALLOC_CONF": "x",
        "CUDA_VISIBLE_DEVICES": "",
    }
    counted |= {"TORCH_LOGS": "+all", "TORCHINDUCTOR_MAX_AUTOTUNE": "1", "NVIDIA_TF32_OVERRIDE": "0"}
    private = {"TORCH_HOME": "/home/me", "TORCHINDUCTOR_CACHE_DIR": "/home/me", "HF_TOKEN": "secret"}
    for name, value in {**counted, **private}.items():
        monkeypatch.setenv(name, value)
    seen = environment(look(), tmp_path)
    assert counted.items() <= seen["variables"].items()
    text = json.dumps(seen)
    assert not [word for word in ("secret", "/home/me", platform.node()) if word in text]
    assert seen["machine"]["versions"]["torch"] == metadata.version("torch")
    assert seen["machine"]["threads"] == 2
    assert len(seen["load"]) == 3
    assert seen["date"].endswith("+00:00")
    assert seen["git"] is None


def test_the_commit_and_whether_files_differ_from_it(tmp_path, monkeypatch):
    def git(*arguments):
        who = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
        command = ["git", *who, "-C", str(tmp_path), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--quiet")
    file = tmp_path / "suite.toml"
    file.write_text("a")
    assert machine._git(tmp_path) is None  # nothing is committed
    git("add", ".")
    git("commit", "--quiet", "-m", "x")
    commit = git("rev-parse", "HEAD")
    assert machine._git(tmp_path) == {"commit": commit, "dirty": False}
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "records.jsonl").write_text("not tracked")
    assert machine._git(tmp_path) == {"commit": commit, "dirty": False}
    file.write_text("b")
    assert machine._git(tmp_path / "results") == {"commit": commit, "dirty": True}
    git("checkout", "--quiet", "--detach")
    assert machine._git(tmp_path) == {"commit": commit, "dirty": True}
    assert machine._git(tmp_path / "nowhere") is None
    monkeypatch.setenv("PATH", "")
    assert machine._git(tmp_path) is None


def test_git_that_hangs(tmp_path, monkeypatch):
    def hang(command, *, timeout, **_):
        assert timeout <= 10
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    assert machine._git(tmp_path) is None


def test_looking_is_fast():
    code = (
        "import time, bench.machine.machine as machine\n"
        "start = time.process_time(); machine.look(); print(time.process_time() - start)"
    )
    command = [sys.executable, "-c", code]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(3)]
    assert min(float(run.stdout) for run in runs) < 0.05


# -- versions


@pytest.mark.parametrize(
    ("requirements", "satisfied"),
    [
        ([], True),
        (["torch>=2.13"], True),
        (["torch>=2.14"], False),
        (["torch>=2.13", "peft<=0.21.2"], True),
        (["torch>=2.13", "peft>0.21.2"], False),
        (["torch==2.13.*", "bitsandbytes"], False),  # which is not on that machine
        ([f"pytest=={metadata.version('pytest')}"], True),  # of which a machine says nothing
        ([f"pytest!={metadata.version('pytest')}"], False),
        (["no-such-package"], False),
    ],
)
def test_versions_on_a_machine(requirements, satisfied):
    assert "pytest" not in PACKAGES
    assert satisfies(HERE, requirements) is satisfied


def test_a_local_build_and_a_prerelease_are_of_their_version():
    here = replace(HERE, versions=(("torch", "2.14.0a0+cpu"), ("peft", "0.21.2+local")))
    assert satisfies(here, ["torch>=2.13", "peft<=0.21.2"])
    assert not satisfies(here, ["torch>=2.14"])
