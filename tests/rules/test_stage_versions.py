"""The stages above a hidden-state shard: a change of their sources needs somebody's decision."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from rules.record_stage_versions import FILE, source_digests


@pytest.mark.parametrize("stage", source_digests())
def test_the_recorded_sources_are_the_present_ones(stage: str) -> None:
    recorded = yaml.safe_load(FILE.read_text())[stage]
    assert recorded["sources"] == source_digests()[stage], (
        f"the sources of stage {stage} changed: raise its version in {Path(FILE).name} if its "
        "output means something else now, then run python rules/record_stage_versions.py"
    )
