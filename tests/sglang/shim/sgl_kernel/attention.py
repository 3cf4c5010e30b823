"""Attention over SGLang's paged cache, one request after the other.

`req_to_token` [requests, positions] holds the slot of each position; buffers are
[slots, kv heads, width].
"""

import torch
from torch.nn.functional import scaled_dot_product_attention


def install():
    """Where SGLang's CPU backend looks for its kernels."""
    torch.ops.sgl_kernel.decode_attention_cpu = decode
    torch.ops.sgl_kernel.extend_attention_cpu = extend


def refuse(logit_cap, cross, window, sinks, mask=None):
    """Nothing of this is in the models of the tests."""
    if logit_cap or cross or window > 0 or sinks is not None or mask is not None:
        raise NotImplementedError("only plain causal attention is built here")


def one(q, keys, values, slots, scaling):
    """The last len(q) positions of a request attend to all positions up to their own."""
    keys, values = keys[slots], values[slots]  # [S, kv, d]
    last = torch.arange(len(slots) - len(q), len(slots))
    seen = torch.arange(len(slots)) <= last[:, None]  # [n, S]
    q, keys, values = (x.transpose(0, 1)[None] for x in (q, keys, values))
    out = scaled_dot_product_attention(
        q, keys, values, attn_mask=seen, scale=scaling, enable_gqa=True
    )
    return out[0].transpose(0, 1)


def decode(
    q, key_buffer, value_buffer, _k_scale, _v_scale, out, k, v, places, _scratch,
    req_to_token, requests, lengths, scaling, logit_cap, cross, window, _encoder, sinks,
):  # fmt: skip
    """One new position for each request, whose key and value are stored first."""
    refuse(logit_cap, cross, window, sinks)
    key_buffer[places], value_buffer[places] = (
        k.view(-1, *key_buffer.shape[1:]),
        v.view(-1, *value_buffer.shape[1:]),
    )
    for row, (request, length) in enumerate(zip(requests, lengths.tolist(), strict=True)):
        slots = req_to_token[request, :length].long()
        out[row] = one(q[row : row + 1], key_buffer, value_buffer, slots, scaling)[0]


def extend(
    q, _k, _v, out, key_buffer, value_buffer, _k_scale, _v_scale,
    req_to_token, requests, lengths, added, starts, _longest, scaling, logit_cap, cross, window,
    _encoder, sinks, mask, causal,
):  # fmt: skip
    """Several new positions for each request; their keys and values are stored already."""
    refuse(logit_cap, cross, window, sinks, mask)
    if not causal:
        raise NotImplementedError("only causal attention is built here")
    for request, length, n, start in zip(
        requests, lengths.tolist(), added.tolist(), starts.tolist(), strict=True
    ):
        slots, rows = req_to_token[request, :length].long(), slice(start, start + n)
        out[rows] = one(q[rows], key_buffer, value_buffer, slots, scaling)
