"""A tokenizer without transformers: the tokenizers library, and chat templates rendered by Jinja.

Which targets have one: `tokenizer`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import Any

GENERATION_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")


class FileTokenizer:
    """A tokenizer.json and a chat template, with the methods of a transformers tokenizer that this
    project calls."""

    is_fast = True

    def __init__(
        self,
        backend: Any,
        template: str | dict[str, str] | None,
        special_tokens: Mapping[str, str],
        special_ids: Sequence[int],
    ) -> None:
        """`backend`: a tokenizers.Tokenizer; `special_tokens`: by name, such as eos_token."""
        self.backend_tokenizer, self.chat_template = backend, template
        self.special_tokens_map, self.all_special_ids = dict(special_tokens), list(special_ids)
        self.eos_token = special_tokens.get("eos_token")

    @cached_property
    def added_tokens_decoder(self) -> dict[int, Any]:
        return self.backend_tokenizer.get_added_tokens_decoder()

    def __call__(self, text: str, add_special_tokens: bool = False) -> dict[str, list[int]]:
        encoded = self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return {"input_ids": encoded.ids}

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = False, **_: Any) -> str:
        """Text of token ids. A byte-pair tokenizer never cleans up spaces, whatever the options."""
        return self.backend_tokenizer.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def get_chat_template(self, _: None = None, tools: Any = None) -> str:
        """The template for a chat with or without tools. Raises ValueError if there is none."""
        template = self.chat_template
        if isinstance(template, dict):
            template = (tools is not None and template.get("tool_use")) or template.get("default")
        if not template:
            raise ValueError("the tokenizer has no chat template")
        return template

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Any = None,
        tokenize: bool = False,
        add_generation_prompt: bool = False,
        documents: Any = None,
        **options: Any,
    ) -> str:
        """The rendered chat. Raises what Jinja or the template itself raises."""
        if tokenize:
            raise ValueError("this tokenizer renders text only")
        values = {**self.special_tokens_map, **options}
        return self._compiled(self.get_chat_template(None, tools)).render(
            messages=messages,
            tools=tools,
            documents=documents,
            add_generation_prompt=add_generation_prompt,
            **values,
        )

    def _compiled(self, source: str) -> Any:
        if source not in self._templates:
            self._templates[source] = compiled(source)
        return self._templates[source]

    @cached_property
    def _templates(self) -> dict[str, Any]:
        return {}


def compiled(source: str) -> Any:
    """A chat template as transformers compiles it.

    `{% generation %}` is an extension of transformers, which compiles such templates itself.
    """
    if GENERATION_MARK.search(source):
        from transformers.utils.chat_template_utils import _compile_jinja_template

        return _compile_jinja_template(source)
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise jinja2.exceptions.TemplateError(message)

    def to_json(
        value: Any,
        ensure_ascii: bool = False,
        indent: Any = None,
        separators: Any = None,
        sort_keys: bool = False,
    ) -> str:
        """Jinja's own filter would escape HTML characters."""
        options = {"indent": indent, "separators": separators, "sort_keys": sort_keys}
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = to_json
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(source)
