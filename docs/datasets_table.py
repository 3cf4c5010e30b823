"""Prints the table of docs/datasets.md: python -m docs.datasets_table"""

from __future__ import annotations

from eagle3.data.catalogue import CATALOGUE


def table() -> str:
    """The catalogue in Markdown."""
    lines = [
        "| `dataset.source` | on the hub | commit | split | columns | rows | licence | answers |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, entry in CATALOGUE.items():
        subsets = ", ".join(entry.subsets)
        if subsets:
            subsets = f" ({'all of' if entry.all_subsets else 'subsets'} {subsets})"
        rows = f"{entry.rows:,}" if entry.rows else "see card"
        commit = f"`{entry.revision[:8]}`" if entry.revision else "the latest"
        lines.append(
            f"| `{name}` | [{entry.repository}](https://huggingface.co/datasets/"
            f"{entry.repository}){subsets} | {commit} | {entry.split} | {entry.converter} | {rows} "
            f"| {entry.licence or 'see card'} | {entry.answers} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")
