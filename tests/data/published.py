"""Published chat templates, and the tokens at which their models stop.

The templates lie in packages of PyPI, as their models publish them (envs/without-deps-test.txt);
the stop tokens are those of the models' generation_config.json.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.data.toy_tokenizers import marked_tokenizer

CHATML = ("<|im_end|>", "<|endoftext|>")
GLM = ("<|endoftext|>", "<|user|>", "<|observation|>")
DEEPSEEK = ("<｜end▁of▁sentence｜>",)
GEMMA = ("<eos>", "<end_of_turn>")
GEMMA4 = ("<eos>", "<turn|>", "<|tool_response>")
HARMONY = ("<|return|>", "<|endoftext|>", "<|call|>")
LLAMA3 = ("<|end_of_text|>", "<|eot_id|>")
LLAMA31 = ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>")
PHI3 = ("<|endoftext|>", "<|assistant|>", "<|end|>")
COHERE = ("<|END_OF_TURN_TOKEN|>",)
SENTENCE = ("</s>",)  # Mistral, Llama 2, ERNIE
MINIMAX = ("[e~[",)

# what each package has: its templates by the stop tokens of their models
TRL: dict[tuple[str, ...], str] = {
    CHATML: "qwen2_5 qwen2_5_vl qwen3 qwen3_instruct_2507 qwen3_vl qwen3_5_nothink qwen3_5_think "
    "qwen3_6 qwen3_8 lfm2 lfm2_v2 lfm2_2_5 lfm2_2_5_v2 lfm2_2_5_vl nemotron_3_nano "
    "nemotron_3_super nemotron_3_ultra nemotron_3_5_lightning",
    GEMMA: "gemma gemma3",
    GEMMA4: "gemma4 gemma4_v2 gemma4_v3 gemma4_v4 gemma4_v5",
    GLM: "glm4moe",
    HARMONY: "gptoss",
    LLAMA3: "llama3",
    LLAMA31: "llama3_1 llama3_2",
    PHI3: "phi3 phi3_5",
    COHERE: "cohere cohere2",
    DEEPSEEK: "deepseek_r1_distill deepseekv3",
    SENTENCE: "llava_next",
    ("<end_of_utterance>",): "idefics3 smolvlm",
    ("<|eot|>",): "muse_glimmer",
}
AXOLOTL: dict[tuple[str, ...], str] = {
    SENTENCE: "mistral_v1 mistral_v2v3 mistral_v3_tekken mistral_v7_tekken pixtral",
    ("<|eot|>", "<|eom|>", "<|end_of_text|>"): "llama4",
    LLAMA31: "llama3_2_vision",
    CHATML: "phi_4 falcon_h1",
    COHERE: "command_a",
    ("[|endofturn|]",): "exaone exaone4",
    GEMMA: "gemma3n",
    ("<|eom|>", "<|endoftext|>"): "jamba",
}
XINFERENCE: dict[tuple[str, ...], str] = {
    CHATML: "QwQ-32B Qwen3-Next-Thinking Qwen3-Coder Qwen3-VL-Thinking qwen1.5-chat marco-o1 "
    "KAT-V1 qwen3.8-max MiniCPM-V-2.6 Baichuan-M2 seallms-v3 Yi-1.5-chat",
    DEEPSEEK: "deepseek-r1-0528 deepseek-r1-0528-qwen3 "
    "deepseek-r1-distill-llama deepseek-chat deepseek-v2-chat-0628 deepseek-v2.5 "
    "deepseek-prover-v2 skywork-or1",
    ("<|EOT|>",): "deepseek-coder-instruct",
    GLM: "GLM-4.6 GLM-4.7-Flash glm-4.5 glm-5.1 glm-5.2 glm-5.3 glm4-0414 "
    "glm4-chat glm-edge-chat codegeex4",
    HARMONY: "gpt-oss",
    MINIMAX: "MiniMax-M2 MiniMax-M2.5 MiniMax-M3",
    ("<|im_end|>", "[EOS]"): "Kimi-K2.5 moonlight-16b-a3b-instruct",
    ("<|role_end|>", "<|endoftext|>"): "Ling-3.0-flash",
    ("<seed:eos>",): "seed-oss",
    SENTENCE: "llama-2-chat mistral-instruct-v0.1 mistral-instruct-v0.3 mistral-large-instruct",
    ("</s>", "<|im_end|>"): "internlm3-instruct minicpm5-1b",
    PHI3: "phi-3-mini-128k-instruct",
    ("<｜hy_place▁holder▁no▁2｜>",): "Hy-MT2-1.8B",
    ("<_end>",): "telechat",
}
BEGINS = {  # bos_token where templates write it
    DEEPSEEK: "<｜begin▁of▁sentence｜>",
    GEMMA: "<bos>",
    GEMMA4: "<bos>",
    LLAMA3: "<|begin_of_text|>",
    LLAMA31: "<|begin_of_text|>",
    COHERE: "<BOS_TOKEN>",
}
# what may be a token of its own in a template
MARK = r"<[|｜/]?[\w▁:]+[|｜]?>|\[/?INST\]|\[\|?\w+\|?\]|[\[\]][~!]\w[\[\]]"


@dataclass(frozen=True)
class Published:
    """A template with what its model's tokenizer and generation_config say."""

    name: str  # package/template
    source: str | dict[str, str] = field(repr=False, compare=False)
    stops: tuple[str, ...] = ()
    begin: str = "<s>"

    @cache  # noqa: B019 - a few dozen, for the life of the tests
    def tokenizer(self) -> Any:
        text = self.source if isinstance(self.source, str) else "".join(self.source.values())
        marks = re.findall(MARK, text)
        every = (self.begin, *self.stops, *marks)
        return marked_tokenizer(self.source, every, self.begin, self.stops[0])


def folder(package: str) -> Path:
    """Where a package lies; it is not imported."""
    result = find_spec(package)
    assert result and result.origin, f"pip install -r envs/without-deps-test.txt: no {package}"
    return Path(result.origin).parent


@cache
def published() -> dict[str, Published]:
    """Every template by name; those of TRL with their `_training` twins, which have marks."""
    result: list[Published] = []

    def add(name: str, source: str | dict[str, str], stops: tuple[str, ...]) -> None:
        result.append(Published(name, source, stops, BEGINS.get(stops, "<s>")))

    for stops, names in TRL.items():
        for name in names.split():
            for twin in (name, f"{name}_training"):
                path = folder("trl") / "chat_templates" / f"{twin}.jinja"
                if twin == name or path.is_file():
                    add(f"trl/{twin}", path.read_text(), stops)
    for stops, names in AXOLOTL.items():
        for name in names.split():
            path = folder("axolotl") / "utils" / "chat_templates" / "templates" / f"{name}.jinja"
            with_tools = path.with_stem(f"{name}_tool_use")  # a second template of the same model
            add(
                f"axolotl/{name}",
                {"default": path.read_text(), "tool_use": with_tools.read_text()}
                if with_tools.is_file()
                else path.read_text(),
                stops,
            )
    for stops, names in XINFERENCE.items():
        for name in names.split():
            path = folder("xinference") / "model" / "llm" / "models" / f"{name}.json"
            described = json.loads(path.read_text())
            described = described[0] if isinstance(described, list) else described
            add(f"xinference/{name}", described["chat_template"], stops)
    return {each.name: each for each in result}
