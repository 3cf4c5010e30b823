"""Chat templates in the style of the presets' targets, with their marks and what ends an answer."""

from __future__ import annotations

from tests.data.toy_tokenizers import LLAMA3, QWEN3

NO_THOUGHT = (
    "{{ '<|im_start|>assistant\\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}"
)
# gpt-oss: effort and date in front, an answer in a channel of its own, the last one returns
HARMONY = (
    "{{ '<|start|>system<|message|>Current date: ' + strftime_now('%Y-%m-%d') + '\\n' }}"
    "{{ 'Reasoning: ' + (reasoning_effort or 'medium') + '<|end|>' }}"
    "{% for m in messages %}"
    "{% if m.role == 'assistant' %}"
    "{{ '<|start|>assistant<|channel|>final<|message|>' + m.content }}"
    "{{ '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}"
    "{% else %}{{ '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)
# GLM: nothing ends a turn but the mark of the next one; an empty thought where thinking is off
GLM = (
    "{{ '[gMASK]<sop>' }}{% for m in messages %}"
    "{% if m.role == 'assistant' %}{{ '<|assistant|>\\n<think></think>\\n' + m.content }}"
    "{% else %}{{ '<|' + m.role + '|>\\n' + m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '\\n<think></think>' }}{% endif %}{% endif %}"
)
GEMMA = (
    "{{ '<bos>' }}{% for m in messages %}"
    "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else 'user') + '\\n' }}"
    "{{ (m.content | trim) + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
PHI4_MINI = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}"
    "{{ '<|assistant|>' if add_generation_prompt else '<|endoftext|>' }}"
)
# DeepSeek-V3.1: an answer without thinking begins behind the end of a thought
DEEPSEEK = (
    "{{ '<｜begin▁of▁sentence｜>' }}{% for m in messages %}"
    "{% if m.role == 'assistant' %}"
    "{{ '<｜Assistant｜></think>' + m.content + '<｜end▁of▁sentence｜>' }}"
    "{% elif m.role == 'user' %}{{ '<｜User｜>' + m.content }}{% else %}{{ m.content }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<｜Assistant｜></think>' }}{% endif %}"
)
KIMI = (
    "{% for m in messages %}"
    "{{ '<|im_' + m.role + '|>' + m.role + '<|im_middle|>' + m.content + '<|im_end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_assistant|>assistant<|im_middle|>' }}{% endif %}"
)
LLAMA4 = (
    "{{ '<|begin_of_text|>' }}{% for m in messages %}"
    "{{ '<|header_start|>' + m.role + '<|header_end|>\\n\\n' + (m.content | trim) + '<|eot|>' }}"
    "{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|header_start|>assistant<|header_end|>\\n\\n' }}{% endif %}"
)
FAMILIES = {  # template, marks of its own, tokens that end generation
    "llama": (LLAMA3, (), ("<|eot_id|>",)),
    "qwen3": (
        QWEN3.replace("{{ '<|im_start|>assistant\\n' }}{% endif %}", NO_THOUGHT),
        (),
        ("<|im_end|>", "<|endoftext|>"),
    ),
    "gpt_oss": (
        HARMONY,
        ("<|start|>", "<|message|>", "<|channel|>", "<|end|>", "<|return|>", "<|call|>"),
        ("<|return|>", "<|call|>"),
    ),
    "glm": (
        GLM,
        ("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
        ("<|user|>", "<|endoftext|>", "<|observation|>"),
    ),
    "gemma": (GEMMA, ("<bos>", "<start_of_turn>", "<end_of_turn>"), ("<end_of_turn>",)),
    "phi4_mini": (
        PHI4_MINI,
        ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        ("<|end|>", "<|endoftext|>"),
    ),
    "deepseek": (
        DEEPSEEK,
        ("<｜begin▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "</think>"),
        ("<｜end▁of▁sentence｜>",),
    ),
    "kimi": (
        KIMI,
        ("<|im_system|>", "<|im_user|>", "<|im_assistant|>", "<|im_middle|>"),
        ("<|im_end|>",),
    ),
    "llama4": (LLAMA4, ("<|header_start|>", "<|header_end|>", "<|eot|>"), ("<|eot|>",)),
}
