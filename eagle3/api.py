"""The public functions of `import eagle3`: reading runs from Python (docs/api.md).

Each imports what it needs when it is called, so `import eagle3` is fast. An error that the user can
fix raises `UserError` with one sentence.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eagle3.config.configuration import Config
    from eagle3.draft.model import Eagle3Draft
    from eagle3.run import Run
    from eagle3.store.reader import FeatureShard
    from eagle3.tokens.shards import TokenShard
    from eagle3.tokens.vocab import VocabMapping


def load_config(*paths: Path | str) -> Config:
    """The configuration of YAML files, validated, with every default.

    If several files are given, later ones take precedence, as with several `--configfile`. Raises
    UserError that lists every fault. Files that the configuration names are not checked.
    """
    from eagle3.config.configuration import Config
    from eagle3.config.files import read_files

    return Config.of(read_files(paths))


def load_run(place: Path | str) -> Run:
    """The run in a folder such as results/demo, as the newest call of Snakemake planned it.

    `run.config` is the typed configuration. `run.paths` has every file of the run, relative to the
    working directory that contains results/. Raises UserError if there is no run.
    """
    from eagle3 import run

    return run.load_run(place)


def load_tokens(path: Path | str) -> TokenShard:
    """A token shard: `input_ids` int32 [T], `loss_mask` uint8 [T] (1 on tokens that the target
    emits), `doc_offsets` int64 [D + 1] and `row_ids` of its D documents.

    `run.paths.tokens("train", 0)` is the first one. Raises UserError if it is damaged.
    """
    from eagle3.tokens.shards import read_token_shard

    return read_token_shard(Path(path))


def load_states(path: Path | str, tokens: TokenShard) -> FeatureShard:
    """A shard of hidden states, a file or an s3:// address, of the documents in `tokens`.

    `read(d)` returns document d, decoded: `aux` [T, C H] (outputs of C layers of the target,
    concatenated), `last` [R, H] (after the final norm), `teacher_argmax` and `teacher_lse` [R].
    Raises UserError if the file is damaged or was captured from other tokens.
    """
    from eagle3.store.byte_source import address
    from eagle3.store.reader import FeatureShard

    return FeatureShard(address(str(path)), tokens)


def load_draft(place: Path | str) -> tuple[Eagle3Draft, VocabMapping]:
    """An exported draft in float32, a torch module in evaluation mode, and its vocabulary:
    `target_ids` int64 [V_draft], the tokens that it can propose.

    `place`: the folder of an export in any format, or of a run, whose first format is read. Raises
    UserError for anything that an engine would silently load wrong.
    """
    from eagle3.export import load

    folder = Path(place)
    if (folder / "run.json").is_file():
        formats = load_run(folder).config.export.formats
        folder = folder / "draft" / formats[0]
    return load.load_draft(folder)
