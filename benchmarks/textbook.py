"""A plain EAGLE-3 training step, as in published code, with the same result as the engine.

Padded batches, every row at every step, whole 2H projections at each step, dense masks, the
target's head over its whole vocabulary, logits of all steps kept by autograd.
"""

from __future__ import annotations

import torch

from eagle3.draft.model import Eagle3Draft
from eagle3.objective.losses import step_weights
from eagle3.objective.pack import Pack
from eagle3.objective.rows import step_rows
from eagle3.objective.ttt import TargetParts
from eagle3.target_model.reader import Head


class Textbook:
    """A batch of B documents of length S, prepared once."""

    def __init__(self, pack: Pack, target: TargetParts, head: Head, steps: int) -> None:
        """`head`: the target's whole one."""
        self.steps, self.target, self.head = steps, target, head
        batch, length = int(pack.documents[-1]) + 1, int(pack.positions.max()) + 1
        size, device = batch * length, pack.aux.device
        self.shape = (batch, length)
        self.ids = pack.input_ids.view(batch, length)

        def spread(values: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
            out = values.new_zeros(size, *values.shape[1:])
            out[tokens] = values
            return out.view(batch, length, *values.shape[1:])

        self.aux = spread(pack.aux, pack.row_tokens)
        self.last = spread(pack.last, pack.last_tokens)
        self.argmax = spread(pack.teacher_argmax, pack.last_tokens)
        in_vocab = target.draft_ids >= 0
        plan = step_rows(pack.input_ids, pack.loss_mask, pack.documents, in_vocab, steps)
        self.active = []
        for slots in plan.slots:
            flat = torch.zeros(size, dtype=torch.bool, device=device)
            flat[plan.tokens[slots]] = True
            self.active.append(flat.view(batch, length))
        self.chosen = in_vocab.nonzero().flatten()

    def loss(self, draft: Eagle3Draft, decay: float) -> torch.Tensor:
        """The sum that `ttt_loss` returns."""
        batch, length = self.shape
        config, attn = draft.config, draft.midlayer.self_attn
        with torch.no_grad():
            logits = self.head.exact_logits(self.last)  # [B, S, V]
            teacher = logits[..., self.chosen].softmax(-1)  # [B, S, V_draft]
        position = torch.arange(length, device=self.ids.device).repeat(batch)
        future = torch.ones(length, length, dtype=torch.bool, device=self.ids.device).triu(1)
        hidden = draft.project_aux(self.aux.to(draft.fc.weight.dtype))
        keys: list[torch.Tensor] = []
        values: list[torch.Tensor] = []
        repeat = config.num_attention_heads // config.num_key_value_heads
        total = hidden.new_zeros((), dtype=torch.float32)
        for k, weight in enumerate(step_weights(self.steps, decay)):
            ids = self.ids.roll(-1 - k, 1)
            x = draft.layer_input(self.target.embedding[ids].flatten(0, 1), hidden.flatten(0, 1))
            q = draft.queries(x, position + k).view(batch, length, -1, config.head_dim)
            key, value = draft.keys_values(x, position + k)
            for cache, new in ((keys, key), (values, value)):
                heads = new.view(batch, length, -1, config.head_dim).repeat_interleave(repeat, 2)
                cache.append(heads.transpose(1, 2))
            q = q.transpose(1, 2) * config.head_dim**-0.5  # [B, h, S, d]
            scores = (q @ keys[0].mT).masked_fill(future, float("-inf"))
            own_scores = [(q * heads).sum(-1, keepdim=True) for heads in keys[1:]]
            share = torch.cat([scores, *own_scores], -1).float().softmax(-1).to(q.dtype)
            out = share[..., :length] @ values[0]
            for i, heads in enumerate(values[1:]):
                out = out + share[..., length + i : length + i + 1] * heads
            h = hidden + attn.o_proj(out.transpose(1, 2).flatten(2))
            hidden = h + draft.midlayer.mlp(draft.midlayer.post_attention_layernorm(h))
            log_q = draft.logits(hidden).float().log_softmax(-1)  # [B, S, V_draft]
            target_choice = self.target.draft_ids[self.argmax.roll(-1 - k, 1)]
            rows = self.active[k] & (target_choice >= 0)
            p = teacher.roll(-1 - k, 1)
            total = total - weight * ((p * log_q).sum(-1) * rows).sum()
            with torch.no_grad():  # the usual metric
                (log_q.argmax(-1) == target_choice)[rows].sum()
        return total
