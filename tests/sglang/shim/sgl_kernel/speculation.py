"""The bookkeeping of chain speculation (topk 1) on SGLang's paged cache.

`req_to_token` [requests, positions] holds the slot of each position; `requests` are the rows of a
batch in it. Outputs are tensors that the caller gives.
"""

import torch


def spans(starts, ends):
    """Of each request: its first and last position, and where they lie in a flat tensor."""
    at = 0
    for row, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True)):
        yield row, slice(start, end), slice(at, at + end - start)
        at += end - start


def assign_req_to_token_pool_cpu(requests, req_to_token, starts, ends, slots, _width):
    """Positions starts … ends of each request are kept in these slots."""
    for row, positions, flat in spans(starts, ends):
        req_to_token[requests[row], positions] = slots[flat].to(req_to_token.dtype)


def assign_extend_cache_locs_cpu(requests, req_to_token, starts, ends, slots, _width):
    """The slots that positions starts … ends of each request are kept in."""
    for row, positions, flat in spans(starts, ends):
        slots[flat] = req_to_token[requests[row], positions].to(slots.dtype)


def assign_draft_cache_locs_contiguous_cpu(
    requests, req_to_token, lengths, slots, width, topk, steps
):
    """The slots of the positions that the draft will write, one after the committed ones."""
    ends = lengths + topk * steps
    assign_extend_cache_locs_cpu(requests, req_to_token, lengths, ends, slots, width)


def build_draft_decode_metadata_cpu(req_to_token, requests, _lengths, topk, _steps, _width):
    """The table that draft decoding reads; a chain continues its own request."""
    chain_only(topk)
    return req_to_token[requests.long()].contiguous()


def build_tree_kernel_efficient_cpu(
    _parents, _chosen, lengths, mask, positions, index, following, sibling, topk, _depth, count,
    _mode,
):  # fmt: skip
    """A tree of one branch: token i + 1 follows token i, and nothing stands beside it."""
    chain_only(topk)
    batch, steps = len(lengths), torch.arange(count)
    mask.view(batch, count, count).copy_(torch.ones(count, count).tril().bool())
    positions.view(batch, count).copy_(lengths[:, None] + steps)
    index.copy_(torch.arange(batch * count).view(batch, count))
    following.copy_(torch.where(steps < count - 1, steps + 1, -1))
    sibling.fill_(-1)


def verify_tree_greedy_cpu(
    *, predicts, accept_index, accept_token_num, candidates, retrive_index, retrive_next_token,
    retrive_next_sibling, target_predict,
):  # fmt: skip
    """Keep the longest run of drafts that are the target's own choices, and its next choice.

    accept_index: flat places of what was kept, the first token (kept before) included.
    """
    if (retrive_next_sibling != -1).any():
        raise NotImplementedError("only chains are built here")
    for row in range(len(candidates)):
        here, kept = 0, 0
        accept_index[row, 0] = retrive_index[row, 0]
        while kept + 1 < accept_index.shape[1]:
            after = int(retrive_next_token[row, here])
            if after < 0 or candidates[row, after] != target_predict[row, here]:
                break
            predicts[retrive_index[row, here]] = target_predict[row, here].to(predicts.dtype)
            here, kept = after, kept + 1
            accept_index[row, kept] = retrive_index[row, here]
        predicts[retrive_index[row, here]] = target_predict[row, here].to(predicts.dtype)
        accept_token_num[row] = kept


def fill_bonus_tokens_cpu(tokens, lengths, bonus, stride):
    """The last token that each request kept."""
    rows = torch.arange(len(lengths)) * stride
    bonus.copy_(tokens.flatten()[rows + lengths.long() - 1])


def copy_all_layer_kv_cache_cpu(_addresses, _strides, to, source):
    """A chain never moves what it stored: only the pool's own trial comes here."""
    if not torch.equal(to, source):
        raise NotImplementedError("moving entries of the cache is not built here")


def chain_only(topk):
    if topk != 1:
        raise NotImplementedError("only chains are built here")
