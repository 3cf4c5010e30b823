"""Files that speculators' own code has made (`published/make.py`), against the target of theirs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from eagle3.config.tokens import Tokens
from eagle3.engines.hf import HFTarget
from eagle3.imports.document import Expected
from eagle3.imports.index import open_files
from eagle3.imports.job import check_complete
from eagle3.imports.listing import dataset_folder, list_files
from eagle3.imports.masks import answers_of_target
from eagle3.imports.source_check import Sample, check_masks, check_states
from eagle3.target_model.config import load_config
from eagle3.target_model.final_norm import load_final_norm
from tests.builders.models import HIDDEN, VOCAB
from tests.imports.conftest import LAYERS, chat

FOLDER = Path(__file__).parent / "published" / "speculators"


def test_every_published_document_passes_the_check(target: Path, engine: HFTarget) -> None:
    listing = list_files("speculators", FOLDER)
    assert listing.numbers.tolist() == list(range(6))
    names = dict(enumerate(listing.names))
    files = open_files("speculators", listing.folder, names, str(dataset_folder(FOLDER, None)))
    assert check_complete("speculators", listing, len(files.rows), 0.0) == 0
    sample = Sample.of(files, listing.numbers, Expected(VOCAB, HIDDEN, 3))
    assert len(sample.documents) == 6 and not sample.bad
    for number, document in sample.documents.items():
        ids, mask = chat(number)
        assert np.array_equal(document.input_ids, ids)
        assert np.array_equal(document.loss_mask, mask)
        assert document.aux.dtype == torch.bfloat16
    answers = answers_of_target(target, load_config(target), Tokens(), False)
    assert check_masks(sample, answers).alike
    norm = load_final_norm(target, "model.norm.weight", torch.float32)
    errors = check_states(sample, engine, LAYERS, lambda s: norm(s.float()), normed=False)
    assert 0 < max(errors.values()) == pytest.approx(0.0018, abs=0.001)  # of bfloat16
