"""The objective written the slow, obvious way: one document, one row, one step at a time.

Nothing is shared with the library but the weights: norms, rotation, attention, losses and row
sets are spelled out again, in float64, from the definition.
"""

from __future__ import annotations

import torch


def rms_norm(x, gain, eps):
    return x / torch.sqrt((x * x).mean() + eps) * gain


def rotated(vector, position, inv_freq):
    """One head turned by its position."""
    half = len(vector) // 2
    out = []
    for i in range(half):
        angle = torch.tensor(float(position), dtype=vector.dtype) * inv_freq[i].to(vector.dtype)
        out.append(vector[i] * torch.cos(angle) - vector[i + half] * torch.sin(angle))
    for i in range(half):
        angle = torch.tensor(float(position), dtype=vector.dtype) * inv_freq[i].to(vector.dtype)
        out.append(vector[i + half] * torch.cos(angle) + vector[i] * torch.sin(angle))
    return torch.stack(out)


def prefix_of(layer):
    return "midlayer." if layer == 0 else f"layers.{layer}."


class SlowDraft:
    """One row at a time, from a dict of weights named as in the checkpoint."""

    def __init__(self, weights, config, inv_freq):
        self.w, self.c, self.inv_freq = weights, config, inv_freq

    def project(self, name, x, heads, position, layer):
        d = self.c.head_dim
        y = self.w[f"{prefix_of(layer)}self_attn.{name}.weight"] @ x
        rows = [y[h * d : (h + 1) * d] for h in range(heads)]
        if self.c.qk_norm and name != "v_proj":
            gain = self.w[f"{prefix_of(layer)}self_attn.{name[0]}_norm.weight"]
            rows = [rms_norm(r, gain, self.c.rms_norm_eps) for r in rows]
        return rows if position is None else [rotated(r, position, self.inv_freq) for r in rows]

    def project_aux(self, aux):
        if self.c.fc_norm:
            size = self.c.hidden_size
            layers = range(len(self.c.aux_layers))
            parts = [aux[i * size : (i + 1) * size] for i in layers]
            gains = [self.w[f"fc_norm.{i}.weight"] for i in layers]
            eps = self.c.rms_norm_eps
            aux = torch.cat([rms_norm(p, g, eps) for p, g in zip(parts, gains, strict=True)])
        return self.w["fc.weight"] @ aux

    def layer_input(self, embedding, hidden, layer):
        eps = self.c.rms_norm_eps
        if layer > 0:
            return rms_norm(hidden, self.w[f"layers.{layer}.input_layernorm.weight"], eps)
        left = rms_norm(embedding, self.w["midlayer.input_layernorm.weight"], eps)
        right = rms_norm(hidden, self.w["midlayer.hidden_norm.weight"], eps)
        return torch.cat([left, right])

    def key_value(self, x, position, layer):
        kv = self.c.num_key_value_heads
        keys = self.project("k_proj", x, kv, position, layer)
        return keys, self.project("v_proj", x, kv, None, layer)

    def attend(self, x, position, pairs, layer):
        """`pairs`: list of (keys per kv head, values per kv head, position)."""
        if self.c.sliding_window is not None:
            pairs = [pair for pair in pairs if position - pair[2] < self.c.sliding_window]
        heads, kv = self.c.num_attention_heads, self.c.num_key_value_heads
        out = []
        for h, q in enumerate(self.project("q_proj", x, heads, position, layer)):
            shared = h // (heads // kv)
            scores = torch.stack([(q @ k[shared]) / self.c.head_dim**0.5 for k, _, _ in pairs])
            share = torch.softmax(scores, 0)
            out.append(sum(s * v[shared] for s, (_, v, _) in zip(share, pairs, strict=True)))
        return self.w[f"{prefix_of(layer)}self_attn.o_proj.weight"] @ torch.cat(out)

    def finish(self, hidden, attended, layer):
        prefix = prefix_of(layer)
        if self.c.norm_before_residual and layer == 0:
            gain = self.w["midlayer.hidden_norm.weight"]
            hidden = rms_norm(hidden, gain, self.c.rms_norm_eps)
        h = hidden + attended
        y = rms_norm(h, self.w[f"{prefix}post_attention_layernorm.weight"], self.c.rms_norm_eps)
        gate = self.w[f"{prefix}mlp.gate_proj.weight"] @ y
        up = self.w[f"{prefix}mlp.up_proj.weight"] @ y
        return h + self.w[f"{prefix}mlp.down_proj.weight"] @ (gate * torch.sigmoid(gate) * up)

    def run(self, embedding, hidden, position, before):
        """A row through all layers: its output, and what it adds to each layer's pairs.

        `before`: of each layer, the pairs that it attends to in addition to its own.
        """
        own = []
        for layer in range(self.c.num_hidden_layers):
            x = self.layer_input(embedding, hidden, layer)
            own.append((*self.key_value(x, position, layer), position))
            attended = self.attend(x, position, [*before[layer], own[-1]], layer)
            hidden = self.finish(hidden, attended, layer)
        return hidden, own

    def normed(self, out):
        return rms_norm(out, self.w["norm.weight"], self.c.rms_norm_eps)


def active_at(t, k, mask, ids, in_vocab):
    """The definition of an active row, word by word."""
    if any(p >= len(mask) or not mask[p] for p in range(t + 1, t + 3 + k)):
        return False
    return all(in_vocab[ids[p]] for p in range(t + 2, t + 2 + k))


def slow_loss(
    slow, doc, embedding, head, draft_ids, full_argmax, steps, decay, active_rows="reachable"
):
    """sum_k w_k sum_t l(t, k) of one document, and by step the rows that are trained, and those
    of them that serving can reach and on which the draft chooses as the target does.

    doc: ids, mask, aux [L, C H], last [L, H]; head [V_draft, H]; full_argmax [L] target ids.
    """
    ids, mask = doc["ids"], doc["mask"]
    in_vocab = [bool(d >= 0) for d in draft_ids]
    enough = in_vocab if active_rows == "reachable" else [True] * len(in_vocab)
    length = len(ids)
    weights = [decay**k for k in range(steps)]
    weights = [w / sum(weights) for w in weights]
    fused = [slow.project_aux(doc["aux"][t]) for t in range(length - 1)]
    layers = range(slow.c.num_hidden_layers)
    first, step0 = [], [[] for _ in layers]  # each row's output at step 0; pairs of each layer
    for t in range(length - 1):
        out, own = slow.run(embedding[ids[t + 1]], fused[t], t, step0)
        first.append(out)
        for layer in layers:
            step0[layer].append(own[layer])
    total, trained, correct = 0.0, [0] * steps, [0] * steps
    for t in range(length - 1):
        hidden, later = None, [[] for _ in layers]
        for k in range(steps):
            if not active_at(t, k, mask, ids, enough):
                break
            out = first[t]
            if k > 0:
                before = [step0[layer][: t + 1] + later[layer] for layer in layers]
                out, own = slow.run(embedding[ids[t + 1 + k]], hidden, t + k, before)
                for layer in layers:
                    later[layer].append(own[layer])
            hidden = slow.normed(out) if slow.c.norm_output else out
            answer = int(draft_ids[full_argmax[t + 1 + k]])
            if answer < 0:
                continue
            p = torch.softmax(head @ doc["last"][t + 1 + k], 0)
            q = torch.log_softmax(slow.w["lm_head.weight"] @ slow.normed(out), 0)
            total = total - weights[k] * (p * q).sum()
            trained[k] += 1
            correct[k] += int(q.argmax()) == answer and active_at(t, k, mask, ids, in_vocab)
    return total, trained, correct
