"""The path of every file of a run: the only module that knows what is under results/.

    results/<run>/
      run.json                                    the configuration (eagle3.run)
      dataset/ target/ answers/ tokens/ vocab/    made once from the data and the target
      hidden_states/                              captured states, with the check of each shard
      checkpoints/stage-0001/ metrics/ resume/    training
      evaluation/ draft/ plan.json report.html    results
      logs/ benchmarks/ tracking/

Rules name files by wildcards and jobs by numbers, so an omitted argument is a wildcard of
Snakemake: `tokens()` is results/demo/tokens/{split}/shard-{shard}.safetensors.
"""

from __future__ import annotations

from dataclasses import dataclass

Number = int | str  # of a shard or stage, or a wildcard
SPLIT, SHARD, STAGE = "{split}", "{shard}", "{stage}"
EMBEDDED_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)


@dataclass(frozen=True)
class Paths:
    """Files of the run of this name, relative to the working directory.

    `rolling`: each stage has its own copies of the hidden states of training.
    """

    run: str
    rolling: bool = False

    @property
    def out(self) -> str:
        return f"results/{self.run}"

    @property
    def snapshot(self) -> str:
        """The configuration, as the jobs of the newest call read it."""
        return f"{self.out}/run.json"

    @property
    def dataset(self) -> str:
        return f"{self.out}/dataset"

    @property
    def rows(self) -> str:
        """Every usable conversation, in a fixed order."""
        return f"{self.dataset}/rows.jsonl"

    @property
    def rows_index(self) -> str:
        return f"{self.dataset}/rows.index.safetensors"

    @property
    def rows_report(self) -> str:
        return f"{self.dataset}/rows.report.json"

    @property
    def import_index(self) -> str:
        """Which file of another project holds each document, in order."""
        return f"{self.dataset}/import.index.safetensors"

    @property
    def embedded_target(self) -> str:
        """Folder of the target that the embedded default trains."""
        return f"{self.out}/target"

    @property
    def embedded_target_files(self) -> list[str]:
        return [f"{self.embedded_target}/{name}" for name in EMBEDDED_FILES]

    def answers(self, split: str = SPLIT, shard: Number = SHARD) -> str:
        """The target's own answers to a shard, with `dataset.regenerate`."""
        return f"{self.out}/answers/{split}/shard-{shard_name(shard)}.jsonl"

    def answers_report(self, split: str = SPLIT, shard: Number = SHARD) -> str:
        return f"{self.out}/answers/{split}/shard-{shard_name(shard)}.report.json"

    def tokens(self, split: str = SPLIT, shard: Number = SHARD) -> str:
        return f"{self.out}/tokens/{split}/shard-{shard_name(shard)}.safetensors"

    @property
    def vocab(self) -> str:
        """The draft's vocabulary: d2t and t2d."""
        return f"{self.out}/vocab/mapping.safetensors"

    @property
    def vocab_report(self) -> str:
        return f"{self.out}/vocab/mapping.json"

    @property
    def schedule(self) -> str:
        return f"{self.out}/schedule.json"

    @property
    def plan(self) -> str:
        return f"{self.out}/plan.json"

    def captured(self, split: str = SPLIT, shard: Number = SHARD, stage: Number = STAGE) -> str:
        """Common part of the paths of a captured shard: `train/shard-00003`, in rolling mode
        `train/stage-0002/shard-00003`."""
        name = f"shard-{shard_name(shard)}"
        per_stage = self.rolling and split != "eval"
        return f"{split}/stage-{stage_name(stage)}/{name}" if per_stage else f"{split}/{name}"

    def states(self, split: str = SPLIT, shard: Number = SHARD, stage: Number = STAGE) -> str:
        """Hidden states of a shard."""
        captured = self.captured(split, shard, stage)
        return f"{self.out}/hidden_states/{captured}.safetensors"

    def states_check(self, split: str = SPLIT, shard: Number = SHARD, stage: Number = STAGE) -> str:
        """The result of the self-check of a captured shard."""
        return f"{self.out}/hidden_states/{self.captured(split, shard, stage)}.check.json"

    def checkpoint(self, stage: Number = STAGE, name: str = "model.safetensors") -> str:
        """A file of a stage's checkpoint: model.safetensors, optimizer.safetensors, state.json."""
        return f"{self.out}/checkpoints/stage-{stage_name(stage)}/{name}"

    def best(self, name: str = "model.safetensors") -> str:
        """A file of the checkpoint with the best held-out acceptance."""
        return f"{self.out}/checkpoints/best/{name}"

    def metrics(self, stage: Number = STAGE) -> str:
        """A line for each optimiser step of a stage."""
        return f"{self.out}/metrics/stage-{stage_name(stage)}.jsonl"

    def resume(self, stage: Number = STAGE) -> str:
        """Folder of the saves inside a stage, unknown to Snakemake."""
        return f"{self.out}/resume/stage-{stage_name(stage)}"

    def resume_answers(self, split: str = SPLIT, shard: Number = SHARD) -> str:
        """Answers of a shard that is not finished, unknown to Snakemake."""
        return f"{self.out}/resume/answers/{split}-{shard_name(shard)}.jsonl"

    @property
    def tracking(self) -> str:
        """Folder of a tracker's files."""
        return f"{self.out}/tracking"

    def score(self, stage: Number = STAGE) -> str:
        """The score of a stage's checkpoint on held-out states."""
        return f"{self.out}/evaluation/stage-{stage_name(stage)}.json"

    @property
    def choice(self) -> str:
        """The best stage, and the scores of all."""
        return f"{self.out}/evaluation/best.json"

    @property
    def acceptance(self) -> str:
        return f"{self.out}/evaluation/acceptance.json"

    @property
    def drafts(self) -> str:
        """Folder of the exported drafts, one folder for each format."""
        return f"{self.out}/draft"

    def draft(self, export_format: str, name: str = "model.safetensors") -> str:
        """A file of an exported draft."""
        return f"{self.drafts}/{export_format}/{name}"

    @property
    def report(self) -> str:
        return f"{self.out}/report.html"

    @property
    def benchmarks(self) -> str:
        """Folder of the time and memory of each job."""
        return f"{self.out}/benchmarks"

    def log(self, job: str) -> str:
        """The log of a job, such as `train/stage-0001`."""
        return f"{self.out}/logs/{job}.log"

    def trace(self, stage: Number, rank: int) -> str:
        """The trace of some steps of a stage on a rank (`resources.train.profile_steps`)."""
        return f"{self.out}/logs/train/stage-{stage_name(stage)}.rank-{rank}.trace.json.gz"

    def times(self, job: str) -> str:
        """Time and memory of a job, by the name of its log."""
        return f"{self.benchmarks}/{job}.tsv"


def shard_name(number: Number) -> str:
    """Five digits, or the wildcard unchanged."""
    return f"{number:05d}" if isinstance(number, int) else number


def stage_name(number: Number) -> str:
    """Four digits, or the wildcard unchanged."""
    return f"{number:04d}" if isinstance(number, int) else number
