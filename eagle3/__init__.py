"""Offline EAGLE-3 draft training: the library. It does not depend on Snakemake.

    import eagle3

    run = eagle3.load_run("results/demo")
    draft, vocabulary = eagle3.load_draft("results/demo")

Names are imported when they are used (PEP 562): importing the package imports nothing else. They
are listed as text, so that the digest of a stage's code does not follow them.
"""

from importlib import import_module

__version__ = "0.1.0"
_PLACES = {
    "Config": "config.configuration",
    "Run": "run",
    "UserError": "errors",
    "load_config": "api",
    "load_draft": "api",
    "load_run": "api",
    "load_states": "api",
    "load_tokens": "api",
}
__all__ = ["__version__", *_PLACES]  # noqa: PLE0604 - names of a table


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module 'eagle3' has no attribute {name!r}")
    return getattr(import_module(f"eagle3.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
