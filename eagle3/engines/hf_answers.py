"""Answers of the target itself, generated in this process by transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from eagle3.config.dataset import Regenerate
from eagle3.config.tokens import Tokens
from eagle3.data.answer_record import Answer, Request, whole_characters
from eagle3.data.conversations import BadRow
from eagle3.data.templates import Renderer
from eagle3.parallel.device import check_device
from eagle3.target_model.adapter import merge, read_adapter
from eagle3.target_model.config import load_whole_config, stop_ids
from eagle3.target_model.quantised import check_packages
from eagle3.target_model.tokenizer import load_tokenizer


class HFAnswers:
    """Generates answers in batches of consecutive requests. A sampled answer is a function of its
    prompt and its seed, whatever the batch, but for the rounding of its logits."""

    def __init__(
        self,
        directory: Path,
        tokens: Tokens,
        sampling: Regenerate,
        batch: int,
        dtype: str = "auto",
        device: str = "cpu",
        trust_remote_code: bool = False,
        adapter: Path | None = None,
    ) -> None:
        """`tokens`: the section that chooses the chat template; `adapter`: folder of a LoRA adapter
        on the target."""
        from transformers import AutoModelForCausalLM, GenerationConfig

        self.tokenizer = load_tokenizer(directory, trust_remote_code)
        self.sampling, self.batch = sampling, batch
        self.device = check_device(device)
        check_packages(directory)
        model: Any = AutoModelForCausalLM.from_pretrained(
            directory,
            config=load_whole_config(directory, trust_remote_code),
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
        )
        if adapter is not None:
            merge(read_adapter(adapter), model)
        self.model = model.to(self.device)
        # the target's generation_config.json would apply penalties to greedy answers too
        self.model.generation_config = GenerationConfig()
        config = self.model.config.get_text_config(decoder=True)
        self.context = config.max_position_embeddings
        self.stops = stop_ids(directory, config)
        self.renderer = Renderer.of(self.tokenizer, tokens, self.stops)

    def __call__(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        """See `Generate`. Appended requests wait for all earlier ones, so batches do not depend on
        the speed of answers."""
        answered = 0
        while answered < len(requests):
            first, answered = answered, len(requests)
            yield from self._answers(requests, first)

    def _answers(self, requests: Sequence[Request], begin: int) -> Iterator[tuple[int, Answer]]:
        """Answers to the present requests from `begin` on."""
        ready: list[tuple[int, list[int]]] = []
        prompts: dict[int, str] = {}
        for number, request in enumerate(requests[begin:], begin):
            try:
                text = self.renderer.prompt(request.messages, request.tools, request.options)
            except BadRow as fault:
                yield number, Answer(cause=str(fault))
                continue
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            if len(ids) + self.sampling.max_tokens > self.context:
                yield number, Answer(cause="prompt leaves no room for an answer")
            else:
                ready.append((number, ids))
                prompts[number] = text
        for first in range(0, len(ready), self.batch):
            batch = ready[first : first + self.batch]
            seeds = [requests[number].seed for number, _ in batch]
            generated = self._generate([ids for _, ids in batch], seeds)
            for (number, _), tokens in zip(batch, generated, strict=True):
                yield number, self._answer(tokens, prompts[number])

    @torch.no_grad()
    def _generate(self, prompts: list[list[int]], seeds: list[int]) -> list[list[int]]:
        """The tokens after each prompt."""
        longest = max(map(len, prompts))
        ids = torch.zeros(len(prompts), longest, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):  # padded on the left: all prompts end together
            ids[row, longest - len(prompt) :] = torch.tensor(prompt)
            mask[row, longest - len(prompt) :] = 1
        out = self.model.generate(
            ids.to(self.device),
            attention_mask=mask.to(self.device),
            max_new_tokens=self.sampling.max_tokens,
            eos_token_id=self.stops or None,
            pad_token_id=self.stops[0] if self.stops else 0,
            do_sample=False,
            logits_processor=_drawing(self.sampling, seeds),
        )
        return [row[longest:].tolist() for row in out]

    def _answer(self, tokens: list[int], prompt: str) -> Answer:
        """The answer up to its stop token, or to the last token."""
        end = next((n for n, token in enumerate(tokens) if token in self.stops), None)
        reply = self.tokenizer.decode(tokens[:end], clean_up_tokenization_spaces=False)
        reply = whole_characters(reply, cut=end is None)
        text, thought = self.renderer.finder.taken_apart(reply, prompt)
        if not text.strip():
            return Answer(cause="answer without text")
        return Answer(text, thought or None, cut=end is None)


def _drawing(sampling: Regenerate, seeds: list[int]) -> list[Callable[..., torch.Tensor]]:
    """Logits processors with which greedy decoding samples each row from its distribution, by a
    generator with the row's seed; none at temperature 0."""
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    if not sampling.temperature:
        return []
    processors: list[Any] = [TemperatureLogitsWarper(sampling.temperature)]
    if sampling.top_k:
        processors.append(TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        processors.append(TopPLogitsWarper(sampling.top_p))
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def with_gumbel_noise(_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        noise = [torch.empty(scores.shape[-1]).exponential_(generator=g) for g in generators]
        return scores - torch.stack(noise).log().to(scores.device)

    return [*processors, with_gumbel_noise]
