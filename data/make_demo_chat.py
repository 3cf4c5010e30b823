"""Writes the bundled demo conversations, the same bytes every time: no input, a fixed seed.

    python data/make_demo_chat.py [--output data/demo_chat.jsonl] [--count 1500]

One JSON object a line in the ShareGPT layout, {"id", "conversations": [{"from", "value"}, ...]}.
All text is of this project's own making; every computed answer is computed here.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import demo_knowledge
import demo_language
import demo_numbers
import demo_planning
from demo_phrasing import Exchange, change_topic

SEED = 2024
COUNT = 1500
SKILLS = (
    demo_numbers.word_problem,
    demo_numbers.units,
    demo_numbers.percentages,
    demo_numbers.sequences,
    demo_numbers.times_table,
    demo_numbers.number_writing,
    demo_planning.calendar,
    demo_planning.clock,
    demo_planning.statistics,
    demo_planning.shopping,
    demo_planning.recipe,
    demo_planning.geometry,
    demo_planning.weekly_plan,
    demo_planning.packing,
    demo_knowledge.countries,
    demo_knowledge.capitals,
    demo_knowledge.planets,
    demo_knowledge.elements,
    demo_knowledge.animals,
    demo_knowledge.how_to,
    demo_knowledge.comparison,
    demo_knowledge.python_function,
    demo_language.word_order,
    demo_language.sentence_editing,
    demo_language.word_relations,
    demo_language.categories,
    demo_language.definitions,
    demo_language.translation,
    demo_language.story,
    demo_language.email,
)
LENGTHS, WEIGHTS = (1, 2, 3, 4, 5), (3, 10, 25, 42, 20)  # exchanges in a conversation
SYSTEM_PROMPTS = (
    "You are a helpful assistant.",
    "You are a patient teacher who answers clearly.",
    "Answer politely and keep it short.",
    "You help people with everyday questions.",
)
THANKS = (
    "Thanks!", "Thank you, that helps.", "Great, thank you!", "Perfect, thanks a lot.",
    "That is all, thanks!",
)  # fmt: skip
WELCOMES = (
    "You are welcome!", "You are welcome. Have a nice day!", "Glad I could help. 🙂", "Any time!",
    "My pleasure. Ask me whenever you like.",
)  # fmt: skip


@dataclass(frozen=True)
class Conversation:
    id: str
    skill: str  # of the opening; not written to the file
    system: str | None
    exchanges: tuple[Exchange, ...]

    def row(self) -> dict[str, object]:
        """The ShareGPT object of this conversation."""
        turns = [{"from": "system", "value": self.system}] if self.system else []
        for exchange in self.exchanges:
            turns.append({"from": "human", "value": exchange.human})
            turns.append({"from": "gpt", "value": exchange.assistant})
        return {"id": self.id, "conversations": turns}


def make_exchanges(rng: Random, index: int) -> tuple[Exchange, ...]:
    """One conversation: a skill, others until it is long enough, now and then some thanks."""
    exchanges = SKILLS[index % len(SKILLS)](rng)
    (length,) = rng.choices(LENGTHS, WEIGHTS)
    while len(exchanges) < length:
        first, *rest = rng.choice(SKILLS)(rng)
        exchanges += [Exchange(change_topic(rng, first.human), first.assistant), *rest]
    exchanges = exchanges[:length]
    if 1 < length < LENGTHS[-1] and rng.random() < 0.12:
        exchanges.append(Exchange(rng.choice(THANKS), rng.choice(WELCOMES)))
    return tuple(exchanges)


def conversations(count: int = COUNT, seed: int = SEED) -> Iterator[Conversation]:
    """`count` conversations with distinct openings, the skills taking turns in a shuffled order."""
    order = list(range(count))
    Random(seed).shuffle(order)
    seen: set[Exchange] = set()
    for position, index in enumerate(order):
        # A generator of its own for each row: a change to one skill leaves the other rows alone.
        rng = Random(f"{seed}-{index}")
        exchanges = make_exchanges(rng, index)
        while exchanges[0] in seen:
            exchanges = make_exchanges(rng, index)
        seen.add(exchanges[0])
        system = rng.choice(SYSTEM_PROMPTS) if rng.random() < 0.03 else None
        skill = SKILLS[index % len(SKILLS)].__name__
        yield Conversation(f"demo-{position:05d}", skill, system, exchanges)


def write(path: Path, count: int = COUNT) -> None:
    """Writes the conversations as JSON lines, UTF-8, `\\n` line ends."""
    lines = [json.dumps(talk.row(), ensure_ascii=False) for talk in conversations(count)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("demo_chat.jsonl"))
    parser.add_argument("--count", type=int, default=COUNT)
    options = parser.parse_args(arguments)
    write(options.output, options.count)


if __name__ == "__main__":
    main()
