"""One capture job: an engine fills a shard, which is checked before it gets its final name."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from eagle3.capture.self_check import check_shard
from eagle3.capture.shard_capture import ShardCapture, capture, documents_to_run
from eagle3.capture.teacher_rows import TeacherRows
from eagle3.config.hidden_states import CaptureResources
from eagle3.engines.hf import DTYPES, HFTarget
from eagle3.engines.separate.request import EngineRequest
from eagle3.engines.separate.run import run_separately
from eagle3.engines.table import ENGINES
from eagle3.files.artifact import Manifest, Settings, write_json
from eagle3.files.tensor_file import read_manifest
from eagle3.parallel.ranks import Ranks
from eagle3.store.layout import CHECK_KIND, Layout
from eagle3.store.reader import KIND
from eagle3.target_model.config import load_config, load_whole_config
from eagle3.target_model.layers import aux_layers, layer_count
from eagle3.target_model.reader import Head, read_head
from eagle3.target_model.weights import TargetWeights
from eagle3.tokens.shards import TokenShard, read_token_shard

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Placement:
    """Where and how fast a job runs; nothing here changes what it writes."""

    device: str
    threads: int
    jobs: CaptureResources


@dataclass(frozen=True)
class CaptureJob:
    """What one shard is captured from."""

    settings: Settings  # of the hidden_states stage
    tokens_file: Path
    target: Path
    adapter: Path | None = None

    @cached_property
    def config(self) -> Any:
        """The target's text configuration."""
        return load_config(self.target, self.section["trust_remote_code"])

    @property
    def backend(self) -> str:
        return self.settings.values["hidden_states"]["backend"]

    @property
    def section(self) -> dict[str, Any]:
        """The configuration's `target` section."""
        return self.settings.values["target"]

    @cached_property
    def tokens(self) -> TokenShard:
        return read_token_shard(self.tokens_file, self.settings.upstream["tokens"])

    @cached_property
    def layers(self) -> tuple[int, ...]:
        configured = self.settings.values["hidden_states"]["aux_layers"]
        return aux_layers(configured, layer_count(self.config))

    @cached_property
    def dtype(self) -> str:
        """The target's dtype: as set, as in its configuration, or as its head is stored."""
        if self.section["dtype"] in DTYPES:
            return self.section["dtype"]
        full_config = load_whole_config(self.target, self.section["trust_remote_code"])
        model_dtype = self.config.dtype or full_config.dtype or self.head.weight.dtype
        return str(model_dtype).removeprefix("torch.")

    def expected_bytes(self) -> int:
        """Size of the shard in bytes, approximate if its codec compresses."""
        codec = self.settings.values["hidden_states"]["codec"]
        layout = Layout(self.tokens.needed, codec, self.config.hidden_size, len(self.layers))
        return layout.expected_bytes()

    @cached_property
    def head(self) -> Head:
        # the settings name the embedding where the head may be tied to it
        keys = self.section["lm_head_key"], self.section.get("embedding_key", "")
        return read_head(TargetWeights(self.target), self.config, *keys)

    def engine(self, device: str, ranks: Ranks | None = None, spread: bool = False) -> HFTarget:
        trusted = self.section["trust_remote_code"]
        options = self.dtype, device, trusted, ranks, spread, self.adapter
        return HFTarget.load(self.target, self.layers, *options)

    def shard(self, path: Path | None, ranks: Ranks, threads: int) -> ShardCapture:
        """The shard to be filled; `path` is None on ranks that do not write."""
        teacher = TeacherRows(self.head, DTYPES[self.dtype], ranks)
        return ShardCapture(path, self.tokens, teacher, self.layers, self.settings, threads)


def capture_shard(
    job: CaptureJob, path: Path | None, placement: Placement, ranks: Ranks
) -> dict[str, float]:
    """Fill `path` (None on ranks that do not write); return the self-check's cosines.

    Raises UserError if the engine fails or does not give the target's states, OSError if the disk
    is full.
    """
    documents = documents_to_run(job.tokens)
    if not documents:
        job.shard(path, ranks, placement.threads).finish()
        return {}
    if not ENGINES[job.backend].in_job:
        python = getattr(placement.jobs, f"{job.backend}_python")
        run_separately(request_of(job, path, placement), documents, python)
        if not placement.jobs.self_check:
            return {}
        # a target that the engine held on several GPUs does not fit on one
        engine = job.engine(placement.device, spread=placement.jobs.tensor_parallel > 1)
    else:
        engine = job.engine(placement.device, ranks)
        shard = job.shard(path, ranks, placement.threads)
        try:
            capture(engine, shard, placement.jobs.batch_tokens)
            shard.finish()
        finally:
            shard.close()
    if not placement.jobs.self_check:
        return {}
    # a head cannot be added to a body that is split, or is on several GPUs
    unsplit = ranks.world == 1 and placement.jobs.tensor_parallel == 1
    head = job.head if unsplit else None
    return check_shard(path, job.tokens, engine, job.layers, job.settings.digest, head)


def write_check(path: Path, settings: Settings, shard: Path, cosines: dict[str, float]) -> None:
    """Write the result of a captured shard's self-check, for users and for the report."""
    manifest = read_manifest(shard, KIND)
    counts, size = manifest.counts, shard.stat().st_size
    figures = {
        "aux_layers": counts["aux_layers"],
        "cosines": cosines,
        "rows": counts["last"],
        "argmax_agrees": counts["argmax_agrees"],
        "bytes": size,
    }
    inputs = {"hidden_states": manifest.content_sha256}
    write_json(path, figures, Manifest.of(CHECK_KIND, settings, inputs))
    log.info(
        "%d documents, %d rows of aux, %d of last, %d bytes (%s); layers %s; cosine to a plain "
        "pass %.5f; the target's choice is the next token in %.1f %% of the rows",
        counts["documents"],
        counts["aux"],
        counts["last"],
        size,
        counts["codec"],
        counts["aux_layers"],
        min(cosines.values(), default=float("nan")),
        100 * counts["argmax_agrees"] / max(counts["last"], 1),
    )


def request_of(job: CaptureJob, path: Path | None, placement: Placement) -> EngineRequest:
    """The request to an engine that starts its ranks itself, so this process is the only one."""
    return EngineRequest(
        engine=job.backend,
        model=str(job.target.resolve()),
        layers=job.layers,
        dtype=job.dtype,
        trust_remote_code=job.section["trust_remote_code"],
        tensor_parallel=placement.jobs.tensor_parallel,
        batch_tokens=placement.jobs.batch_tokens,
        arguments=getattr(placement.jobs, f"{job.backend}_arguments"),
        consumer="eagle3.capture.job:shard_consumer",
        consumer_arguments={
            "settings": asdict(job.settings),
            "tokens_file": str(job.tokens_file.resolve()),
            "target": str(job.target.resolve()),
            "path": str(path),
            "device": placement.device,
            "threads": placement.threads,
        },
        num_layers=layer_count(job.config),
        # the settings name it where the engine reads it
        final_norm_key=job.section.get("final_norm_key", ""),
    )


class SelfFinishing:
    """Hands states to a shard and finishes it with the last document."""

    def __init__(self, shard: ShardCapture) -> None:
        self.shard = shard

    def add(self, documents: list[int], aux: torch.Tensor, last: torch.Tensor) -> None:
        self.shard.add(documents, aux, last)
        if self.shard.complete:
            self.shard.finish()


def shard_consumer(
    settings: dict[str, Any], tokens_file: str, target: str, path: str, device: str, threads: int
) -> SelfFinishing:
    """The consumer of states in the engine's process: a shard as for any other engine."""
    job = CaptureJob(Settings(**settings), Path(tokens_file), Path(target))
    rank_device = torch.device("cuda", torch.cuda.current_device()) if device == "cuda" else "cpu"
    return SelfFinishing(job.shard(Path(path), Ranks(0, 1, torch.device(rank_device)), threads))
