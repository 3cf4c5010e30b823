"""Writes docs/coming-from-specforge.md from the table of flags:

python -m docs.specforge_page > docs/coming-from-specforge.md
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

from eagle3.cli.specforge import CAPTURE, DATA, FLAGS, TORCHRUN, TRAIN

HEAD = """# Coming from SpecForge

This page is generated from `eagle3/cli/specforge.py` by `python -m docs.specforge_page`.

SpecForge trains a draft offline with three commands that you run in turn, passing each one's files
to the next. With eagle3, one configuration describes a run, and one command makes whatever is
missing:

| SpecForge | eagle3 |
|---|---|
| `prepare_data.py` | `eagle3 prepare-data -c my.yaml` |
| `torchrun … prepare_hidden_states.py` | `eagle3 capture -c my.yaml` |
| `torchrun … train_eagle3.py` | `eagle3 train -c my.yaml`, which includes the two above |

`eagle3 init` translates your command lines:

    eagle3 init --from-specforge 'python scripts/prepare_data.py --dataset sharegpt' \\
        --from-specforge 'torchrun --nproc_per_node 8 scripts/prepare_hidden_states.py …' \\
        --from-specforge 'torchrun --nproc_per_node 8 scripts/train_eagle3.py …'

The configuration that it writes has a comment for each key and lists the flags without a
counterpart. Commands that contradict each other, for example by naming two targets, are refused.

Other differences:

* The loss counts the rows that serving can reach, which begin one token earlier than SpecForge's
  ([objective.md](objective.md)). Compare the two projects by acceptance, never by loss.
* Documents are packed without padding, so a step is a number of tokens, not of documents. The
  learning rate applies to a batch of `train.pack_tokens` x `train.packs_per_batch` tokens.
* By default the learning rate warms up, stays constant, and decays, and Muon updates the matrices.
  The training-time test has four steps. A translation writes SpecForge's schedule, optimiser and
  depth instead: `train.lr_schedule: cosine`, `train.optimizer: adamw` and `train.ttt_steps: 7`.
* Masks are found by comparing each prompt with the text that includes the answer, under any chat
  template ([masks.md](masks.md)). No system prompt is added.
* `train.warm_start` continues from a draft that SpecForge has trained, and SGLang loads an exported
  draft as it loads SpecForge's.
* Hidden states that SpecForge has captured are trained from as they are, after a comparison with
  the target: `hidden_states.source: {kind: specforge, path: ...}` ([import.md](import.md)).
"""
TITLES = {
    DATA: "Flags of prepare_data.py",
    CAPTURE: "Flags of prepare_hidden_states.py",
    TRAIN: "Flags of train_eagle3.py",
    TORCHRUN: "Flags of torchrun",
}


def page() -> str:
    """The page as Markdown."""
    return "\n".join([HEAD, *_tables()])


def _tables() -> Iterator[str]:
    for command, title in TITLES.items():
        yield f"## {title}\n\n| Flag | Key | Remark |\n|---|---|---|"
        for flag in FLAGS:
            if command in flag.commands:
                key = f"`{flag.key}`" if flag.key else "none"
                yield f"| `{flag.name}` | {key} | {flag.remark} |"
        yield ""


if __name__ == "__main__":
    sys.stdout.write(page())
