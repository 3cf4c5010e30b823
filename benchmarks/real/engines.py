"""Real servers on this machine's processor: how they are started, and how they end.

Both engines run in environments of their own (`.venv-vllm`, `.venv-sglang`). SGLang has no kernels
for a processor without AMX: those of the tests, in plain torch, stand in for them
(`tests/sglang/shim`), so its times are of its scheduler and workers and not of its kernels.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from eagle3.errors import UserError
from eagle3.evaluation.http import get

ROOT = Path(__file__).resolve().parents[2]
LEAVING = 180.0  # seconds for the jobs of a killed call to end
PATIENCE = 900.0  # seconds for a server to come up
QUIET = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
VLLM = {
    "dtype": "float32",
    "enforce_eager": True,
    "enable_prefix_caching": False,  # rounds ask the same prompts again
    "kv_cache_memory_bytes": 2**30,
    "disable_uvicorn_access_log": True,
}
SGLANG = {
    "device": "cpu",
    "dtype": "float32",
    # without AMX the first is what SGLang falls back to, and only the other two speculate
    "attention_backend": "torch_native",
    "prefill_attention_backend": "intel_amx",
    "decode_attention_backend": "intel_amx",
    "disable_cuda_graph": True,
    "disable_radix_cache": True,
    "skip_server_warmup": True,
    "sleep_on_idle": True,  # else it spins, beside what is measured
    "mem_fraction_static": 0.3,
    "log_level": "warning",
}


@dataclass(frozen=True)
class Engine:
    """One engine: `vllm` or `sglang`.

    `python`: its interpreter. `arguments`: further ones of its server by their Python names.
    `variables`: further ones of its environment.
    """

    name: str
    python: Path
    arguments: Mapping[str, Any] = field(default_factory=dict)
    context: int = 2048
    requests: int = 4  # at a time
    variables: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, values: Mapping[str, Any], requests: int) -> Engine:
        """An engine of the configuration: `name`, `python`, and perhaps `arguments` and
        `variables`."""
        more = {key: values.get(key) or {} for key in ("arguments", "variables")}
        return cls(values["name"], Path(values["python"]).absolute(), requests=requests, **more)

    def command(self, target: Path, draft: Path | None, steps: int, port: int) -> list[str]:
        """The words that start a server of `target`, with `draft` and so many drafts a pass."""
        if self.name == "vllm":
            given = VLLM | {"max_model_len": self.context, "max_num_seqs": self.requests}
            given |= {"model": str(target)}
            # `vllm serve` asks for the version of a package that has another name on a CPU
            start = [str(self.python), "-m", "vllm.entrypoints.openai.api_server"]
        else:
            given = SGLANG | {"context_length": self.context, "model_path": str(target)}
            given |= {"max_running_requests": self.requests}
            given |= {"max_total_tokens": self.context * self.requests}
            start = [str(self.python), "-m", "sglang.launch_server"]
        given |= _speculation(self.name, draft, steps) | dict(self.arguments)
        return [*start, *_words(given), "--port", str(port), "--host", "127.0.0.1"]

    def environment(self) -> dict[str, str]:
        """Variables of the server: threads on all cores, and none that spins."""
        cores = len(os.sched_getaffinity(0))
        kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "OMP_NUM_THREADS")}
        kept |= QUIET | {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "KMP_BLOCKTIME": "0"}
        every = ",".join(map(str, sorted(os.sched_getaffinity(0))))
        if self.name == "vllm":
            # by itself it keeps a core for the frontend, which is half of a small machine
            more = {"VLLM_CPU_OMP_THREADS_BIND": every, "VLLM_NO_USAGE_STATS": "1"}
            return kept | more | dict(self.variables)
        shim = ROOT / "tests" / "sglang"
        kept["PYTHONPATH"] = os.pathsep.join([str(shim), str(shim / "shim")])
        kept |= {"SGLANG_USE_CPU_ENGINE": "1", "TORCHDYNAMO_DISABLE": "1"}
        kept |= {"SGLANG_CPU_OMP_THREADS_BIND": every, "OMP_NUM_THREADS": str(cores)}
        return kept | dict(self.variables)


def _speculation(name: str, draft: Path | None, steps: int) -> dict[str, Any]:
    """The arguments that name a draft."""
    if draft is None:
        return {}
    if name == "vllm":
        config = {"method": "eagle3", "model": str(draft), "num_speculative_tokens": steps}
        return {"speculative_config": json.dumps(config)}
    return {
        "speculative_algorithm": "EAGLE3",
        "speculative_draft_model_path": str(draft),
        "speculative_num_steps": steps,
        "speculative_eagle_topk": 1,
        "speculative_num_draft_tokens": steps + 1,
    }


def _words(given: Mapping[str, Any]) -> list[str]:
    """Arguments as words of a command line."""
    words: list[str] = []
    for name, value in given.items():
        option = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        else:
            words += [f"--{option}", str(value)]
    return words


class Server:
    """A running server of ours."""

    def __init__(self, process: subprocess.Popen, url: str, log: Path, seconds: float) -> None:
        """`seconds`: what it took to come up."""
        self.process, self.url, self.log, self.seconds = process, url, log, seconds

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def cpu_seconds(self) -> float:
        """CPU time of all its processes so far."""
        total = 0.0
        for process in _members(self.process.pid):
            with suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system
        return total


@contextmanager
def serving(
    engine: Engine, target: Path, log: Path, draft: Path | None = None, steps: int = 3
) -> Iterator[Server]:
    """A server with a process group of its own, up and answering; gone afterwards.

    Raises UserError, with the end of its log, if it does not come up.
    """
    if not engine.python.is_file():
        raise UserError(f"{engine.python} is missing: `make real` makes the environment")
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with ExitStack() as stack, _port() as port, open(log, "ab") as out:
        command = engine.command(target.resolve(), draft and draft.resolve(), steps, port)
        out.write(f"\n$ {' '.join(command)}\n".encode())
        out.flush()
        process = subprocess.Popen(  # noqa: S603 - our own words
            command,
            env=engine.environment(),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        url = f"http://127.0.0.1:{port}"
        stack.enter_context(watched(process, signal.SIGKILL))
        try:
            while not _answers(url):
                if process.poll() is not None:
                    raise UserError(f"{engine.name} did not start ({log}):\n{_end(log)}")
                if time.monotonic() - started > PATIENCE:
                    raise UserError(f"{engine.name} is not up after {PATIENCE:.0f} s ({log})")
                time.sleep(0.5)
            yield Server(process, url, log, time.monotonic() - started)
        finally:
            _end_group(process)


@contextmanager
def watched(process: subprocess.Popen, number: signal.Signals) -> Iterator[None]:
    """Send a signal to the group that a process leads if this one dies, however it does: kill -9
    leaves no time for it."""
    script = "import os, sys; sys.stdin.read(); os.killpg(int(sys.argv[1]), int(sys.argv[2]))"
    words = [sys.executable, "-c", script, str(process.pid), str(int(number))]
    watch = subprocess.Popen(  # noqa: S603 - our own words
        words, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield
    finally:
        watch.kill()  # its input would end now, as if this process had died
        watch.communicate()


@contextmanager
def held(folder: Path, patience: float = LEAVING) -> Iterator[int]:
    """Keep other calls out of a folder as long as this process, or one that is given the yielded
    file descriptor, lives. What a killed call has left may take `patience` seconds to end.

    SIGTERM ends the process in an orderly way, with its servers; Ctrl-C is heard by its children
    too where a shell in the background ignores it. Raises UserError if another call is at work
    there.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w", encoding="utf-8") as lock:
        until = time.monotonic() + patience
        while not _locked(lock.fileno()):
            if time.monotonic() > until:
                raise UserError(f"{folder}: another call is still at work there")
            time.sleep(0.5)
        yield lock.fileno()


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _port() -> Iterator[int]:
    """A port that nobody else is given while it is bound; a server that names it can have it."""
    with socket.socket() as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


def _answers(url: str) -> bool:
    try:
        return get(f"{url}/health") is not None
    except UserError:
        return False


def _end(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-3000:]


def _members(leader: int) -> list[psutil.Process]:
    """The processes of a group."""
    members = []
    for process in psutil.process_iter():
        with suppress(OSError, psutil.Error):
            if os.getpgid(process.pid) == leader:
                members.append(process)
    return members


def _end_group(process: subprocess.Popen) -> None:
    """Ask the group to end, and kill what is left of it."""
    members = _members(process.pid)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    psutil.wait_procs(members, timeout=10)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
