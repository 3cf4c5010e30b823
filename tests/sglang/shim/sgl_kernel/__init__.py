"""Names of the CPU kernels that SGLang imports on a CPU: the published wheel holds CUDA ones only.

A text model's prefill without AMX instructions runs on plain torch and calls none of them.
"""


def __getattr__(name):
    if not name.endswith("_cpu"):
        raise AttributeError(name)

    def missing(*_arguments, **_named):
        raise NotImplementedError(f"sgl_kernel.{name} is not built here")

    return missing
