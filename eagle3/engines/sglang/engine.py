"""SGLang: its arguments, and how documents are sent through it. It is imported only when it runs.

A forward hook in its scheduler processes takes the states (`hook`)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eagle3.engines.separate.request import EngineRequest, SeparateEngine
from eagle3.errors import UserError

if TYPE_CHECKING:
    import numpy as np

HOOK = "eagle3.engines.sglang.hook:make_hook"
REQUEST_ID = "document-"  # prefix of a document's number
SPARE_CONTEXT = 8  # SGLang reserves a few positions of the context
SENT_AT_ONCE = 1024  # documents per call


def own_arguments(request: EngineRequest, longest: int, folder: Path) -> dict[str, Any]:
    """The engine arguments that the pipeline fixes; `longest`: tokens of the longest document."""
    return {
        "model_path": request.model,
        "load_format": "safetensors",
        "dtype": request.dtype,
        "trust_remote_code": request.trust_remote_code,
        "tp_size": request.tensor_parallel,
        "context_length": longest + SPARE_CONTEXT,
        "max_prefill_tokens": request.batch_tokens,
        "skip_tokenizer_init": True,
        "random_seed": 0,
        # every document runs as a whole: no cached prefix, no chunks
        "disable_radix_cache": True,
        "chunked_prefill_size": -1,
        "enable_mixed_chunk": False,
        # a replayed graph calls no hook, and a blocking hook leaves nothing to overlap
        "disable_cuda_graph": True,
        "disable_overlap_schedule": True,
        "enable_return_aux_hidden_states": True,
        "return_aux_hidden_state_layer_ids": list(request.layers),
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


SGLANG = SeparateEngine(
    name="sglang",
    title="SGLang",
    packages=("sglang",),
    oldest="0.5.23",  # the first with enable_return_aux_hidden_states
    own_arguments=own_arguments,
    # a consumer that writes a large file during the last batch must not look like a hang
    default_arguments={"log_level": "info", "watchdog_timeout": 3600},
    change_states=(
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
    ),
    # with these, no single process sees every row of every document
    hide_states=(
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
    ),
    cache_arguments="mem_fraction_static, max_total_tokens",
    program="eagle3.engines.sglang.engine:send",
)


def send(arguments: dict[str, Any], documents: Mapping[int, np.ndarray]) -> None:
    """Send every document through an engine; the hook in its schedulers takes the states.

    Raises UserError if the engine refuses its arguments.
    """
    # a document may be as long as the model's context, and SGLang needs a little more
    os.environ["SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN"] = "1"
    import sglang

    engine: Any = None
    try:
        engine = sglang.Engine(**arguments)
    except (TypeError, ValueError, AssertionError) as fault:
        raise UserError(f"SGLang refuses its arguments ({SGLANG.arguments_key}): {fault}") from None
    numbers = list(documents)
    for start in range(0, len(numbers), SENT_AT_ONCE):
        batch = numbers[start : start + SENT_AT_ONCE]
        engine.generate(
            input_ids=[documents[number].tolist() for number in batch],
            rid=[f"{REQUEST_ID}{number}" for number in batch],
            sampling_params={"max_new_tokens": 0, "temperature": 0},
        )
    engine.shutdown()
