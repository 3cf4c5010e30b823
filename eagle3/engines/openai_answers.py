"""Answers of servers that speak OpenAI's protocol (SGLang, vLLM, ...), through OpenAI's client."""

from __future__ import annotations

import logging
import os
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

from eagle3.config.dataset import Regenerate
from eagle3.data.answer_record import Answer, Request, whole_characters
from eagle3.data.messages import Message
from eagle3.data.tool_calls import with_text_arguments
from eagle3.errors import UserError

log = logging.getLogger(__name__)
ATTEMPTS = 6  # in total, of a request to an overloaded or restarting server
SECONDS = 600.0  # for one answer
PLAIN = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}  # leave the distribution as it is


class OpenAIEngine:
    """Requests answers from servers, with bounded concurrency."""

    def __init__(
        self,
        servers: Sequence[str],
        model: str | None,
        concurrency: int,
        sampling: Regenerate,
        options: Mapping[str, Any] | None = None,
        system_prompt: str | None = None,
    ) -> None:
        """`servers`: base URLs such as http://host:30000/v1. `model`: None for the only one of the
        first server. `concurrency`: simultaneous requests to each server. `options`: for the chat
        template, as in training. `system_prompt`: added to conversations without one.

        Raises UserError if a server does not answer.
        """
        import openai

        self.openai, self.sampling = openai, sampling
        self.options, self.system_prompt = dict(options or {}), system_prompt
        self._key = key = os.environ.get("OPENAI_API_KEY", "none")
        self.clients = [
            openai.OpenAI(base_url=url, api_key=key, max_retries=ATTEMPTS - 1, timeout=SECONDS)
            for url in servers
        ]
        self.model = model or self._only_model()
        self.workers = concurrency * len(servers)

    def _only_model(self) -> str:
        client = self.clients[0]
        try:
            names = [model.id for model in client.models.list()]
        except self.openai.OpenAIError as fault:
            raise UserError(
                f"resources.regenerate.servers: {client.base_url}: {self._redacted(fault)}"
            ) from None
        if len(names) != 1:
            raise UserError(
                f"dataset.regenerate.model is null, and {client.base_url} has {len(names)} models "
                f"({', '.join(names[:5])}): name one"
            )
        return names[0]

    def _redacted(self, fault: Exception) -> str:
        """The text of a fault without the API key, which some servers echo."""
        return str(fault) if self._key == "none" else str(fault).replace(self._key, "[key]")

    def __call__(self, requests: Sequence[Request]) -> Iterator[tuple[int, Answer]]:
        """See `Generate`. Appended requests go before waiting ones: a server still has the turns
        before them in its cache, and long conversations do not end up last."""
        answers: SimpleQueue[Future[Answer]] = SimpleQueue()
        numbers: dict[Future[Answer], int] = {}  # of requests in flight
        seen = len(requests)
        waiting = deque(range(seen))
        with ThreadPoolExecutor(self.workers) as pool:
            try:
                while waiting or numbers:
                    while waiting and len(numbers) < self.workers:
                        number = waiting.popleft()
                        future = pool.submit(self._ask, requests[number])
                        numbers[future] = number
                        future.add_done_callback(answers.put)
                    done = answers.get()
                    yield numbers.pop(done), done.result()
                    waiting.extendleft(range(seen, len(requests)))
                    seen = len(requests)
            finally:
                pool.shutdown(cancel_futures=True)

    def _messages(self, messages: Sequence[Message]) -> list[Message]:
        """The messages with the system prompt that they have in training."""
        for_servers = [_for_servers(message) for message in messages]
        if self.system_prompt is not None and messages[0]["role"] != "system":
            for_servers.insert(0, {"role": "system", "content": self.system_prompt})
        return for_servers

    def _more(self, request: Request) -> dict[str, Any]:
        """Arguments other than the messages that shape the prompt: SGLang and vLLM pass
        chat_template_kwargs to the template; without a template, as for gpt-oss, they read
        reasoning_effort."""
        arguments: dict[str, Any] = {"tools": request.tools} if request.tools else {}
        # for omitted values, servers use the target's generation_config.json
        body: dict[str, Any] = dict(PLAIN)
        if self.sampling.top_k is not None:
            body["top_k"] = self.sampling.top_k
        options = {**self.options, **(request.options or {})}
        if options:
            body["chat_template_kwargs"] = options
        if isinstance(options.get("reasoning_effort"), str):
            arguments["reasoning_effort"] = options["reasoning_effort"]
        return {**arguments, "extra_body": body}

    def _ask(self, request: Request) -> Answer:
        """One answer. Raises UserError if a server keeps failing."""
        # all turns of a row go to one server, which has the earlier ones in its cache
        client = self.clients[zlib.crc32(request.id.encode()) % len(self.clients)]
        messages: Any = self._messages(request.messages)
        arguments = self._more(request)
        try:
            completion = client.chat.completions.create(
                model=self.model,
                messages=messages,
                temperature=self.sampling.temperature,
                top_p=self.sampling.top_p,
                max_tokens=self.sampling.max_tokens,
                seed=request.seed,
                **arguments,
            )
        except (
            self.openai.BadRequestError,
            self.openai.UnprocessableEntityError,
        ) as fault:
            log.warning("%s: %s", request.id, self._redacted(fault))
            return Answer(cause="the server refuses the conversation")
        except self.openai.OpenAIError as fault:
            raise UserError(
                f"resources.regenerate.servers: {client.base_url} failed {ATTEMPTS} times "
                f"({type(fault).__name__}: {self._redacted(fault)}); the answers so far are kept"
            ) from None
        return _answer(completion)


def _for_servers(message: Message) -> Message:
    """A message in the form of the protocol: arguments of calls are JSON text."""
    copy = {key: value for key, value in message.items() if key != "train"}
    if thought := copy.get("reasoning_content"):
        copy["reasoning"] = thought  # the name that newer versions of vLLM read
    if copy.get("tool_calls"):
        copy["tool_calls"] = [
            {"id": f"call_{number}", **with_text_arguments(call)}
            for number, call in enumerate(copy["tool_calls"])
        ]
    return copy


def _answer(completion: Any) -> Answer:
    """The answer, if the target or max_tokens ended it; otherwise the cause."""
    if not completion.choices:
        return Answer(cause="no answer came back")
    choice = completion.choices[0]
    if choice.finish_reason not in ("stop", "length"):
        return Answer(cause=f"answer ended by {choice.finish_reason!r}")
    cut = choice.finish_reason == "length"
    content = whole_characters(choice.message.content or "", cut)
    extra = choice.message.model_extra or {}
    thought = extra.get("reasoning_content") or extra.get("reasoning")
    thought = whole_characters(thought, cut) if thought else None
    # an answer may be cut off inside its thought
    if not content.strip() and not (cut and (thought or "").strip()):
        return Answer(cause="answer without text")
    try:
        f"{content}{thought}".encode()
    except UnicodeEncodeError:  # a lone surrogate could not be written
        return Answer(cause="answer is not valid Unicode")
    return Answer(content, thought, cut=cut)
