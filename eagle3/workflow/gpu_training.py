"""Warnings before any job about training on a GPU; they need neither torch nor the GPU."""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Iterator, Mapping
from pathlib import Path

from eagle3.config.configuration import Config

FEW_TOKENS = 4096  # of a pack: below that a GPU waits for the host that starts its kernels


def gpu_warnings(
    config: Config, environment: Mapping[str, str], has_environment: bool
) -> Iterator[str]:
    """Sentences about settings that waste a GPU, and about what this machine lacks.

    `has_environment`: jobs run in a separate environment, which includes a compiler.
    """
    if config.resources.device != "cuda":
        return
    train = config.train
    if train.precision == "float32":
        yield (
            "train.precision is float32, in which a GPU multiplies matrices many times slower than "
            "in bfloat16"
        )
    if train.pack_tokens < FEW_TOKENS:
        yield (
            f"train.pack_tokens is {train.pack_tokens}; below about {FEW_TOKENS} a GPU waits for "
            "its host: take larger packs and fewer of them (train.packs_per_batch)"
        )
    if not has_environment and (missing := missing_for_compiler(environment)):
        yield (
            f"training on a GPU compiles operations by Triton, and this machine has no {missing}; "
            "where a job finds none either, it runs uncompiled, which is slower "
            "(docs/performance.md)"
        )


def missing_for_compiler(environment: Mapping[str, str]) -> str | None:
    """What Triton lacks to build its library, None if nothing: it needs a C compiler ($CC, gcc or
    clang) and the headers of this Python."""
    compiler, path = environment.get("CC"), environment.get("PATH", os.defpath)
    compilers = [compiler.split()[0]] if compiler and compiler.split() else ["gcc", "clang"]
    if not any(shutil.which(name, path=path) for name in compilers):
        return "C compiler (gcc, clang or $CC)"
    # Debian's scheme for local packages does not point to the headers
    default = sysconfig.get_default_scheme()
    scheme = "posix_prefix" if default == "posix_local" else default
    if not (Path(sysconfig.get_paths(scheme)["include"]) / "Python.h").is_file():
        return "headers of Python (python3-dev)"
    return None
