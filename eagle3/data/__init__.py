"""From the rows of a dataset to texts, and to the parts of them that the target has written.

faults           why a row cannot be used
thoughts         how texts contain thoughts
tool_calls       calls of tools, and their schemas
messages         one turn of a row
conversations    one row: `parse_row`

catalogue        datasets known by name
converters       rows of other shapes
row_files        rows of local files
sources          where rows come from: `read_rows`
rows             every valid row in a fixed order: `rows.jsonl`

rendering_check  whether a template shows all of an answer
chat_template    a template, called as a server calls it
answer_finder    where the answers are in a rendered text
generation_marks the same by a template's own blocks
template_names   the marks around answers in templates known by name
preformatted     answers of texts that have been rendered already
templates        a conversation as texts with spans: `Renderer`
masks            as tokens with a loss mask: `Masker`

answer_record    questions to the target, and its answers on disk
regeneration     conversations with answers of the target itself
prompts          prompts with which a draft is measured
"""
