"""As much of SGLang as the capture touches, without a model: every state is its token's id.

The argument `fake` chooses what goes wrong.
"""

import importlib
import os
import signal
import subprocess
from types import SimpleNamespace

import torch

HIDDEN = 4


def result_of(input_ids, layers):
    """What a logits processor returns for a batch: aux [T, C H] and last [T, H]."""
    last = input_ids[:, None].float().expand(-1, HIDDEN)
    return SimpleNamespace(hidden_states=last.repeat(1, layers), last_hidden_states=last)


def batch_of(names, lengths, prefixes=None, extend=True):
    """SGLang's ForwardBatch, as far as a hook looks at it."""
    return SimpleNamespace(
        rids=names,
        extend_seq_lens_cpu=lengths,
        extend_prefix_lens_cpu=prefixes or [0] * len(lengths),
        forward_mode=SimpleNamespace(is_extend=lambda: extend),
    )


class Engine:
    def __init__(self, *, forward_hooks, return_aux_hidden_state_layer_ids, fake="", **others):
        if fake == "refuses":
            raise TypeError("unexpected keyword argument")
        self.fake, self.layers = fake, len(return_aux_hidden_state_layer_ids)
        store = torch.distributed.HashStore()
        torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
        module, name = forward_hooks[0]["hook_factory"].split(":")
        config = forward_hooks[0]["config"]
        self.hook = getattr(importlib.import_module(module), name)(config)
        self.scheduler = subprocess.Popen(["sleep", "600"])

    def generate(self, input_ids, rid, sampling_params):
        assert sampling_params["max_new_tokens"] == 0
        if self.fake == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        sent = list(zip(rid, input_ids, strict=True))
        for name, ids in sent[:-1] if self.fake == "forgets" else sent:
            tokens = torch.tensor(ids)
            inputs = (tokens, None, None, batch_of([name], [len(ids)]))
            self.hook(None, inputs, result_of(tokens, self.layers))

    def shutdown(self):
        """Leaves its process behind, which the real one would not."""
