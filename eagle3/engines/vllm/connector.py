"""The part that runs inside vLLM: a KV connector that hands over the states of every prefill.

vLLM makes one for its scheduler, which knows the documents of a step and the blocks of the cache
that they fill, and one for each worker, a tensor-parallel rank, which has the cache. Every rank has
the same states, so only the first one takes them. Only documented methods of `KVConnectorBase_V1`
are used, and no state is written to a file between vLLM and the consumer.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorMetadata,
    KVConnectorRole,
    SupportsHMA,
)

from eagle3.engines.separate.intake import OTHER_ENGINE, Intake
from eagle3.engines.separate.request import EngineRequest, fault_noted
from eagle3.engines.vllm.engine import DOCUMENT, FOLDER, VLLM, captured_inputs
from eagle3.errors import UserError
from eagle3.target_model.final_norm import load_final_norm

CACHE = "cache_only_layers."  # in the name of the layer that stores the states


@dataclass(frozen=True)
class Prefill:
    """One document of a step."""

    document: int
    ids: list[int]
    cached: int  # tokens that do not run
    scheduled: int  # tokens that run in this step
    blocks: list[int]  # of the cache, in the order of the tokens


@dataclass
class Prefills(KVConnectorMetadata):  # type: ignore[misc] # not installed here
    """What the scheduler tells the workers about a step."""

    documents: list[Prefill] = field(default_factory=list)


class StatesConnector(KVConnectorBase_V1, SupportsHMA):  # type: ignore[misc]
    """Takes the states of a step out of the cache as soon as it has run."""

    def __init__(self, vllm_config: Any, role: KVConnectorRole, kv_cache_config: Any) -> None:
        super().__init__(vllm_config=vllm_config, role=role, kv_cache_config=kv_cache_config)
        self.folder = Path(vllm_config.kv_transfer_config.get_from_extra_config(FOLDER, ""))
        self.groups = kv_cache_config.kv_cache_groups
        self.step = Prefills()
        self.filled = False  # whether this step has stored its states
        self.states: States | None = None

    # called in the scheduler

    def get_num_new_matched_tokens(
        self, request: Any, num_computed_tokens: int
    ) -> tuple[int | None, bool]:
        return 0, False  # nothing is ever read from elsewhere

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        pass

    def build_connector_meta(self, scheduler_output: Any) -> Prefills:
        with fault_noted(self.folder, VLLM.title):
            group = cache_group(self.groups)
            step = Prefills()
            for new in scheduler_output.scheduled_new_reqs:
                extra_args = (new.sampling_params and new.sampling_params.extra_args) or {}
                if DOCUMENT in extra_args:
                    scheduled = scheduler_output.num_scheduled_tokens[new.req_id]
                    step.documents.append(
                        Prefill(
                            extra_args[DOCUMENT],
                            list(new.prompt_token_ids),
                            new.num_computed_tokens,
                            scheduled,
                            list(new.block_ids[group]),
                        )
                    )
            return step

    def request_finished_all_groups(
        self, request: Any, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        return False, None  # the states were taken in the request's only step

    # called in the workers

    def register_kv_caches(self, kv_caches: Mapping[str, torch.Tensor]) -> None:
        if torch.distributed.get_rank() == 0:
            with fault_noted(self.folder, VLLM.title):
                self.states = States.open(self.folder, self.groups, kv_caches)

    def bind_connector_metadata(self, connector_metadata: KVConnectorMetadata) -> None:
        super().bind_connector_metadata(connector_metadata)
        self.step, self.filled = cast(Prefills, connector_metadata), False

    def clear_connector_metadata(self) -> None:
        super().clear_connector_metadata()
        self.step = Prefills()

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        pass

    def wait_for_layer_load(self, layer_name: str) -> None:
        pass

    def save_kv_layer(
        self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any
    ) -> None:
        self.filled |= CACHE in layer_name

    def wait_for_save(self) -> None:
        """Called once per step, after the pass of the target and the one that stores its states."""
        if self.states is None or not self.step.documents:
            return
        with fault_noted(self.folder, VLLM.title):
            if not self.filled:
                raise UserError(f"vLLM kept no states of a batch; {OTHER_ENGINE}")
            self.states.take(self.step.documents)


class States:
    """The cache of states in one worker, and their intake."""

    def __init__(
        self, intake: Intake, cache: torch.Tensor, aux_indices: list[int], norm: torch.nn.Module
    ) -> None:
        """`cache` [blocks, K, block size, H]: K states of every token, by ascending layer; the last
        is the last state. `aux_indices`: those of aux among the K; `norm`: for the last state."""
        self.intake, self.cache, self.aux_indices, self.norm = intake, cache, aux_indices, norm

    @classmethod
    def open(cls, folder: Path, groups: Any, kv_caches: Mapping[str, torch.Tensor]) -> States:
        """Raises UserError if vLLM stores the states in an unknown layout."""
        # vLLM only shows its own messages
        logging.basicConfig(format="%(message)s")
        logging.getLogger("eagle3").setLevel(logging.INFO)
        request = EngineRequest.read(folder)
        (cache,) = (tensor for name, tensor in kv_caches.items() if CACHE in name)
        inputs = captured_inputs(request.layers, request.num_layers)
        size = groups[cache_group(groups)].kv_cache_spec.block_size
        if cache.dim() != 4 or cache.shape[1] != len(inputs) or cache.shape[2] != size:
            raise UserError(
                f"vLLM keeps states in a cache {list(cache.shape)}, not in blocks of {size} tokens "
                f"with {len(inputs)} states each; {OTHER_ENGINE}"
            )
        aux_indices = [inputs.index(layer + 1) for layer in request.layers]
        model, trusted = Path(request.model), request.trust_remote_code
        norm = load_final_norm(model, request.final_norm_key, cache.dtype, trusted)
        return cls(Intake.open(folder, VLLM), cache, aux_indices, norm.to(cache.device))

    @torch.inference_mode()
    def take(self, documents: list[Prefill]) -> None:
        """Check the documents of a step and hand over their states."""
        size, slots = self.cache.shape[2], []
        for prefill in documents:
            ids = prefill.ids[prefill.cached :][: prefill.scheduled]
            self.intake.check(prefill.document, prefill.cached, ids)
            blocks = torch.tensor(prefill.blocks, dtype=torch.int64)
            document_slots = (blocks[:, None] * size + torch.arange(size)).flatten()
            slots.append(document_slots[: len(prefill.ids)])
        rows = torch.cat(slots).to(self.cache.device)
        states = self.cache[rows // size, :, rows % size]  # [n, K, H]
        aux = states[:, self.aux_indices].flatten(1)
        self.intake.take([prefill.document for prefill in documents], aux, self.norm(states[:, -1]))


def cache_group(groups: Any) -> int:
    """Index of the cache group that has the cache of the states.

    Raises UserError if there is not exactly one.
    """
    numbers = [
        n for n, group in enumerate(groups) if any(CACHE in name for name in group.layer_names)
    ]
    if len(numbers) != 1:
        raise UserError(f"vLLM has {len(numbers)} caches of states, not one; {OTHER_ENGINE}")
    return numbers[0]
