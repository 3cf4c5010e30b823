"""The schedule: steps of every stage, counted from lengths and masks alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from eagle3.config.train import Train
from eagle3.errors import UserError
from eagle3.files.artifact import Manifest, Settings
from eagle3.tokens.needed_states import offsets_of
from eagle3.tokens.packing import batches
from eagle3.tokens.schedule import (
    Documents,
    build_schedule,
    packs_digest,
    stage_packs,
    supervised_share,
)
from eagle3.tokens.shards import TokenShard
from eagle3.tokens.stages import Stages

PACKING = Train(pack_tokens=32, packs_per_batch=2, seed=3)
ONE = Stages(shards=1, window_shards=1, epochs=1, epochs_per_stage=1)
STAGES = Stages(shards=4, window_shards=4, epochs=5, epochs_per_stage=2)


def shard(*masks: str) -> TokenShard:
    """A shard of documents given as masks such as `0011`."""
    flat = np.array([int(c) for mask in masks for c in mask], dtype=np.uint8)
    manifest = Manifest.of("tokens", Settings("tokens", {}, {}))
    lengths = offsets_of([len(mask) for mask in masks])
    return TokenShard(np.zeros(len(flat), np.int32), flat, lengths, list(masks), manifest)


def many(count: int = 40) -> Documents:
    lengths = np.random.default_rng(0).integers(4, 30, size=count)
    return Documents(lengths, lengths - 3, np.linspace(0, count, 5, dtype=np.int64))


def test_documents_are_cut_after_the_last_supervised_token_and_left_out_without_a_row() -> None:
    shards = [shard("00110", "0101", "11"), shard(), shard("0000", "0111100")]
    documents = Documents.of(shards)
    assert documents.lengths.tolist() == [4, 0, 0, 0, 5]
    assert documents.rows.tolist() == [1, 0, 0, 0, 3]
    assert documents.shard_offsets.tolist() == [0, 3, 3, 5]


def test_documents_of_some_shards_are_those_of_a_run_over_these_alone() -> None:
    shards = [shard("00110", "0101", "11"), shard(), shard("0000", "0111100"), shard("011")]
    every = Documents.of(shards)
    for first in range(5):
        for stop in range(first, 5):
            part, alone = every.of_shards(range(first, stop)), Documents.of(shards[first:stop])
            for name in ("lengths", "rows", "shard_offsets"):
                assert getattr(part, name).tolist() == getattr(alone, name).tolist()


def test_no_shard_holds_no_document() -> None:
    documents = Documents.of([])
    assert documents.lengths.tolist() == documents.rows.tolist() == []
    assert documents.lengths.dtype == np.int64


@pytest.mark.parametrize("window", [1, 3, 4])
def test_the_schedule_counts_what_the_packs_hold(window: int) -> None:
    documents, stages = many(), replace(STAGES, window_shards=window)
    schedule = build_schedule(documents, PACKING, stages)
    assert [stage["stage"] for stage in schedule["stages"]] == list(stages.numbers)
    step, passes = 0, np.zeros(40, dtype=int)
    for stage in schedule["stages"]:
        shards = range(*stage["shards"])
        assert shards == stages.shards_of(stage["stage"])
        assert stage["epochs"] == list(stages.epochs_of(stage["stage"]))
        plans = stage_packs(documents.of_shards(shards), PACKING, stage["epochs"])
        assert stage["packs"] == sum(map(len, plans))
        assert stage["steps"] == sum(len(batches(plan, 2)) for plan in plans)
        assert stage["first_step"] == step
        assert stage["packs_digest"] == packs_digest(plans)
        step += stage["steps"]
        for plan in plans:
            passes[np.concatenate(plan) + documents.shard_offsets[shards.start]] += 1
    assert schedule["total_steps"] == step
    assert passes.tolist() == [5] * 40  # every document once an epoch, however windows are cut
    assert schedule["documents"] == 40
    assert schedule["documents_without_rows"] == 0
    assert schedule["tokens"] == documents.lengths.sum()
    assert schedule["rows"] == documents.rows.sum()


def test_a_window_without_a_trainable_row_is_a_stage_without_a_step() -> None:
    documents = Documents.of([shard("0011", "0111"), shard("0101"), shard("0011")])
    schedule = build_schedule(documents, PACKING, Stages(3, 1, 1, 1))
    assert [stage["steps"] for stage in schedule["stages"]] == [1, 0, 1]
    assert [stage["first_step"] for stage in schedule["stages"]] == [0, 1, 1]


def test_stages_do_not_depend_on_how_epochs_are_shared_out() -> None:
    documents = many()
    whole = replace(STAGES, epochs_per_stage=5)
    plans = [stage_packs(documents, PACKING, STAGES.epochs_of(n)) for n in STAGES.numbers]
    in_parts = [plan for stage in plans for plan in stage]
    assert packs_digest(in_parts) == packs_digest(stage_packs(documents, PACKING, range(5)))
    totals = [build_schedule(documents, PACKING, s)["total_steps"] for s in (STAGES, whole)]
    assert totals[0] == totals[1]


def test_more_epochs_leave_earlier_stages_as_they_are() -> None:
    documents = many()
    longer = build_schedule(documents, PACKING, replace(STAGES, epochs=9))
    assert longer["stages"][:2] == build_schedule(documents, PACKING, STAGES)["stages"][:2]


@pytest.mark.parametrize("window", [1, 3])
def test_a_limit_of_steps_ends_the_training_inside_a_stage(window: int) -> None:
    documents, stages = many(), replace(STAGES, window_shards=window)
    whole = build_schedule(documents, PACKING, stages)
    every = [  # steps of the whole training, one by one
        (stage["stage"], len(batch))
        for stage in whole["stages"]
        for plan in stage_packs(
            documents.of_shards(range(*stage["shards"])), PACKING, stage["epochs"]
        )
        for batch in batches(plan, 2)
    ]
    assert len(every) == whole["total_steps"] == whole["all_steps"]
    for limit in (1, every[-1][0], len(every) - 1, len(every), len(every) + 9):
        cut = build_schedule(
            documents, Train(**PACKING.model_dump() | {"max_steps": limit}), stages
        )
        taken = every[:limit]
        assert cut["total_steps"] == len(taken) and cut["all_steps"] == len(every)
        for stage, uncut in zip(cut["stages"], whole["stages"], strict=True):
            own = [packs for number, packs in taken if number == stage["stage"]]
            assert (stage["steps"], stage["packs"]) == (len(own), sum(own))
            assert stage["packs_digest"] == uncut["packs_digest"]
            assert stage["first_step"] == min(uncut["first_step"], len(taken))
        assert (cut == whole) == (limit >= len(every))


def test_the_digest_tells_packs_apart() -> None:
    plans = [[[1, 2], [3]], [[1], [2, 3]], [[1, 2, 3]], [[3], [1, 2]], [[2, 1], [3]]]
    digests = [packs_digest([[np.array(pack) for pack in plan]]) for plan in plans]
    assert len(set(digests)) == len(plans)


def test_nothing_to_train_on_is_said_with_where_to_look() -> None:
    for documents in (Documents.of([shard("0101", "11")]), Documents.of([])):
        with pytest.raises(UserError, match=r"nothing to train on; check tokens.max_length"):
            build_schedule(documents, PACKING, ONE)


def test_a_document_that_does_not_fit_into_a_pack_is_refused() -> None:
    documents = Documents.of([shard("0" * 20 + "1" * 13)])
    assert build_schedule(documents, Train(pack_tokens=33), ONE)["tokens"] == 33
    with pytest.raises(UserError) as caught:
        build_schedule(documents, PACKING, ONE)
    assert str(caught.value) == (
        "train.pack_tokens is 32 but a document has 33 tokens; raise it to at least 33"
    )


@pytest.mark.parametrize("supervised", [1, 9999])
def test_masks_that_cover_nothing_or_everything_are_refused(supervised: int) -> None:
    counts = {"tokens": 10_000, "supervised": supervised}
    with pytest.raises(UserError, match=r"% of 20000 tokens are supervised.*eagle3 masks"):
        supervised_share([counts, counts])
    share = supervised_share([{"tokens": 4, "supervised": 2}, {"tokens": 4, "supervised": 3}])
    assert share == 5 / 8
    assert supervised_share([]) == 0
