"""What our job and the engine's processes exchange: the files of one temporary folder.

    request.json   the SGLangRequest
    documents.npy  int64 [D, 2]: number and length of each document, in the order of sending
    ids.npy        int32 [T]: their tokens, one document after another
    seen.txt       the numbers of the documents that the consumer has taken
    fault.txt      one sentence, if something failed

Imports only the standard library at first: the interpreter that runs the engine may have nothing
else, which must be reported in a sentence.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eagle3.errors import UserError

if TYPE_CHECKING:
    import numpy as np

ARGUMENTS_KEY = "resources.capture.sglang_arguments"
HOOK = "eagle3.engines.sglang.hook:make_hook"
REQUEST_ID = "document-"  # in front of a document's number
SPARE_CONTEXT = 8  # SGLang keeps a few positions of the context for itself
# Engine arguments (shell patterns) that would change the states, ...
CHANGE_STATES = (
    "*quant*",
    "kv_cache_dtype",
    "speculative_*",
    "*lora*",
    "json_model_override_args",
    "decrypted_config_file",
    "custom_weight_loader",
    "rl_on_policy_target",
    "mamba_ssm_dtype",
    "kt_*",
    "dllm_*",
)
# ... and those under which no single process sees every row of every document.
HIDE_STATES = (
    "*[dpc]p_size",
    "enable_dp_*",
    "enable_prefill_cp",
    "nnodes",
    "node_rank",
    "use_ray",
    "disaggregation_*",
    "enable_two_batch_overlap",
    "cuda_graph_*",
    "*hidden_state*",
    "server_args",
)


@dataclass(frozen=True)
class SGLangRequest:
    """One run of an SGLang engine. Raises UserError for engine arguments that must not be given."""

    model: str  # a Hugging Face directory
    layers: Sequence[int]  # 0-based decoder layers whose outputs are captured, ascending
    dtype: str  # float32, bfloat16, float16 or auto
    trust_remote_code: bool
    tensor_parallel: int
    batch_tokens: int  # of one prefill; a longer document runs alone
    arguments: Mapping[str, Any]  # more of the engine's own arguments, by their Python names
    consumer: str  # "module:function" that makes what takes the states
    consumer_arguments: Mapping[str, Any]  # JSON-able, passed to that function by name

    def __post_init__(self) -> None:
        own = self.own_arguments(0, Path())
        for name in self.arguments:
            if name in own:
                cause = "is set by the pipeline itself"
            elif any(fnmatchcase(name, pattern) for pattern in CHANGE_STATES):
                cause = "would change the states"
            elif any(fnmatchcase(name, pattern) for pattern in HIDE_STATES):
                cause = "would keep rows of the states from the capture"
            else:
                continue
            raise UserError(f"{ARGUMENTS_KEY}.{name} {cause}; remove it")

    def own_arguments(self, longest: int, folder: Path) -> dict[str, Any]:
        """The engine arguments that are not open to choice; `longest`: tokens of a document."""
        return {
            "model_path": self.model,
            "load_format": "safetensors",
            "dtype": self.dtype,
            "trust_remote_code": self.trust_remote_code,
            "tp_size": self.tensor_parallel,
            "context_length": longest + SPARE_CONTEXT,
            "max_prefill_tokens": self.batch_tokens,
            "skip_tokenizer_init": True,
            "random_seed": 0,
            # every document runs as a whole: no cached beginning, no chunks
            "disable_radix_cache": True,
            "chunked_prefill_size": -1,
            "enable_mixed_chunk": False,
            # a replayed graph calls no hook, and a blocking hook leaves nothing to overlap
            "disable_cuda_graph": True,
            "disable_overlap_schedule": True,
            "enable_return_aux_hidden_states": True,
            "return_aux_hidden_state_layer_ids": list(self.layers),
            "speculative_algorithm": "EAGLE3",  # names the convention; no draft is loaded
            "forward_hooks": [
                {
                    "name": "capture",
                    "target_modules": ["*logits_processor"],
                    "hook_factory": HOOK,
                    "config": {"folder": str(folder)},
                }
            ],
        }

    def engine_arguments(self, longest: int, folder: Path) -> dict[str, Any]:
        """Every argument of the engine: defaults, the user's, our own."""
        # a consumer that writes a large file during the last batch must not look like a hang
        defaults = {"log_level": "info", "watchdog_timeout": 3600}
        return {**defaults, **self.arguments, **self.own_arguments(longest, folder)}

    def write(self, folder: Path) -> None:
        """Raises TypeError if the arguments are not JSON-able."""
        (folder / "request.json").write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> SGLangRequest:
        return cls(**json.loads((folder / "request.json").read_text(encoding="utf-8")))


def write_documents(folder: Path, documents: Mapping[int, Sequence[int] | np.ndarray]) -> None:
    """Store documents by number, the longest first, so that a batch holds similar lengths."""
    import numpy as np

    order = sorted(documents, key=lambda number: (-len(documents[number]), number))
    listed = np.array([(n, len(documents[n])) for n in order], dtype=np.int64).reshape(-1, 2)
    parts = [np.asarray(documents[n], dtype=np.int32) for n in order]
    np.save(folder / "documents.npy", listed)
    np.save(folder / "ids.npy", np.concatenate([np.empty(0, np.int32), *parts]))


def read_documents(folder: Path) -> dict[int, np.ndarray]:
    """int32 [L] of each document, in the order of sending."""
    import numpy as np

    listed, ids = np.load(folder / "documents.npy"), np.load(folder / "ids.npy")
    pieces = np.split(ids, np.cumsum(listed[:-1, 1]))
    return dict(zip(listed[:, 0].tolist(), pieces, strict=True))


def note_seen(folder: Path, documents: Sequence[int]) -> None:
    with open(folder / "seen.txt", "a", encoding="utf-8") as file:
        file.writelines(f"{number}\n" for number in documents)


def read_seen(folder: Path) -> set[int]:
    path = folder / "seen.txt"
    return {int(line) for line in path.read_text().split()} if path.exists() else set()


@contextmanager
def fault_noted(folder: Path) -> Iterator[None]:
    """Pass the first fault to our job as one sentence, and let it rise further."""
    try:
        yield
    except BaseException as fault:
        text = str(fault)
        if not isinstance(fault, UserError):
            first = (text.splitlines() or [""])[0]
            text = f"the capture failed inside SGLang: {type(fault).__name__}: {first}"
        with suppress(FileExistsError), open(folder / "fault.txt", "x", encoding="utf-8") as file:
            file.write(text)
        raise


def read_fault(folder: Path) -> str | None:
    path = folder / "fault.txt"
    return path.read_text(encoding="utf-8") if path.exists() else None
