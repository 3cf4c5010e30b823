"""Builds guard.cpp, and loads it before torch and for it: torch looks for hooks of CUDA once."""

from __future__ import annotations

import ctypes
import importlib.util
import subprocess
import sys
from pathlib import Path


def build(folder: Path) -> Path:
    """The shared library, compiled with g++ against the torch that is installed."""
    built, home = folder / "guard.so", _torch()
    source = Path(__file__).with_name("guard.cpp")
    command = ["g++", "-std=c++20", "-shared", "-fPIC", f"-I{home}/include", str(source)]
    command += ["-o", str(built), f"-L{home}/lib", "-lc10", "-ltorch_cpu"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return built


def load(built: Path) -> None:
    """Into this process, and torch. Raises ImportError if torch is there already."""
    if "torch" in sys.modules:
        raise ImportError("the guard must be loaded before torch")
    for name in ("libc10.so", "libtorch_cpu.so"):
        ctypes.CDLL(str(_torch() / "lib" / name), mode=ctypes.RTLD_GLOBAL)
    pretended = ctypes.CDLL(str(built))
    importlib.import_module("torch")
    pretended.pretend_guard()


def _torch() -> Path:
    result = importlib.util.find_spec("torch")
    assert result and result.origin
    return Path(result.origin).parent
