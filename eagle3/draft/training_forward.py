"""The draft's forward pass in training: the embedding's half of q, k and v is computed once.

q, k and v of the first layer read cat(norm(embedding), norm(hidden)). The embedding's half depends
only on the token, so its product is computed once per token and looked up at each TTT step, when
another row reads the token; only the hidden half is multiplied again. The sum is rotated, so this
is exact.

    step 0   row t reads token t + 1        q = E[t + 1] + H[t] W
    step 1   row t reads token t + 2        q = E[t + 2] + H'[t] W        same E, other rows

E is float32 at least, and so is the sum of its gradients over the steps.
"""

from __future__ import annotations

import torch

from eagle3.draft.model import Eagle3Draft
from eagle3.draft.rope import angles
from eagle3.draft.training_layer import EmbeddingProjections, MixedLinear, TrainingLayer
from eagle3.kernels.fused_ops import at_least_fp32, rms_norm


class TrainingDraft:
    """A draft's weights as one pack uses them; gradients reach the parameters of the draft."""

    def __init__(self, draft: Eagle3Draft, dtype: torch.dtype, positions: int) -> None:
        """`dtype`: of products and stored activations; positions are 0..positions-1."""
        self.config, self.dtype, self.norm = draft.config, dtype, draft.norm
        exact = at_least_fp32(draft.fc.weight.detach()).dtype
        all_positions = torch.arange(positions, device=draft.fc.weight.device)
        rotary = angles(all_positions, draft.inv_freq, draft.rope_scaling, exact)
        width = self.config.hidden_size
        self.input_norm, attn = draft.midlayer.input_layernorm, draft.midlayer.self_attn
        stacked = torch.cat((attn.q_proj.weight, attn.k_proj.weight, attn.v_proj.weight))
        embedding_half, hidden_half = stacked.split(width, dim=1)
        self.qkv_embedding = MixedLinear.of(embedding_half.contiguous(), dtype)
        hidden_qkv = [hidden_half.contiguous()]
        for layer in draft.decoder_layers[1:]:
            attn = layer.self_attn
            weights = attn.q_proj.weight, attn.k_proj.weight, attn.v_proj.weight
            hidden_qkv.append(torch.cat(weights))
        self.layers = [
            TrainingLayer(self.config, layer, MixedLinear.of(qkv, dtype), rotary)
            for layer, qkv in zip(draft.decoder_layers, hidden_qkv, strict=True)
        ]
        self.query_width = self.layers[0].query_width
        self.fc = MixedLinear.of(draft.fc.weight, dtype)
        self.fc_gains = None
        if self.config.fc_norm:
            self.fc_gains = torch.stack([*draft.fc_norm.parameters()])  # [C, H]
        self.head = MixedLinear.of(draft.lm_head.weight, dtype)
        # for the loss, which returns its gradient: a shared one would be kept until the end
        self.head_weight = draft.lm_head.weight

    def project_aux(self, aux: torch.Tensor) -> torch.Tensor:
        """aux [T, C H] -> g [T, H]"""
        aux = aux.to(self.dtype)
        if self.fc_gains is not None:
            chunks = aux.unflatten(-1, (-1, self.config.hidden_size))
            aux = rms_norm(chunks, self.fc_gains, self.config.rms_norm_eps).flatten(1)
        return self.fc(aux)

    def project_embeddings(
        self, embedding: torch.Tensor, taught: torch.Tensor
    ) -> EmbeddingProjections:
        """The embedding's half, for embeddings [T, H] of the tokens that rows read at step 0.
        `taught` int64 [R]: those that later steps read too (see `objective.row_index`)."""
        norm = self.input_norm
        normed = rms_norm(embedding.to(self.dtype), norm.weight, norm.eps)
        if len(self.layers) > 1:
            return EmbeddingProjections.of_all(self.qkv_embedding(normed), self.query_width, taught)
        q = self.qkv_embedding.rows(0, self.query_width)(normed.index_select(0, taught))
        kv = self.qkv_embedding.rows(self.query_width, len(self.qkv_embedding.narrow))(normed)
        kv = at_least_fp32(kv)
        both = at_least_fp32(q), kv.index_select(0, taught)
        return EmbeddingProjections.of(kv, torch.cat(both, dim=1))

    def finish(self, hidden: torch.Tensor) -> torch.Tensor:
        """Output of the last layer [N, H] -> hidden of the next step [N, H]"""
        return self._normed_output(hidden) if self.config.norm_output else hidden

    def head_input(self, hidden: torch.Tensor) -> torch.Tensor:
        """Input of the head, from a hidden state [N, H] that `finish` returned."""
        return hidden if self.config.norm_output else self._normed_output(hidden)

    def _normed_output(self, out: torch.Tensor) -> torch.Tensor:
        return rms_norm(out, self.norm.weight, self.norm.eps)
