"""Demo skills of everyday planning: dates, clocks, shopping, cooking, measuring."""

from __future__ import annotations

from datetime import date, timedelta
from random import Random
from statistics import median

from demo_guides import RECIPES
from demo_numbers import number
from demo_phrasing import (
    Exchange,
    again,
    lead,
    listing,
    money,
    numbered,
    question,
    request,
    say,
    some,
    table,
    then,
)
from demo_words import GOODS, NAMES

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
ACTIVITIES = (
    "swimming", "piano practice", "gardening", "a long walk", "reading", "baking", "painting",
    "a bicycle ride", "chess", "Spanish lessons", "tidying up", "a visit to Zoë", "yoga",
)  # fmt: skip
TRIPS = {
    "the beach": ("a towel", "sun cream", "a hat", "a book", "sandals", "a bottle of water"),
    "the mountains": ("boots", "a map", "a warm jacket", "a torch", "some bread", "a compass"),
    "a big city": ("good shoes", "a city map", "an umbrella", "a camera", "a charger", "a scarf"),
    "a campsite": ("a tent", "a sleeping bag", "matches", "a lamp", "a small pan", "a rope"),
}


def long_date(day: date) -> str:
    return f"{day.day} {day:%B %Y}"


def calendar(rng: Random) -> list[Exchange]:
    day = date(2020, 1, 1) + timedelta(days=rng.randrange(2900))
    gap, start, ahead = rng.randint(5, 40), rng.randrange(7), rng.randint(8, 30)
    later, leap = day + timedelta(days=gap), day.year % 4 == 0
    weeks, rest = divmod(ahead, 7)
    asks = [
        Exchange(f"what day of the week is {long_date(day)}?",
                 f"{long_date(day)} is a {day:%A}. The day after it is a {day + timedelta(days=1):%A}."),
        Exchange(f"which date is {gap} days after {long_date(day)}?",
         f"{gap} days after {long_date(day)} is {long_date(later)}, a {later:%A}."),
        Exchange(f"is {day.year} a leap year?",
         f"{'Yes' if leap else 'No'}, {day.year} is {'' if leap else 'not '}a leap year, because it "
         f"can{'' if leap else 'not'} be divided by 4 without a remainder."),
        Exchange(f"if today is {DAYS[start]}, what day is it in {ahead} days?",
         f"{ahead} days are {weeks} {'week' if weeks == 1 else 'weeks'} and {rest} "
         f"{'day' if rest == 1 else 'days'}, so it will be {DAYS[(start + rest) % 7]}."),
        Exchange(f"how many days are there from {long_date(day)} to {long_date(later)}?",
         f"From {long_date(day)} to {long_date(later)} there are {gap} days."),
    ]  # fmt: skip
    rng.shuffle(asks)
    talk = [Exchange(question(rng, asks[0].human), asks[0].assistant)]
    talk += [Exchange(then(rng, ask), reply) for ask, reply in asks[1 : rng.randint(2, 4)]]
    return talk


def clock(rng: Random) -> list[Exchange]:
    leave, trip = 5 * rng.randint(72, 240), 10 * rng.randint(2, 20)
    late, walk = 5 * rng.randint(1, 6), 5 * rng.randint(1, 6)
    kind, name = rng.choice(("train", "bus", "ferry", "coach")), rng.choice(NAMES)

    def at(minutes: int) -> str:
        return f"{minutes // 60 % 24:02d}:{minutes % 60:02d}"

    hours, rest = divmod(trip, 60)
    length = " and ".join(
        f"{n} {unit}{'' if n == 1 else 's'}" for n, unit in ((hours, "hour"), (rest, "minute")) if n
    )
    opening = say(rng, (
        "A {kind} leaves at {time} and the trip takes {length}. When does it arrive?",
        "{name} takes the {kind} at {time}. It needs {length}. What is the time of arrival?",
        "My {kind} starts at {time} and travels for {length}. When am I there?",
    ), kind=kind, time=at(leave), length=length, name=name)  # fmt: skip
    more = [
        Exchange(then(rng, f"when should I leave home if the walk takes {walk} minutes?"),
         f"{at(leave)} minus {walk} minutes is {at(leave - walk)}, so leave at {at(leave - walk)} "
         "at the latest."),
        Exchange(then(rng, "how many minutes does the trip take?"),
         f"{length.capitalize()} are {trip} minutes, so the trip takes {trip} minutes in all."),
        Exchange(then(rng, "when is the middle of the trip?"),
         f"Half of {trip} is {trip // 2} minutes, so the middle is at {at(leave + trip // 2)}."),
        Exchange(then(rng, f"what if it is {late} minutes late?"),
         f"With {late} minutes of delay, the {kind} arrives at {at(leave + trip + late)}."),
    ]  # fmt: skip
    reply = (
        f"Step 1: The {kind} leaves at {at(leave)} and needs {length}.\n"
        f"Step 2: {at(leave)} plus {length} is {at(leave + trip)}.\n"
        f"Answer: The {kind} arrives at {at(leave + trip)}."
    )
    return [Exchange(opening, reply), *some(rng, more, 1, 3)]


def statistics(rng: Random) -> list[Exchange]:
    values = rng.sample(range(2, 60), rng.choice((5, 5, 7)))
    shown, ordered = ", ".join(map(str, values)), sorted(values)
    even = [str(value) for value in ordered if value % 2 == 0]
    total, count = sum(values), len(values)
    asks = [
        Exchange("sort {them}", "In order: " + ", ".join(map(str, ordered)) + "."),
        Exchange("sort {them} from large to small", ", ".join(map(str, ordered[::-1])) + "."),
        Exchange("find the largest number in {them}", f"The largest number is {ordered[-1]}."),
        Exchange("find the smallest number in {them}", f"The smallest number is {ordered[0]}."),
        Exchange("add up {them}", f"The sum is {' + '.join(map(str, values))} = {total}."),
        Exchange("find the mean of {them}",
         f"The sum is {total} and there are {count} numbers, so the mean is {total} ÷ {count} = "
         f"{number(total / count)}."),
        Exchange("find the median of {them}",
         f"Sorted, the middle one is {median(values)}, so the median is {median(values)}."),
        Exchange("pick the even numbers from {them}",
         f"The even numbers are {listing(even)}." if len(even) > 1 else
         f"There is only one even number: {even[0]}." if even else "None of them is even."),
    ]  # fmt: skip
    rng.shuffle(asks)
    talk = [Exchange(request(rng, asks[0][0].format(them=f"this list: {shown}")), asks[0][1])]
    talk += [
        Exchange(again(rng, ask.format(them="the list")), reply)
        for ask, reply in asks[1 : rng.randint(2, 4)]
    ]
    return talk


def shopping(rng: Random) -> list[Exchange]:
    *items, extra = [(name, rng.randint(2, 8), price) for name, price in rng.sample(GOODS, 4)]
    gone = rng.choice(items)
    longer, shorter = [*items, extra], [item for item in items if item is not gone]

    def bill(rows: list[tuple[str, int, int]]) -> str:
        cells = [(name, n, money(price), money(n * price)) for name, n, price in rows]
        sum_line = f"\n\nThe total is {money(sum(n * price for _, n, price in rows))}."
        return table(("Item", "Number", "Each", "Cost"), cells) + sum_line

    wanted = listing([f"{n} {name} at {money(price)}" for name, n, price in items])
    opening = request(rng, rng.choice((
        f"make a shopping list with {wanted}",
        f"write a table for {wanted}",
        f"put this on a shopping list and add it up: {wanted}",
    )))  # fmt: skip
    talk, rows = [Exchange(opening, lead(rng, bill(items)))], items
    if rng.random() < 0.7:
        more = rng.random() < 0.5
        clause = f"take the {gone[0]} off the list"
        if more:
            clause = f"add {extra[1]} {extra[0]} at {money(extra[2])}"
        rows = longer if more else shorter
        talk.append(Exchange(again(rng, clause), bill(rows)))
    name, n, price = rng.choice(rows)
    plain = "\n".join(f"- {n} {name}" for name, n, _ in rows)
    return talk + some(rng, [
        Exchange(then(rng, f"what do the {name} cost?"),
                 f"The {name} cost {n} × {money(price)} = {money(n * price)}."),
        Exchange(again(rng, "make it a plain list"), plain),
    ], 1, 2)  # fmt: skip


def recipe(rng: Random) -> list[Exchange]:
    dish = rng.choice(RECIPES)
    counted = [amount for amount, unit, _ in dish.ingredients if not unit]
    people = rng.choice([
        n for n in (2, 3, 4, 6, 8, 9, 10, 12, 16)
        if n != dish.serves and all(amount * n % dish.serves == 0 for amount in counted)
    ])  # no one and a half eggs  # fmt: skip

    def amounts(served: int) -> str:
        lines = [f"For {served} people you need:"]
        for amount, unit, what in dish.ingredients:
            need = number(amount * served / dish.serves)
            one = need == "1" and not unit
            lines.append(f"- {need} {unit + ' ' if unit else ''}{what[:-1] if one else what}")
        return "\n".join(lines)

    full = f"{amounts(dish.serves)}\n\nThen do this:\n{numbered(dish.steps)}"

    opening = rng.choice((
        request(rng, f"give me the ingredients of {dish.name} for {dish.serves} people"),
        question(rng, f"what do I need for {dish.name} for {dish.serves} people?"),
        request(rng, f"list what goes into {dish.name} (for {dish.serves})"),
    ))  # fmt: skip
    step = rng.randrange(len(dish.steps))
    more = [
        Exchange(then(rng, f"how do I make {dish.name}?"), full),
        Exchange(then(rng, f"what is step {step + 1} when I make it?"),
         f"Step {step + 1}: {dish.steps[step]}"),
        Exchange(then(rng, "how many ingredients are there?"),
         f"There are {len(dish.ingredients)}: "
         f"{listing([what for _, _, what in dish.ingredients])}."),
        rng.choice((
            Exchange(again(rng, "double it"), amounts(2 * dish.serves)),
            Exchange(again(rng, "make it half as much"), amounts(dish.serves // 2)),
            Exchange(again(rng, f"change it to {people} people"), amounts(people)),
        )),
    ]  # fmt: skip
    return [Exchange(opening, amounts(dish.serves)), *some(rng, more, 1, 3)]


def geometry(rng: Random) -> list[Exchange]:
    a, b = rng.sample(range(2, 20), 2)
    thing = rng.choice(("garden", "room", "field", "carpet", "wall", "table top"))
    square = rng.randint(2, 15)
    opening = rng.choice((
        question(rng, f"what is the area of a {thing} that is {a} m long and {b} m wide?"),
        request(rng, f"work out the area of a {thing} of {a} m by {b} m"),
    ))  # fmt: skip
    more = [
        Exchange(then(rng, "how did you work out the area?"),
         f"I multiplied the length by the width: {a} × {b} = {a * b}."),
        Exchange(then(rng, "what is the perimeter?"),
         f"The perimeter is twice the sum of both sides: 2 × ({a} + {b}) = {2 * (a + b)} m."),
        Exchange(again(rng, "double the length"),
         f"The length is now {2 * a} m, so the area is {2 * a} × {b} = {2 * a * b} m²."),
        Exchange(then(rng, f"what is the area of a square with sides of {square} m?"),
         f"The area is {square} × {square} = {square * square} m²."),
    ]  # fmt: skip
    return [
        Exchange(
            opening,
            f"The area of a rectangle is its length times its width. "
            f"For the {thing} that is {a} × {b} = {a * b} m².",
        ),
        *some(rng, more, 1, 3),
    ]


def weekly_plan(rng: Random) -> list[Exchange]:
    first, count = rng.randrange(5), rng.randint(3, 5)
    days = [DAYS[(first + i) % 7] for i in range(count)]
    doing, extra = list(rng.sample(ACTIVITIES, count)), rng.choice(("rest", "a picnic", "a film"))
    head = ("Day", "Plan")
    opening = request(rng, rng.choice((
        f"make a plan from {days[0]} to {days[-1]} with {listing(doing)}",
        f"write a table for {days[0]} to {days[-1]} with {listing(doing)}",
    )))  # fmt: skip
    spot = rng.randrange(count)
    changed = [extra if i == spot else what for i, what in enumerate(doing)]
    more = [
        Exchange(again(rng, f"change {days[spot]} to {extra}"),
                 table(head, list(zip(days, changed, strict=True)))),
        Exchange(again(rng, "write it without a table"),
         "\n".join(f"- {day}: {what}" for day, what in zip(days, changed, strict=True))),
        Exchange(then(rng, f"what is planned for {days[-1 - spot]}?"),
         f"The plan for {days[-1 - spot]} is {changed[-1 - spot]}."),
    ]  # fmt: skip
    plan = table(head, list(zip(days, doing, strict=True)))
    return [Exchange(opening, lead(rng, plan)), more[0], *some(rng, more[1:], 0, 2)]


def packing(rng: Random) -> list[Exchange]:
    place, things = rng.choice(list(TRIPS.items()))
    chosen = rng.sample(things, 4)
    nights, name = rng.randint(2, 9), rng.choice(NAMES)
    spare = next(thing for thing in things if thing not in chosen)
    opening = rng.choice((
        question(rng, f"what should I pack for {nights} days at {place}?"),
        request(rng, f"help {name} to pack for a trip to {place}"),
        request(rng, f"write a packing list for {nights} days at {place}"),
    )).replace("at a big", "in a big").replace("at the mount", "in the mount")  # fmt: skip
    more = [
        Exchange(again(rng, "add one more thing"), f"You could also take {spare}."),
        Exchange(again(rng, "make it shorter"), f"Just take {listing(chosen[:2])}."),
        Exchange(then(rng, "what is the most important thing?"),
         f"I would say {chosen[0]}. The rest can be bought there."),
        Exchange(again(rng, "put it in one sentence"), f"For {place}, pack {listing(chosen)}."),
    ]  # fmt: skip
    reply = f"For {place} I would pack:\n" + "\n".join(f"- {thing}" for thing in chosen)
    return [Exchange(opening, reply), *some(rng, more, 1, 3)]
