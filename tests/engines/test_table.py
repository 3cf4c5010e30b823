"""The table of engines against everything else that has a list of them."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from eagle3.config.hidden_states import CaptureResources, Containers, HiddenStates
from eagle3.engines.table import ENGINES, SEPARATE
from eagle3.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


def test_the_configuration_offers_the_engines_of_the_table():
    offered = get_args(HiddenStates.model_fields["backend"].annotation)
    assert offered == tuple(ENGINES)
    assert {name for name, engine in ENGINES.items() if not engine.in_job} == set(SEPARATE)
    of_engines = {f"{name}_{key}" for name in SEPARATE for key in ("python", "arguments")}
    assert {
        k for k in CaptureResources.model_fields if k.endswith(("_python", "_arguments"))
    } == of_engines
    assert set(Containers.model_fields) == {engine.environment for engine in ENGINES.values()}


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_has_its_environment_and_its_image(name):
    for ending in ("yaml", "def"):
        assert (ROOT / "envs" / f"{ENGINES[name].environment}.{ending}").is_file()
    target = "image" if name == "hf" else f"image-{name}"
    assert f"\n{target}:" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("name", SEPARATE)
def test_an_engine_is_known_by_one_name(name):
    engine = SEPARATE[name]
    assert (engine.name, engine.title) == (name, ENGINES[name].title)
    assert engine.python_key == f"resources.capture.{name}_python"


def test_the_last_layer_is_refused_where_it_cannot_be_returned():
    for name, engine in ENGINES.items():
        engine.check_layers((1, 3, 6), 8)
        if name == "sglang":
            with pytest.raises(UserError, match=r"SGLang cannot return .* use layers below 7"):
                engine.check_layers((1, 3, 7), 8)
        else:
            engine.check_layers((1, 3, 7), 8)
