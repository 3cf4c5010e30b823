"""Names of the CPU kernels that SGLang imports on a CPU: the published wheel holds CUDA ones only.

A text model's prefill without AMX instructions runs on plain torch and calls none of them; chain
speculation calls those of `speculation` and `attention`, written here in plain torch from what
their callers do with the results. `convert_weight_packed` must stay away: without it SGLang takes
the paths that need no AMX.
"""

from sgl_kernel import attention as _attention
from sgl_kernel.speculation import (  # noqa: F401
    assign_draft_cache_locs_contiguous_cpu,
    assign_extend_cache_locs_cpu,
    assign_req_to_token_pool_cpu,
    build_draft_decode_metadata_cpu,
    build_tree_kernel_efficient_cpu,
    copy_all_layer_kv_cache_cpu,
    fill_bonus_tokens_cpu,
    verify_tree_greedy_cpu,
)

_attention.install()


def __getattr__(name):
    if not name.endswith("_cpu"):
        raise AttributeError(name)

    def missing(*_arguments, **_named):
        raise NotImplementedError(f"sgl_kernel.{name} is not built here")

    return missing
