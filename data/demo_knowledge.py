"""Demo skills that answer from the tables of facts, how-tos, pairs and Python functions."""

from __future__ import annotations

from random import Random

from demo_facts import ANIMALS, COUNTRIES, ELEMENTS, PLANETS
from demo_guides import HOW_TOS
from demo_phrasing import (
    Exchange,
    again,
    article,
    capital,
    lead,
    listing,
    numbered,
    question,
    request,
    say,
    some,
    table,
    then,
)
from demo_texts import FUNCTIONS, PAIRS


def _talk(rng: Random, asks: list[Exchange], more: list[Exchange], most: int = 3) -> list[Exchange]:
    """A conversation from questions in any order, some of them followed by one of `more`."""
    rng.shuffle(asks)
    first, *rest = asks[: rng.randint(2, most)]
    talk = [Exchange(question(rng, first.human), first.assistant)]
    talk += [Exchange(then(rng, ask), reply) for ask, reply in rest]
    return talk + some(rng, more, 0, 2)


def countries(rng: Random) -> list[Exchange]:
    here, there = rng.sample(COUNTRIES, 2)
    name = here.name
    asks = [
        Exchange(f"what is the capital of {name}?",
                 f"The capital of {name} is {here.capital}. It is a city in {here.continent}."),
        Exchange(f"on which continent is {name}?",
                 f"{capital(name)} is in {here.continent}, and its capital is {here.capital}."),
        Exchange(f"which language do people speak in {name}?",
                 f"In {name}, most people speak {here.language}."),
        Exchange(f"what money is used in {name}?",
                 f"People in {name} pay with the {here.currency}."),
        Exchange(f"which river can I see in {name}?",
                 f"The {here.river} is a well-known river in {name}. Boats and bridges are a common sight."),
    ]  # fmt: skip
    cells = [(capital(c.name), c.capital, c.continent, c.currency) for c in (here, there)]
    same = here.continent == there.continent
    more = [
        Exchange(then(rng, f"what is the capital of {there.name}?"),
                 f"The capital of {there.name} is {there.capital}."),
        Exchange(then(rng, f"is {there.name} on the same continent?"),
                 f"{'Yes' if same else 'No'}, {there.name} is "
                 f"{'also ' if same else ''}in {there.continent}."),
        Exchange(again(rng, f"put {name} and {there.name} in a table"),
                 table(("Country", "Capital", "Continent", "Currency"), cells)),
        Exchange(again(rng, f"tell me about {name} in two sentences"),
                 f"{capital(name)} is a country in {here.continent} and its capital is "
                 f"{here.capital}. People speak {here.language} and pay with the {here.currency}."),
    ]  # fmt: skip
    return _talk(rng, asks, more)


def planets(rng: Random) -> list[Exchange]:
    one, two = rng.sample(PLANETS, 2)
    big, small = (one, two) if one.diameter_km > two.diameter_km else (two, one)
    asks = [
        Exchange(f"how large is {one.name}?",
                 f"{one.name} has a diameter of about {one.diameter_km:,} km. It is "
                 f"{'an' if one.kind[0] == 'i' else 'a'} {one.kind}."),
        Exchange(f"how long is a year on {one.name}?",
                 f"A year on {one.name} takes about {one.year}. That is the time it needs to go "
                 "around the Sun once."),
        Exchange(f"which planet from the Sun is {one.name}?",
                 f"{one.name} is the {one.order} planet from the Sun. One more fact: {one.note}."),
        Exchange(f"what kind of planet is {one.name}?",
                 f"{one.name} is {'an' if one.kind[0] == 'i' else 'a'} {one.kind}, and {one.note}."),
        Exchange(f"which is larger, {one.name} or {two.name}?",
                 f"{big.name} is larger: {big.diameter_km:,} km against {small.diameter_km:,} km."),
    ]  # fmt: skip
    cells = [(p.name, p.order, f"{p.diameter_km:,} km", p.year) for p in (one, two)]
    ratio = big.diameter_km / small.diameter_km
    more = [
        Exchange(again(rng, f"compare {one.name} and {two.name} in a table"),
                 table(("Planet", "Place", "Diameter", "Year"), cells)),
        Exchange(then(rng, f"how many times wider is {big.name} than {small.name}?"),
                 f"{big.diameter_km:,} ÷ {small.diameter_km:,} is about {ratio:.1f}, so {big.name} is "
                 f"about {ratio:.1f} times as wide."),
        Exchange(again(rng, f"sum up {two.name} in one sentence"),
                 f"{two.name} is the {two.order} planet from the Sun, and {two.note}."),
    ]  # fmt: skip
    return _talk(rng, asks, more)


def elements(rng: Random) -> list[Exchange]:
    one, two = rng.sample(ELEMENTS, 2)
    low, high = sorted((one, two), key=lambda element: element.number)
    asks = [
        Exchange(f"what is the symbol of {one.name}?",
                 f"The symbol of {one.name} is {one.symbol}. Its atomic number is {one.number}."),
        Exchange(f"what is the atomic number of {one.name}?",
                 f"{capital(one.name)} has the atomic number {one.number}, so each atom has "
                 f"{one.number} proton{'' if one.number == 1 else 's'}."),
        Exchange(f"is {one.name} a solid, a liquid or a gas?",
                 f"At 20 °C, {one.name} is a {one.state}. It is used for {one.use}."),
        Exchange(f"what is {one.name} used for?", f"{capital(one.name)} is used for {one.use}."),
        Exchange(f"which element has the symbol {one.symbol}?",
                 f"{one.symbol} is the symbol of {one.name}, which is element number {one.number}."),
    ]  # fmt: skip
    cells = [(e.name, e.symbol, e.number, e.state) for e in (one, two)]
    more = [
        Exchange(then(rng, f"what about {two.name}?"),
                 f"{capital(two.name)} has the symbol {two.symbol} and the number {two.number}."),
        Exchange(then(rng, f"which has more protons, {one.name} or {two.name}?"),
                 f"{capital(high.name)} has {high.number} protons and {low.name} has {low.number}, "
                 f"so {high.name} has more."),
        Exchange(again(rng, f"put {one.name} and {two.name} in a table"),
                 table(("Element", "Symbol", "Number", "State at 20 °C"), cells)),
    ]  # fmt: skip
    return _talk(rng, asks, more)


def animals(rng: Random) -> list[Exchange]:
    one, two = rng.sample(ANIMALS, 2)
    name, young = one.name, one.young
    asks = [
        Exchange(f"what is a young {name} called?",
                 f"A young {name} is called {article(young)}. The grown animal eats {one.food}."),
        Exchange(f"what kind of animal is {article(name)}?",
                 f"{capital(article(name))} is {article(one.kind)}. It has {one.legs} legs and lives "
                 f"{one.home}."),
        Exchange(f"what does {article(name)} eat?",
                 f"{capital(article(name))} eats {one.food}. It finds its food {one.home}."),
        Exchange(f"where can I find {article(name)}?",
                 f"You can find {article(name)} {one.home}."),
        Exchange(f"how many legs does {article(name)} have?",
                 f"{capital(article(name))} has {one.legs} legs."),
    ]  # fmt: skip
    cells = [(a.name, a.young, a.kind, a.legs) for a in (one, two)]
    verdict = "Yes" if one.kind == two.kind else "No"
    more = [
        Exchange(then(rng, f"what about {article(two.name)}?"),
                 f"{capital(article(two.name))} is {article(two.kind)} with {two.legs} legs, and its "
                 f"young is called {article(two.young)}."),
        Exchange(then(rng, f"are {article(name)} and {article(two.name)} the same kind of animal?"),
                 f"{verdict}: {article(name)} is {article(one.kind)} and {article(two.name)} is "
                 f"{article(two.kind)}."),
        Exchange(then(rng, f"how many legs do {article(name)} and {article(two.name)} have together?"),
                 f"Together they have {one.legs} + {two.legs} = {one.legs + two.legs} legs."),
        Exchange(again(rng, f"make a table of {article(name)} and {article(two.name)}"),
                 table(("Animal", "Young", "Kind", "Legs"), cells)),
    ]  # fmt: skip
    return _talk(rng, asks, more)


def how_to(rng: Random) -> list[Exchange]:
    guide = rng.choice(HOW_TOS)
    steps = [what for what, _ in guide.steps]
    reasons = [why for _, why in guide.steps]
    spot, last = rng.sample(range(len(steps)), 2)
    opening = rng.choice((
        question(rng, f"how do I {guide.task}?"),
        request(rng, f"explain how to {guide.task}"),
        question(rng, f"what is the best way to {guide.task}?"),
        request(rng, f"give me steps to {guide.task}"),
    ))  # fmt: skip
    more = [
        Exchange(again(rng, f"explain step {spot + 1}"), f"{steps[spot]} {reasons[spot]}"),
        Exchange(then(rng, "what do I need?"), f"You need {guide.needs}."),
        Exchange(again(rng, "make it shorter"), f"In short: {steps[0]} {steps[-1]}"),
        Exchange(then(rng, f"why step {last + 1}?"), reasons[last]),
        Exchange(then(rng, "how many steps are there?"),
                 f"There are {len(steps)} steps. The last one is: {steps[-1]}"),
    ]  # fmt: skip
    intro = say(rng, (
        "You need {needs}. Then follow these steps:",
        "Here is how to {task}:",
        "It takes four steps. You need {needs}.",
    ), task=guide.task.replace("my", "your"), needs=guide.needs)  # fmt: skip
    outro = rng.choice(("", "\n\nTake your time, and it will go well.", "\n\nGood luck!"))
    return [Exchange(opening, f"{intro}\n{numbered(steps)}{outro}"), *some(rng, more, 1, 3)]


def comparison(rng: Random) -> list[Exchange]:
    one, two, aspects = rng.choice(PAIRS)
    if rng.random() < 0.5:
        one, two = two, one
        aspects = tuple((aspect, second, first) for aspect, first, second in aspects)
    aspects = tuple(rng.sample(aspects, len(aspects)))
    lines = [f"- {aspect}: {one} – {a}; {two} – {b}." for aspect, a, b in aspects]
    aspect, a, b = rng.choice(aspects)
    opening = rng.choice((
        request(rng, f"compare {one} and {two}"),
        question(rng, f"what is the difference between {one} and {two}?"),
        question(rng, f"how do {one} and {two} differ?"),
    ))  # fmt: skip
    more = [
        Exchange(again(rng, "put it in a table"),
                 table(("", capital(one), capital(two)), aspects)),
        Exchange(then(rng, f'what about the line "{aspect}"?'),
                 f"{aspect}: {one} – {a}; {two} – {b}."),
        Exchange(again(rng, "make it shorter"),
                 f"{capital(one)}: {aspects[0][1]}. {capital(two)}: {aspects[0][2]}."),
        Exchange(then(rng, "which of these lines matters most?"),
                 f'It depends on what you need. I would look at "{aspects[1][0]}" first: '
                 f"{one} – {aspects[1][1]}; {two} – {aspects[1][2]}."),
    ]  # fmt: skip
    reply = f"Here are the main differences between {one} and {two}:\n" + "\n".join(lines)
    return [Exchange(opening, reply), *some(rng, more, 1, 3)]


def python_function(rng: Random) -> list[Exchange]:
    make = rng.choice(FUNCTIONS)
    body = make.body.replace("\n", "\n    ")
    plain = f"def {make.name}({make.signature}):\n    {body}"
    scope: dict[str, object] = {}
    exec(plain, scope)
    call, other = (f"{make.name}({args})" for args in rng.sample(make.calls, 2))
    result, second = repr(eval(call, scope)), repr(eval(other, scope))
    spot = rng.randrange(len(make.steps))
    typed = f"def {make.name}({make.annotated}):\n    {body}"
    documented = f'def {make.name}({make.signature}):\n    """It {make.task}."""\n    {body}'
    opening = request(rng, rng.choice((
        f"write a Python function that {make.task}",
        f"show me Python code that {make.task}",
        f"write a short function in Python that {make.task}",
    )))  # fmt: skip
    more = [
        Exchange(again(rng, "show me how to call it"),
                 f"```python\nprint({call})\n```\nThis prints `{result}`."),
        Exchange(then(rng, f"what does `{other}` return?"), f"`{other}` returns `{second}`."),
        Exchange(again(rng, f"explain step {spot + 1}"), make.steps[spot]),
        Exchange(again(rng, "add type hints"), f"```python\n{typed}\n```\nThe hints tell the reader "
                 "which types the function expects."),
        Exchange(again(rng, "add a docstring"), f"```python\n{documented}\n```\nThe docstring tells "
                 f"the reader what `{make.name}` does."),
    ]  # fmt: skip
    rng.shuffle(more)
    reply = f"```python\n{plain}\n```\nHow it works:\n{numbered(make.steps)}"
    return [Exchange(opening, lead(rng, reply)), *some(rng, more, 1, 3)]


def capitals(rng: Random) -> list[Exchange]:
    chosen = rng.sample(COUNTRIES, 3)
    names = [country.name for country in chosen]
    in_order = sorted(country.capital for country in chosen)
    first = rng.choice(chosen)
    opening = request(rng, f"name the capitals of {listing(names)}")
    reply = "\n".join(f"- {capital(c.name)}: {c.capital}" for c in chosen)
    more = [
        Exchange(again(rng, "sort these capitals by name"),
                 f"Here they are from A to Z: {', '.join(in_order)}."),
        Exchange(then(rng, f"which of them are in {first.continent}?"),
                 f"In {first.continent}: "
                 f"{listing([c.capital for c in chosen if c.continent == first.continent])}."),
        Exchange(then(rng, "which languages are spoken there?"),
                 "\n".join(f"- {capital(c.name)}: {c.language}" for c in chosen)),
        Exchange(again(rng, "add the currencies"),
                 "\n".join(f"- {capital(c.name)}: {c.capital}, {c.currency}" for c in chosen)),
    ]  # fmt: skip
    return [Exchange(opening, lead(rng, reply)), *some(rng, more, 1, 3)]
