"""Runs in SGLang's interpreter: load an export with SGLang's own draft class, in this process.

    python load_export.py <export> <given.safetensors> <found.safetensors> <report.json>

Every tensor is handed to the class's loader alone, over parameters that hold no number, so that it
shows what each of them filled. Then a forward of the class over given rows; only the attention
itself, which would need a scheduler's batch, is plain torch. Names inside SGLang are those of
0.5.23.
"""

import json
import os
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import linear, scaled_dot_product_attention

MISNAMED = "midlayer.hidden_layernorm.weight"


def sglang_model(folder):
    """The model as SGLang's workers build it."""
    import sglang.benchmark.one_batch as bench
    from sglang.srt.entrypoints.engine import _set_envs_and_config
    from sglang.srt.server_args import PortArgs, ServerArgs

    args = ServerArgs(
        model_path=folder,
        device="cpu",
        dtype="float32",
        attention_backend="torch_native",
        skip_tokenizer_init=True,
        disable_cuda_graph=True,
        max_total_tokens=256,
        max_running_requests=2,
        mem_fraction_static=0.3,
        log_level="error",
    )
    args.resolve_once()
    _set_envs_and_config(args)
    bench.publish(args, role="scheduler", ranks=bench.SpawnRanks(world_rank=0, gpu_id=0))
    bench._init_process_global_configs()
    bench.get_tokenizer = lambda *_a, **_k: None
    return bench.load_model(args, PortArgs.init_new(args), 0, 0)[0].torch_runner.model


def fill(model, tensors):
    """What the loader does with each tensor: names it drops, parameters that stay empty."""
    parameters = dict(model.named_parameters())
    for parameter in parameters.values():
        parameter.data.fill_(torch.nan)
    model.hot_token_id = None

    def empty():
        return sum(int(p.isnan().sum()) for p in parameters.values())

    dropped = []
    for name, tensor in tensors.items():
        before = empty()
        model.load_weights([(name, tensor)])
        if empty() == before:
            dropped.append(name)
    unfilled = [name for name, p in parameters.items() if p.isnan().any()]
    return dropped, unfilled


def attend(q, k, v, *_more, layer, **_named):
    """Causal attention of one sequence, in the place of SGLang's."""
    q = q.view(len(q), -1, layer.qk_head_dim)
    k, v = k.view(len(k), -1, layer.qk_head_dim), v.view(len(v), -1, layer.v_head_dim)
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    scale = layer.scaling
    out = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True)
    return out[0].transpose(0, 1).flatten(1)


@torch.no_grad()
def main():
    export, given, result, report = sys.argv[1:]
    model, tensors = sglang_model(export), load_file(Path(export) / "model.safetensors")
    dropped, unfilled = fill(model, tensors | {MISNAMED: tensors["norm.weight"]})
    told = {
        "class": type(model).__name__,
        "dropped": dropped,
        "unfilled": unfilled,
        "target_ids": model.hot_token_id.tolist(),
        "norm_output": bool(model.model.norm_output),
    }
    Path(report).write_text(json.dumps(told))

    rows = load_file(given)
    model.model.embed_tokens.weight.data.zero_()
    model.model.embed_tokens.weight.data[: len(rows["embedding"])] = rows["embedding"]
    for layer in model.model.layers:
        attention = layer.self_attn.attn
        attention.forward = partial(attend, layer=attention)
    batch = SimpleNamespace(spec_info=SimpleNamespace(hidden_states=rows["aux"]))
    ids, places = rows["ids"], torch.arange(len(rows["ids"]))
    embedded = model.model.embed_tokens(ids)
    normed, (handed_on,) = model.model(ids, places, batch, input_embeds=embedded)
    head = model.lm_head.weight[: model.config.draft_vocab_size]
    save_file({"logits": linear(normed, head), "handed_on": handed_on.contiguous()}, result)


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # without the teardown of a process group of one
