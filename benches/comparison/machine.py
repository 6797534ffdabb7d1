"""What the machine is, and the part of it that a measurement gets."""

import os
import platform
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

# Instruction sets that engines choose their kernels by.
_FLAGS = (
    "avx2",
    "fma",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx_vnni",
    "amx_int8",
    "asimddp",
)
_LINES = ("Model name", "CPU family", "Model", "L2 cache", "L3 cache", "Hypervisor vendor")


def facts() -> dict[str, Any]:
    """The processor as the system describes it, and the day."""
    described = _lscpu()
    flags = set(described.get("Flags", "").split())
    return {
        "processor": described.get("Model name") or platform.processor() or platform.machine(),
        "details": {name: described[name] for name in _LINES if name in described},
        "instructions": [flag for flag in _FLAGS if flag in flags],
        "cores": len(available_cores()),
        "system": platform.platform(),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
    }


def _lscpu() -> dict[str, str]:
    if shutil.which("lscpu"):
        lines = subprocess.run(["lscpu"], capture_output=True, text=True).stdout.splitlines()
    elif Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    else:
        return {}
    pairs = (line.partition(":") for line in lines)
    return {name.strip(): value.strip() for name, _, value in pairs}


def available_cores() -> list[int]:
    """The cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def cores(threads: int) -> list[int]:
    """Those that a measurement with so many threads is pinned to; none if there are too few."""
    available = available_cores()
    return available[:threads] if threads <= len(available) else []


def environment(threads: int) -> dict[str, str]:
    """The environment of a measurement: as many threads in every library, and no network.

    Python keeps what it compiles, as it does for packages that pip has installed.
    """
    count = str(threads)
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return {
        **kept,
        "BART_FAST_NUM_THREADS": count,
        "OMP_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
