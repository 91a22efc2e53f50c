"""The machine as planning and records see it. Nothing here imports torch or touches the CUDA driver.

Cores, memory and GPUs are those that this process may use: scheduler affinity, control groups (both versions)
and ``CUDA_VISIBLE_DEVICES`` are respected.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.util
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = (
    "methodbench", "torch", "transformers", "peft", "bitsandbytes", "torch-pruning", "torchao", "tokenizers",
    "safetensors", "numpy", "accelerate",
)  # fmt: skip
"""Those whose version can change a number."""

FEATURES = (
    "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16", "avx_vnni",
    "amx_tile", "amx_bf16", "amx_int8", "amx_fp16",  # x86
    "asimd", "asimddp", "asimdhp", "i8mm", "bf16", "sve", "sve2",  # Arm
)  # fmt: skip
"""Instructions that torch and bitsandbytes choose their kernels by, as /proc/cpuinfo spells them."""

_PROC = Path("/proc")
_CGROUP = Path("/sys/fs/cgroup")


class MachineError(Exception):
    """What was asked for is not there. The message says why, and how to mend it."""


@dataclass(frozen=True)
class Machine:
    """What a result depends on. ``device`` is where stages run: "cpu" or "cuda". Memory in bytes.

    Where they run on GPUs, ``cuda`` is the version that torch is built for, and the rest is the first GPU's:
    ``power_limit`` in watts, as it is enforced, and ``mig`` the profile of a part of one. What NVML does not say is None
    or empty.
    """

    device: str
    device_name: str
    gpus: int
    cpu: str
    cpu_features: tuple[str, ...]
    cores: int
    threads: int
    memory: int
    system: str
    python: str
    versions: tuple[tuple[str, str], ...]
    cuda: str = ""
    driver: str = ""
    gpu_memory: int | None = None
    power_limit: float | None = None
    mig: str = ""


def look(device: str = "auto", threads: int | None = None) -> Machine:
    """The machine that this process runs on.

    Args:
        device: "cpu", "cuda" or "auto", which is CUDA where a GPU is visible and torch is built for it.
        threads: CPU threads a stage; otherwise ``OMP_NUM_THREADS``, otherwise all cores.

    Raises:
        MachineError: `device` is not there, its driver is too old for torch, or `threads` is not positive.
    """
    cores = _cores()
    if threads is None:
        threads = _omp_threads() or cores
    if threads < 1:
        raise MachineError(f"threads: {threads} asked for; at least 1 is needed")
    versions = _versions()
    gpus, no_gpu = _gpus()
    no_cuda = no_gpu or _no_cuda_build(dict(versions).get("torch"))
    if device not in ("auto", "cpu", "cuda"):
        raise MachineError(f"device: unknown device `{device}`; there are: auto, cpu, cuda")
    if device == "cuda" and no_cuda:
        raise MachineError(f'device: cuda asked for, but {no_cuda}; or use the CPU: device = "cpu"')
    if device == "auto":
        device = "cpu" if no_cuda else "cuda"
    cuda = _torch_cuda() if device == "cuda" else ""
    if device == "cuda" and (too_old := _too_old(gpus[0], cuda)):
        # Not quietly on the CPU instead: nobody keeps a GPU for that.
        raise MachineError(f'device: {too_old}; or use the CPU: device = "cpu"')
    cpu, features = _cpu()
    return Machine(
        device=device,
        device_name=gpus[0].name if device == "cuda" else cpu,
        gpus=len(gpus),
        cpu=cpu,
        cpu_features=features,
        cores=cores,
        threads=threads,
        memory=_memory(),
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        versions=versions,
        **(_of_gpu(gpus[0], cuda) if device == "cuda" else {}),
    )


def identity(machine: Machine) -> dict[str, Any]:
    """The part that enters a node's identity: two results that differ in it do not answer the same question.

    The CPU's features are in it, since virtual machines call quite different CPUs by one name; and of a GPU what it may
    draw, which part of it this is, and what compiles for it.
    """
    of_gpu = ("cuda", "driver", "gpu_memory", "power_limit", "mig")
    return {
        "device": machine.device,
        "device_name": machine.device_name,
        "cpu": machine.cpu,
        "cpu_features": list(machine.cpu_features),
        "threads": machine.threads,
        "python": machine.python,
        "versions": [list(pair) for pair in machine.versions],
        **({"gpu": {name: getattr(machine, name) for name in of_gpu}} if machine.device == "cuda" else {}),
    }


def satisfies(machine: Machine, requirements: Iterable[str]) -> bool:
    """Whether what is installed on `machine` satisfies all `requirements`, which are spelled as for pip.

    The machine knows the versions of PACKAGES; of any other, this process's counts. One that is missing does not.

    Raises:
        InvalidRequirement: one is not a requirement.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    known = dict(machine.versions)
    for wanted in map(Requirement, requirements):
        name = canonicalize_name(wanted.name)
        version = known.get(name) if name in PACKAGES else _installed(name)
        if version is None or not wanted.specifier.contains(version, prereleases=True):
            return False
    return True


def environment(machine: Machine, folder: str | os.PathLike[str]) -> dict[str, Any]:
    """What a record says of its surroundings: machine, commit of `folder`, load, variables that count.

    ``load`` is of the last 1, 5 and 15 minutes. The host's name, the user's and their paths are left out.
    """
    return {
        "machine": {**asdict(machine), "versions": dict(machine.versions)},
        "git": _git(Path(folder)),
        "load": list(os.getloadavg()),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "variables": {name: value for name, value in sorted(os.environ.items()) if _COUNTS.fullmatch(name)},
    }


_COUNTS = re.compile(
    "(OMP|MKL|KMP|GOMP|ONEDNN|DNNL|OPENBLAS|CUBLAS|CUDNN|NCCL|PYTORCH|TORCH|TORCHINDUCTOR)_(?!.*(HOME|DIR|PATH|FILE)$).*"
    "|CUDA_VISIBLE_DEVICES|CUDA_DEVICE_ORDER|CUDA_LAUNCH_BLOCKING|NVIDIA_TF32_OVERRIDE|ATEN_CPU_CAPABILITY"
    "|MALLOC_ARENA_MAX|PYTHONHASHSEED"
)
"""Environment variables that change numbers; those that hold a path do not."""


def visible_gpus() -> tuple[list[str], str]:
    """Names of the NVIDIA GPUs that CUDA would show, first to last, and why there is none (else ``""``).

    NVML counts by bus and CUDA by speed. So among GPUs of several kinds, a name may be another's unless
    ``CUDA_DEVICE_ORDER`` is ``PCI_BUS_ID``.
    """
    found, why = _gpus()
    return [gpu.name for gpu in found], why


@dataclass(frozen=True)
class _Gpu:
    """What NVML says of one GPU; ``supports`` is the newest CUDA that its driver runs, as 1000 times major and 10 minor."""

    name: str
    driver: str
    supports: int | None
    memory: int | None
    power_limit: float | None
    mig: str


def _gpus() -> tuple[list[_Gpu], str]:
    wanted = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        import pynvml

        pynvml.nvmlInit()
    except ImportError:
        return [], "the package nvidia-ml-py is missing; pip install nvidia-ml-py"
    except pynvml.NVMLError as error:
        return [], f"no NVIDIA driver answers ({error}); install the driver, or give the container its GPUs"
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        if not handles:
            return [], "the NVIDIA driver finds no GPU; see `nvidia-smi`"
        if wanted is not None:
            handles = list(_chosen(wanted, handles, pynvml))
            if not handles:
                return [], f"CUDA_VISIBLE_DEVICES={wanted} hides every GPU; unset it"
        return [_gpu(handle, pynvml) for handle in handles], ""
    except pynvml.NVMLError as error:
        return [], f"the NVIDIA driver failed ({error}); see `nvidia-smi`"
    finally:
        with contextlib.suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _gpu(handle: Any, pynvml: Any) -> _Gpu:
    def asked(name: str, *arguments: Any) -> Any:
        """What NVML answers; None where it, or this GPU, has no answer."""
        try:
            return getattr(pynvml, name)(*arguments)
        except (pynvml.NVMLError, AttributeError):
            return None

    mode = asked("nvmlDeviceGetMigMode", handle)
    if mode and mode[0]:  # CUDA shows the first part alone of one that is divided
        handle = asked("nvmlDeviceGetMigDeviceHandleByIndex", handle, 0) or handle
    whole = asked("nvmlDeviceGetDeviceHandleFromMigDeviceHandle", handle) or handle
    name = str(pynvml.nvmlDeviceGetName(handle))
    memory = asked("nvmlDeviceGetMemoryInfo", handle)
    milliwatts = asked("nvmlDeviceGetEnforcedPowerLimit", whole)
    profile = re.search(r"MIG (\S+)", name)
    return _Gpu(
        name=name,
        driver=str(asked("nvmlSystemGetDriverVersion") or ""),
        supports=asked("nvmlSystemGetCudaDriverVersion_v2"),
        memory=None if memory is None else int(memory.total),
        power_limit=None if milliwatts is None else milliwatts / 1000,
        mig=profile[1] if profile else "",
    )


def _of_gpu(gpu: _Gpu, cuda: str) -> dict[str, Any]:
    return {
        "cuda": cuda,
        "driver": gpu.driver,
        "gpu_memory": gpu.memory,
        "power_limit": gpu.power_limit,
        "mig": gpu.mig,
    }


def _torch_cuda() -> str:
    """The CUDA that torch is built for, such as "12.8", read without importing it; empty where it does not say."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return ""
    try:
        text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    except OSError:
        return ""
    found = re.search(r"""^cuda\b[^=\n]*=\s*['"]([\d.]+)['"]""", text, re.MULTILINE)
    return found[1] if found else ""


def _too_old(gpu: _Gpu, cuda: str) -> str:
    """Why the driver cannot run torch's CUDA; empty where it can. One runs each minor version of what it supports.

    Source: https://docs.nvidia.com/deploy/cuda-compatibility, minor version compatibility.
    """
    if not cuda or gpu.supports is None or gpu.supports // 1000 >= int(cuda.partition(".")[0]):
        return ""
    supports = f"{gpu.supports // 1000}.{gpu.supports % 1000 // 10}"
    return (
        f"the NVIDIA driver {gpu.driver} runs CUDA up to {supports}, and torch is built for CUDA {cuda}; install a newer "
        f"driver, or a torch for CUDA {supports} or older from https://pytorch.org/get-started"
    )


def _chosen(wanted: str, handles: list[Any], pynvml: Any) -> Iterator[Any]:
    """The GPUs that ``CUDA_VISIBLE_DEVICES`` names, by number or UUID, up to the first wrong one."""
    for entry in (part.strip() for part in wanted.split(",")):
        if entry.isdecimal() and int(entry) < len(handles):
            yield handles[int(entry)]
        elif entry.startswith("GPU-"):
            same = [handle for handle in handles if str(pynvml.nvmlDeviceGetUUID(handle)).startswith(entry)]
            if len(same) != 1:
                return
            yield same[0]
        elif entry.startswith("MIG-"):
            try:
                yield pynvml.nvmlDeviceGetHandleByUUID(entry)
            except pynvml.NVMLError:
                return
        else:
            return


def _no_cuda_build(torch: str | None) -> str:
    if torch is None:
        return "torch is not installed; pip install torch"
    if torch.endswith("+cpu"):
        return f"torch {torch} is built for CPUs only; install a build with CUDA from https://pytorch.org/get-started"
    return ""


def _versions() -> tuple[tuple[str, str], ...]:
    return tuple((package, version) for package in PACKAGES if (version := _installed(package)) is not None)


def _installed(package: str) -> str | None:
    """The version of `package` in this process's environment; None where it is missing."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> tuple[str, tuple[str, ...]]:
    """The CPU's name, and those of FEATURES that it has."""
    first: dict[str, str] = {}
    # The kernel works this file out core by core as it is read: only the first is needed.
    with contextlib.suppress(OSError), (_PROC / "cpuinfo").open() as lines:
        for line in lines:
            if not line.strip():
                break
            key, _, value = line.partition(":")
            first[key.strip()] = value.strip()
    flags = first.get("flags", first.get("Features", "")).split()
    name = first.get("model name") or platform.processor() or platform.machine()
    return " ".join(name.split()), tuple(feature for feature in FEATURES if feature in flags)


def _omp_threads() -> int | None:
    # "8,2" gives a number for each level of nesting; the first is the one that counts here.
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) > 0 else None


def _cores() -> int:
    """Cores that this process can keep busy; not a part of one, since a thread on it would be throttled."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [line.split() for line in _group_values("", "cpu.max")]
    v1 = (_group_values("cpu", "cpu.cfs_quota_us"), _group_values("cpu", "cpu.cfs_period_us"))
    for quota, period in [*quotas, *zip(*v1, strict=True)]:
        if quota.isdecimal() and int(quota) > 0:  # "max" and -1 are no limit
            cores = min(cores, int(quota) // int(period))
    return max(1, cores)


def _memory() -> int:
    """Bytes that this process can use."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limits = _group_values("", "memory.max") + _group_values("memory", "memory.limit_in_bytes")
    return min([physical, *(int(limit) for limit in limits if limit.isdecimal())])


def _group_values(controller: str, file: str) -> list[str]:
    """What `file` says in this process's control group and those above; `controller` is "" for version 2."""
    try:
        lines = (_PROC / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return []
    # Of version 1, each controller has a folder of its own; of version 2, there is one, or one beside those.
    mounts = [_CGROUP / controller] if controller else [_CGROUP, _CGROUP / "unified"]
    values = []
    for line in lines:
        _, controllers, inside = line.split(":", 2)
        if controller not in controllers.split(","):
            continue
        for mount in mounts:
            group = mount / inside.lstrip("/")
            # In a container the path may be the host's and not be there, and the mount is the group itself.
            for folder in (group, *group.parents):
                if folder.is_relative_to(mount):
                    with contextlib.suppress(OSError):
                        values.append((folder / file).read_text().strip())
    return values


def _git(folder: Path) -> dict[str, Any] | None:
    """The commit of `folder`, and whether tracked files differ from it; None where git does not say."""
    command = ["git", "-C", str(folder), "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    try:
        # Without the locks, a look never gets into the way of a commit.
        variables = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True, env=variables)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = done.stdout.splitlines()
    commit = next((line.split()[-1] for line in lines if line.startswith("# branch.oid")), None)
    if commit is None or commit == "(initial)":
        return None
    return {"commit": commit, "dirty": any(not line.startswith("#") for line in lines)}
