"""The Hugging Face engine: any causal language model, run for its states and not for its logits.

Forward hooks take the outputs of some decoder layers; the last hidden state is the body's output,
after the final norm. Only the body is loaded, so a head (`reader.read_head`) is in memory once, and
only where a caller puts it. Under torchrun the layers are split over the ranks by transformers'
tensor-parallel plan for the model; every rank has the complete states.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from eagle3.errors import Foreign, UserError
from eagle3.parallel.device import check_device, to_device
from eagle3.parallel.ranks import Ranks
from eagle3.target_model.adapter import merge, read_adapter
from eagle3.target_model.config import load_text_config, load_whole_config
from eagle3.target_model.files import INDEX, indexed_files
from eagle3.target_model.layers import layer_count
from eagle3.target_model.quantised import check_packages
from eagle3.target_model.reader import Head
from eagle3.target_model.split import check_transformers

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# model types whose list of hidden states begins with the output of the first layer
WITHOUT_EMBEDDING = ("falcon_mamba", "mamba", "mamba2", "rwkv")


class HFTarget:
    """A target model that returns aux states [.., C H] of C layers and last states [.., H]."""

    def __init__(self, body: Any, layers: Sequence[int]) -> None:
        """`body`: a transformers decoder without its head; `layers`: 0-based decoder layers whose
        outputs are captured."""
        self.body = body.eval()
        self.device = next(body.parameters()).device
        self._captured: dict[int, torch.Tensor] = {}
        self._layers, self._width = tuple(layers), body.config.hidden_size
        stack = layers_of(body)
        for layer in self._layers:
            stack[layer].register_forward_hook(self._hook(layer))

    @classmethod
    def load(
        cls,
        directory: Path,
        layers: Sequence[int],
        dtype: str = "auto",
        device: str = "cpu",
        trust_remote_code: bool = False,
        ranks: Ranks | None = None,
        spread: bool = False,
        adapter: Path | None = None,
    ) -> HFTarget:
        """Load the body of a model directory, split over `ranks` (whose device is then used).

        `spread`: place whole layers on all GPUs that this process sees, for a target that does not
        fit on one. `adapter`: folder of a LoRA adapter that is merged into it.

        Raises UserError if it is no causal language model, lacks weights, or cannot be split.
        """
        target_device = ranks.device if ranks else check_device(device)
        options: dict[str, Any] = {}
        if ranks and ranks.world > 1:
            _check_split(load_text_config(directory, trust_remote_code), ranks)
            from transformers.distributed.configuration_utils import DistributedConfig

            options["distributed_config"] = DistributedConfig(tp_size=ranks.world, tp_plan="auto")
        elif target_device.type != "cpu":
            # straight onto the device, not through host memory
            options["device_map"] = "auto" if spread else target_device
        if (directory / INDEX).is_file():
            indexed_files(directory / INDEX)  # transformers would follow an index out of the folder
        options |= {"dtype": DTYPES.get(dtype, "auto"), "trust_remote_code": trust_remote_code}
        model, missing = _load(_model_class(directory, trust_remote_code), directory, options)
        if missing and (full_class := _full_class(directory, trust_remote_code)) is not None:
            # for some models, the rules that rename tensors apply to the full model only
            full_model, missing_of_full = _load(full_class, directory, options)
            if not missing_of_full:
                model, missing = full_model, []
        if missing:
            raise UserError(
                f"target.model: {directory} lacks {len(missing)} weights of a "
                f"{type(model).__name__}, such as {missing[0]}"
            )
        if adapter is not None:
            merge(read_adapter(adapter), model)
        return cls(model.get_decoder(), layers)

    @property
    def dtype(self) -> torch.dtype:
        return self.body.dtype

    def _hook(self, layer: int) -> Any:
        def keep(_module: Any, _inputs: Any, output: Any) -> None:
            state = output[0] if isinstance(output, tuple | list) else output
            # of a target spread over GPUs, it is on the layer's GPU
            self._captured[layer] = one_stream(state, self._width).to(self.device)

        return keep

    def _run(
        self, input_ids: torch.Tensor, cache: Any = None, **inputs: torch.Tensor
    ) -> tuple[list[torch.Tensor], Any]:
        """The captured states and the last one, [B, L, H] each."""
        output = self.body(
            input_ids=to_device(input_ids, self.device),
            past_key_values=cache,
            use_cache=cache is not None,
            **inputs,
        )
        # of a model spread over GPUs, it is on the last of them
        last = output.last_hidden_state.to(self.device)
        return [self._captured.pop(layer) for layer in self._layers], last

    @torch.inference_mode()
    def states(
        self, input_ids: torch.Tensor, cache: Any = None, **inputs: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """aux [B, L, C H] and last [B, L, H] (after the final norm) of `input_ids` [B, L].

        With `cache` (a transformers cache), the ids continue its content and are added to it. For
        sequences of different lengths, `inputs` has `attention_mask` [B, S + L], 0 on unused
        columns, and `position_ids` [B, L].
        """
        captured, last = self._run(input_ids, cache, **inputs)
        return torch.cat(captured, dim=-1), last

    @torch.inference_mode()
    def every_state(self, ids: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """The input of the first layer and the outputs of all but the last, as transformers returns
        them, and the state after the final norm; [L, H] each, of one document, int64 [L]."""
        output = self.body(
            input_ids=ids[None].to(self.device), output_hidden_states=True, use_cache=False
        )
        self._captured.clear()
        hidden_states = output.hidden_states[:-1]
        if self.body.config.model_type in WITHOUT_EMBEDDING:
            hidden_states = (torch.zeros_like(hidden_states[0]), *hidden_states)
        results = [one_stream(states, self._width)[0].to(self.device) for states in hidden_states]
        return results, output.last_hidden_state[0].to(self.device)

    @torch.inference_mode()
    def own_choices(self, ids: torch.Tensor, count: int, head: Head) -> torch.Tensor | None:
        """int64 [count]: the target's own argmax at the last `count` positions of int64 `ids` [L].

        Computed by the model's own class with this head, which applies norms, scales and caps its
        own way. None where transformers has no such class for the body, or it cannot take the head.
        """
        from transformers import AutoModelForCausalLM
        from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

        if type(self.body.config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
            return None
        with torch.device("meta"):  # takes no memory: body and head are filled in
            model = AutoModelForCausalLM.from_config(self.body.config)
        prefix, linear = model.base_model_prefix, model.get_output_embeddings()
        same = type(getattr(model, prefix, None)) is type(self.body)
        if not same or linear is None or (linear.bias is None) != (head.bias is None):
            return None
        setattr(model, prefix, self.body)
        for name in ("weight", "bias"):
            tensor = getattr(head, name)
            if tensor is not None:
                moved = tensor.to(self.device, self.dtype)
                setattr(linear, name, torch.nn.Parameter(moved, requires_grad=False))
        model.eval()
        out = model(ids[None].to(self.device), logits_to_keep=count, use_cache=False)
        self._captured.clear()
        return out.logits[0, -count:].argmax(dim=-1)

    @torch.inference_mode()
    def flat_states(self, documents: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """aux [N, C H] and last [N, H] of int64 `documents`, one after another; N ids in all.

        They run as one batch, padded on the right: under causal attention no real position sees
        the padding, so no attention mask is needed, and no padding row is returned.
        """
        ids = torch.nn.utils.rnn.pad_sequence(list(documents), batch_first=True)  # [B, L]
        lengths = torch.tensor([len(document) for document in documents])
        real = torch.arange(ids.shape[1]) < lengths[:, None]  # [B, L]
        captured, last = self._run(ids)
        width = last.shape[-1]
        aux = captured[0].new_empty(int(lengths.sum()), len(captured) * width)
        if real.all():
            for i, states in enumerate(captured):
                aux[:, i * width : (i + 1) * width] = states.flatten(0, 1)
            return aux, last.flatten(0, 1)
        rows = to_device(real.flatten().nonzero()[:, 0], self.device)  # [N]
        for i, states in enumerate(captured):
            columns = aux[:, i * width : (i + 1) * width]
            torch.index_select(states.flatten(0, 1), 0, rows, out=columns)  # no [B, L, C H] is made
        return aux, last.flatten(0, 1).index_select(0, rows)


def _load(model_class: Any, directory: Path, options: dict[str, Any]) -> tuple[Any, list[str]]:
    """The model of a directory, and the names of its weights that the directory lacks."""
    check_packages(directory)
    config = load_whole_config(directory, options["trust_remote_code"])
    with Foreign(f"target.model: cannot load {directory}"), _quiet_transformers():
        model, report = model_class.from_pretrained(
            directory, config=config, use_safetensors=True, output_loading_info=True, **options
        )
    return model, sorted(report["missing_keys"])


def one_stream(state: torch.Tensor, width: int) -> torch.Tensor:
    """A layer's output as a draft reads it, [B, L, H]: the mean of several residual streams
    (DeepSeek-V4's hyper connections), [B, L, n, H] or [B, L, n * H], as in SGLang and vLLM."""
    if state.dim() == 3 and state.shape[-1] == width:
        return state
    return state.reshape(*state.shape[:2], -1, width).mean(dim=2)


def layers_of(body: Any) -> Any:
    """The list of a decoder's layers: by its name, else the only list of that length.

    Raises UserError if there is no such list, or if it is not as long as the configuration says.
    """
    count, by_name = layer_count(body.config), getattr(body, "layers", None)
    lists = [module for module in body.modules() if isinstance(module, torch.nn.ModuleList)]
    lists = [by_name] if by_name in lists else [stack for stack in lists if len(stack) == count]
    if len(lists) != 1 or len(lists[0]) != count:
        raise UserError(
            f"target.model: the {type(body).__name__} has no list of its {count} layers to take "
            "states from"
        )
    return lists[0]


def _model_class(directory: Path, trust_remote_code: bool) -> Any:
    """The class that loads the body alone. Raises UserError if it is no causal language model."""
    from transformers import AutoModel, AutoModelForCausalLM
    from transformers.models.auto import modeling_auto

    config = load_whole_config(directory, trust_remote_code)
    if type(config).__module__.startswith("transformers_modules."):  # the model's own code
        return AutoModel if "AutoModel" in config.auto_map else AutoModelForCausalLM
    causal = (
        modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING,
        modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    )
    if not any(type(config) in mapping for mapping in causal):
        raise UserError(
            f"target.model: {directory} is a {config.model_type}, which is not a causal language "
            "model"
        )
    return AutoModel


def _full_class(directory: Path, trust_remote_code: bool) -> Any:
    """The class of the model with its head, None where transformers has none."""
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    mapped = type(load_whole_config(directory, trust_remote_code)) in MODEL_FOR_CAUSAL_LM_MAPPING
    return AutoModelForCausalLM if mapped else None


def _check_split(config: Any, ranks: Ranks) -> None:
    """Raise UserError unless transformers can split a model of this text configuration."""
    setting = f"resources.capture.tensor_parallel is {ranks.world}"
    if not config.base_model_tp_plan:
        raise UserError(
            f"{setting}, but transformers has no tensor-parallel plan for {config.model_type}; "
            "use 1"
        )
    check_transformers(config, ranks.world)
    if ranks.device.type == "cpu" and torch.cuda.is_available():
        raise UserError(
            f"{setting} and resources.device is cpu, but transformers splits over the GPUs that it "
            "sees; set resources.device to cuda, or hide them (CUDA_VISIBLE_DEVICES=)"
        )


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Silence its table of unused weights: the head is left out on purpose, and a missing weight is
    an error here."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
