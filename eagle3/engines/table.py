"""The engines that can run a target for its states: what jobs, checks and rules need to know.

Imports no torch: used before any job, and by the engines' own interpreters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from eagle3.engines.sglang.engine import SGLANG
from eagle3.engines.vllm.engine import VLLM
from eagle3.errors import UserError
from eagle3.target_model.split import check_head_groups, check_transformers


@dataclass(frozen=True)
class Engine:
    """One value of hidden_states.backend."""

    title: str  # as its makers spell it
    environment: str  # envs/<environment>.yaml, its image, and the key of resources.containers
    check_ranks: Callable[[Any, int, str], None]  # of text configuration, ranks and title
    last_layer: bool = True  # whether it returns the output of the last layer
    reads_final_norm: bool = False  # whether it uses target.final_norm_key
    in_job: bool = False  # runs in the job's own processes, else in separate ones

    def check_layers(self, layers: Sequence[int], num_layers: int) -> None:
        """Raise UserError for a layer, 0-based, whose output the engine cannot return."""
        if max(layers) == num_layers - 1 and not self.last_layer:
            raise UserError(
                f"hidden_states.aux_layers is {list(layers)}; {self.title} cannot return the "
                f"output of the last layer: use layers below {num_layers - 1}, or backend hf"
            )


# engines that run in separate processes
SEPARATE = {engine.name: engine for engine in (SGLANG, VLLM)}
ENGINES = {
    "hf": Engine("transformers", "eagle3", check_transformers, in_job=True),
    "sglang": Engine(SGLANG.title, SGLANG.name, check_head_groups, last_layer=False),
    "vllm": Engine(VLLM.title, VLLM.name, check_head_groups, reads_final_norm=True),
}
