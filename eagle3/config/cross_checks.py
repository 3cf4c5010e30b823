"""Rules that hold between two keys. Each yields a sentence for every fault."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eagle3.config.configuration import Config

# names of shards have five digits, those of stages four; a DAG of more would not be planned either
MOST_SHARDS, MOST_STAGES = 10**5, 10**4 - 1


def cross_key_faults(config: Config) -> Iterator[str]:
    """Every fault of a configuration whose keys are valid one by one."""
    yield from counts(config)
    yield from packs(config)
    yield from optimiser(config)
    yield from ranks(config)
    yield from servers(config)
    yield from rolling_mode(config)
    yield from states_source(config)
    yield from embedded_shape(config)


def counts(config: Config) -> Iterator[str]:
    """The DAG has a job for every shard and every stage."""
    dataset, train = config.dataset, config.train
    shards = -(-dataset.num_samples // dataset.shard_size)
    if shards > MOST_SHARDS:
        minimum = -(-dataset.num_samples // MOST_SHARDS)
        yield (
            f"dataset.num_samples {dataset.num_samples} over dataset.shard_size "
            f"{dataset.shard_size} gives {shards} shards, more than {MOST_SHARDS}: raise "
            f"shard_size to at least {minimum}"
        )
    window = config.hidden_states.window_shards
    windows = -(-shards // (window or shards))
    stages = windows * -(-train.epochs // train.epochs_per_stage)
    if stages > MOST_STAGES:
        yield (
            f"train.epochs {train.epochs}, train.epochs_per_stage {train.epochs_per_stage} and "
            f"hidden_states.window_shards {window or 'null'} give {stages} stages, more than "
            f"{MOST_STAGES}: raise epochs_per_stage or window_shards"
        )


def packs(config: Config) -> Iterator[str]:
    """Documents are never split."""
    length, pack = config.tokens.max_length, config.train.pack_tokens
    if pack < length:
        yield (
            f"train.pack_tokens is {pack}, smaller than tokens.max_length {length}: a document "
            "must fit into one pack; raise pack_tokens or lower max_length"
        )


def optimiser(config: Config) -> Iterator[str]:
    """Muon makes whole matrices orthogonal."""
    if config.train.optimizer == "muon" and config.resources.train.data_parallel == "fsdp2":
        yield (
            "train.optimizer is muon, which needs whole matrices and gradients on every rank; "
            "resources.train.data_parallel fsdp2 cuts them up: set train.optimizer to adamw, or "
            "use ddp"
        )


def ranks(config: Config) -> Iterator[str]:
    """Every rank has a pack or a part of one."""
    jobs, batch = config.resources.train, config.train.packs_per_batch
    group = jobs.sp_ulysses_size * jobs.sp_ring_size
    if jobs.processes % group and group % jobs.processes:  # the rest may be on other nodes
        yield (
            f"resources.train.sp_ulysses_size {jobs.sp_ulysses_size} x sp_ring_size "
            f"{jobs.sp_ring_size} ranks share a pack, which {jobs.processes} processes cannot: "
            f"make processes a multiple of {group}"
        )
    if jobs.processes > batch * group:
        yield (
            f"resources.train.processes is {jobs.processes}, more than train.packs_per_batch "
            f"{batch}{f' times {group} ranks that share a pack' if group > 1 else ''}: ranks "
            "share a batch by its packs, so some would have nothing to do"
        )


def servers(config: Config) -> Iterator[str]:
    """The backend `server` needs a server."""
    if config.dataset.regenerate.backend == "server" and not config.resources.regenerate.servers:
        yield (
            "dataset.regenerate.backend is 'server' but resources.regenerate.servers is empty: "
            "name at least one, such as http://localhost:30000/v1"
        )


def rolling_mode(config: Config) -> Iterator[str]:
    """States that are removed belong to a window, and are captured even if no stage needs them."""
    states, patience = config.hidden_states, config.train.early_stop_patience
    if states.keep:
        return
    if states.window_shards is None:
        yield (
            "hidden_states.keep is false but hidden_states.window_shards is null: say how many "
            "shards a window has; the plan names the most that fit on the disk"
        )
    if patience:
        yield (
            f"train.early_stop_patience is {patience} but hidden_states.keep is false: in rolling "
            "mode the windows of stages that are not trained would be captured all the same; use "
            "keep: true, or null"
        )


def states_source(config: Config) -> Iterator[str]:
    """Imported states have a path, and nothing changes the text that they belong to."""
    source, dataset = config.hidden_states.source, config.dataset
    if source.kind == "capture":
        if source.path or source.dataset:
            yield (
                "hidden_states.source names a folder, but its kind is capture: add kind specforge, "
                "speculators or run"
            )
        return
    if source.path is None:
        yield f"hidden_states.source.kind is {source.kind!r} but hidden_states.source.path is null"
    if source.kind == "run" and not config.hidden_states.keep:
        yield (
            "hidden_states.source.kind is 'run' but hidden_states.keep is false: rolling mode "
            "would remove what belongs to another run; use keep: true"
        )
    if source.dataset and source.kind != "speculators":
        yield "hidden_states.source.dataset belongs to kind speculators; the other kinds need none"
    if not source.imports:
        return
    for key, is_set in (
        ("dataset.regenerate.backend", dataset.regenerate.backend != "none"),
        ("dataset.deduplicate", dataset.deduplicate),
    ):
        if is_set:
            yield (
                f"{key} is set, but hidden_states.source brings finished tokens, which nothing "
                "changes any more: remove it"
            )


def embedded_shape(config: Config) -> Iterator[str]:
    """Heads divide the hidden size evenly, and rotary positions need an even head width."""
    tiny = config.embedded_target
    if tiny.hidden_size % tiny.num_heads or tiny.num_heads % tiny.num_kv_heads:
        yield (
            f"embedded_target.hidden_size {tiny.hidden_size} must be a multiple of num_heads "
            f"{tiny.num_heads}, and num_heads of num_kv_heads {tiny.num_kv_heads}"
        )
    if tiny.hidden_size // tiny.num_heads % 2:
        yield (
            f"embedded_target.hidden_size {tiny.hidden_size} over num_heads {tiny.num_heads} gives "
            "heads of odd width; rotary positions need an even one"
        )
