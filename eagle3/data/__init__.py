"""From dataset rows to rendered texts, and to the spans of them that the target wrote.

faults           why a row cannot be used
thoughts         how a text marks the target's thinking
tool_calls       tool calls and tool descriptions
messages         one turn of a row
conversations    one row: `parse_row`

catalogue        datasets known by name
converters       rows of other shapes
row_files        rows of local files
sources          where rows come from: `read_rows`
rows             every valid row in a fixed order: `rows.jsonl`

rendering_check  whether a template shows an answer in full
chat_template    a template, rendered as a server renders it
answer_finder    where the answers are in a rendered text
generation_marks the same, from a template's own {% generation %} blocks
template_names   the marks around answers in templates known by name
preformatted     where the answers are in texts that came rendered
templates        a conversation as texts with spans: `Renderer`
masks            texts as tokens with a loss mask: `Masker`

answer_record    requests to the target, and its answers on disk
regeneration     conversations with answers of the target itself
prompts          prompts that a draft is measured on
"""
