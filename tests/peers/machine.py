"""What a measurement was made on, and whether it had the machine to itself."""

import os
import platform
import resource
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

BUSY_SHARE = 0.05
"""Above this share of the CPUs used by other processes, a run is not to be trusted."""

PACKAGES = ("torch", "transformers", "tokenizers", "accelerate", "safetensors", "numpy")


def describe(repository: Path) -> dict[str, object]:
    """CPU, GPUs, versions and commit; what cannot be found out is `None`."""
    changes = output(["git", "-C", str(repository), "status", "--porcelain"])
    found = gpus()
    return {
        "cpu": cpu_model(),
        "logical_cpus": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "gpus": [name for name, _ in found],
        "gpu_driver": found[0][1] if found else None,
        "system": platform.platform(),
        "commit": output(["git", "-C", str(repository), "rev-parse", "HEAD"]),
        "uncommitted_changes": None if changes is None else changes != "",
        "rustc": output(["rustc", "--version"]),
        "python": platform.python_version(),
        **{package: package_version(package) for package in PACKAGES},
    }


def cpu_model() -> str | None:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)


def gpus() -> list[tuple[str, str]]:
    """The name of each NVIDIA GPU that this process may use and the version of its driver; none where there is no GPU, or no
    driver. Of `CUDA_VISIBLE_DEVICES` only the number counts: GPUs of one machine are taken to be alike."""
    listed = output(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]) or ""
    rows = [[cell.strip() for cell in line.split(",")] for line in listed.splitlines()]
    found = [(row[0], row[1]) for row in rows if len(row) == 2]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return found if visible is None else found[: len([name for name in visible.split(",") if name.strip() not in ("", "-1")])]


def package_version(package: str) -> str | None:
    """The installed version of a Python package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def output(command: Sequence[str]) -> str | None:
    """What a command prints, stripped; `None` if it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


@dataclass(frozen=True)
class Moment:
    """CPU seconds used up to a point of time, by the whole machine and by the children of this process."""

    clock_s: float
    machine_cpu_s: float | None
    children_cpu_s: float

    @staticmethod
    def now() -> "Moment":
        """Takes the present moment. Children count once they have been waited for."""
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return Moment(time.monotonic(), machine_cpu_s(), children.ru_utime + children.ru_stime)

    def others_share_since(self, start: "Moment") -> float | None:
        """The share of the machine's CPUs that processes other than the children used since `start`."""
        if self.machine_cpu_s is None or start.machine_cpu_s is None:
            return None
        others = (self.machine_cpu_s - start.machine_cpu_s) - (self.children_cpu_s - start.children_cpu_s)
        return max(0.0, others) / ((self.clock_s - start.clock_s) * (os.cpu_count() or 1))


def machine_cpu_s() -> float | None:
    """CPU seconds since boot in which any process ran, or the hypervisor ran another machine; `None` but on Linux."""
    try:
        fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()
    except OSError:
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) for field in fields[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
