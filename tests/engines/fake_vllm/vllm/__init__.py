"""As much of vLLM as the capture touches, without a model: state k of a token is k plus its id.

The argument `fake` chooses what goes wrong.
"""

import importlib
import os
import signal
import subprocess
from types import SimpleNamespace

import torch

BLOCK, BLOCKS, HIDDEN = 4, 64, 32
LAYER = "cache_only_layers.8"


class SamplingParams:
    def __init__(self, max_tokens, temperature, detokenize, extra_args):
        assert (max_tokens, temperature, detokenize) == (1, 0.0, False)
        self.extra_args = extra_args


class EngineArgs:
    def __init__(self, **arguments):
        self.arguments = arguments

    def create_model_config(self):
        known = self.arguments.get("fake") != "unknown"
        return SimpleNamespace(architectures=["Known" if known else "Unknown"])


class ModelRegistry:
    @staticmethod
    def resolve_model_cls(architectures, config):
        return type(architectures[0], (), {"known": architectures[0] == "Known"}), None


class LLM:
    """One process: its scheduler and its worker, each with a connector."""

    def __init__(self, *, speculative_config, kv_transfer_config, fake="", **others):
        if fake == "refuses":
            raise ValueError(
                "1 validation error for ModelConfig\n  Value error, no such model. Known are: a, b "
                "[type=value_error, input_value=…]"
            )
        self.fake = fake
        ids = speculative_config["draft_model_config"]["hf_config"]
        self.count = len(ids["eagle_aux_hidden_state_layer_ids"])
        store = torch.distributed.HashStore()
        torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
        module = importlib.import_module(kv_transfer_config["kv_connector_module_path"])
        extra = kv_transfer_config["kv_connector_extra_config"]
        config = SimpleNamespace(
            kv_transfer_config=SimpleNamespace(get_from_extra_config=lambda n, _: extra[n])
        )
        attention = SimpleNamespace(layer_names=["model.layers.0"], kv_cache_spec=None)
        size = BLOCK * 2 if fake == "sizes" else BLOCK
        own = SimpleNamespace(layer_names=[LAYER], kv_cache_spec=SimpleNamespace(block_size=size))
        groups = SimpleNamespace(
            kv_cache_groups=[attention] if fake == "no cache" else [attention, own]
        )
        make = getattr(module, kv_transfer_config["kv_connector"])
        self.scheduler, self.worker = (
            make(config, role, groups) for role in ("scheduler", "worker")
        )
        # the null block is never a document's
        self.cache = torch.full((BLOCKS, self.count, BLOCK, HIDDEN), torch.nan)
        self.worker.register_kv_caches({LAYER: self.cache, "model.layers.0": torch.empty(0)})
        self.other = subprocess.Popen(["sleep", "600"])

    def generate(self, prompts, sampling, use_tqdm):
        if self.fake == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        sent = list(zip(prompts, sampling, strict=True))
        sent = sent[:-1] if self.fake == "forgets" else sent
        if self.fake == "twice":
            sent.append(sent[0])
        for first in range(0, len(sent), 2):
            self.step([(p["prompt_token_ids"], s) for p, s in sent[first : first + 2]])

    def step(self, documents):
        """A prefill of some documents, in blocks that are not in order."""
        free, new, scheduled = list(range(BLOCKS - 1, 0, -2)), [], {"warm-up": 1}
        warm = SimpleNamespace(
            req_id="warm-up", sampling_params=SamplingParams(1, 0.0, False, None)
        )
        for number, (ids, sampling) in enumerate(documents):
            blocks = [free.pop(0) for _ in range(0, len(ids), BLOCK)]
            for place, token in enumerate(ids):
                for k in range(self.count):
                    self.cache[blocks[place // BLOCK], k, place % BLOCK] = k + float(token)
            name = str(number)
            cached = 1 if self.fake == "caches" else 0
            scheduled[name] = len(ids) - cached - (1 if self.fake == "chunks" else 0)
            reported = [*ids[1:], 0] if self.fake == "other ids" else ids
            new.append(
                SimpleNamespace(
                    req_id=name,
                    prompt_token_ids=reported,
                    sampling_params=sampling,
                    num_computed_tokens=cached,
                    block_ids=([0], blocks),
                )
            )
        output = SimpleNamespace(scheduled_new_reqs=[warm, *new], num_scheduled_tokens=scheduled)
        self.worker.bind_connector_metadata(self.scheduler.build_connector_meta(output))
        if self.fake != "skips":
            self.worker.save_kv_layer(LAYER, self.cache, None)
        self.worker.wait_for_save()
        self.worker.clear_connector_metadata()
        assert self.scheduler.request_finished_all_groups(None, ([0], [1])) == (False, None)
