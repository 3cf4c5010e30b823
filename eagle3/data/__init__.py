"""From the rows of a dataset to texts, and to what in them the target has said.

faults           why a row cannot be used
thoughts         how thoughts stand in texts
tool_calls       calls of tools, and their schemas
messages         one turn of a row
conversations    one row: `parse_row`

catalogue        datasets known by name
converters       rows of other shapes
row_files        rows of local files
sources          where rows come from: `read_rows`
rows             every valid row in a fixed order: `rows.jsonl`

rendering_check  whether a template shows an answer, all of it
chat_template    a template, called as a server calls it
answer_finder    where the answers lie that a template renders
generation_marks the same by a template's own blocks
template_names   what stands around answers in templates known by name
preformatted     answers of texts that are rendered already
templates        a conversation as texts with spans: `Renderer`
masks            as tokens with a loss mask: `Masker`

answer_record    questions to the target, and its answers on disk
regeneration     conversations with answers of the target itself
prompts          what a target is asked when it is measured
"""
