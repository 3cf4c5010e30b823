"""Demo skills that compute: every number in an answer is worked out by the code."""

from __future__ import annotations

from random import Random

from demo_phrasing import (
    Exchange,
    again,
    article,
    capital,
    lead,
    listing,
    money,
    question,
    request,
    say,
    some,
    table,
    then,
)
from demo_words import GOODS, NAMES

BUYING = (
    "{name} buys {n} {first} at {p} each and {m} {second} at {q} each. How much is that in all?",
    "At the market, {name} takes {n} {first} at {p} each and {m} {second} at {q} each. What is the sum?",
    "{name} needs {n} {first} ({p} each) and {m} {second} ({q} each). What is the total?",
)
UNITS = (  # from, to, factor
    ("kilometres", "metres", 1000), ("metres", "centimetres", 100), ("hours", "minutes", 60),
    ("minutes", "seconds", 60), ("kilograms", "grams", 1000), ("litres", "millilitres", 1000),
    ("weeks", "days", 7), ("days", "hours", 24), ("feet", "inches", 12), ("yards", "feet", 3),
    ("inches", "centimetres", 2.54), ("miles", "kilometres", 1.609), ("pounds", "kilograms", 0.454),
)  # fmt: skip
SINGULAR = {"feet": "foot", "inches": "inch"}
ONES = str.split(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
)
TENS = str.split("twenty thirty forty fifty sixty seventy eighty ninety")
ROMAN = ((100, "C"), (90, "XC"), (50, "L"), (40, "XL"), (10, "X"), (9, "IX"), (5, "V"), (4, "IV"))


def number(value: float) -> str:
    """At most two decimals, none where they are zero."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


def in_words(value: int) -> str:
    """A number below 1000 in British English words."""
    if value < 20:
        return ONES[value]
    if value < 100:
        return TENS[value // 10 - 2] + (f"-{ONES[value % 10]}" if value % 10 else "")
    rest = f" and {in_words(value % 100)}" if value % 100 else ""
    return f"{ONES[value // 100]} hundred{rest}"


def roman(value: int) -> str:
    """A number below 400 in Roman numerals."""
    text = ""
    for size, letters in (*ROMAN, (1, "I")):
        text += letters * (value // size)
        value %= size
    return text


def word_problem(rng: Random) -> list[Exchange]:
    name, other = rng.sample(NAMES, 2)
    (first, price), (second, cost) = rng.sample(GOODS, 2)
    n, m, friends, weeks = (rng.randint(*span) for span in ((2, 9), (2, 9), (3, 6), (3, 8)))
    sweets, saved, pages = rng.randint(20, 60), rng.randint(3, 12), rng.randint(5, 20)
    one, two = n * price, m * cost  # in cents
    total = one + two
    note = next(value for value in (500, 1000, 2000, 5000, 10000) if value > total)
    slots = {"name": name, "n": n, "m": m, "first": first, "second": second}
    story = say(rng, BUYING, p=money(price), q=money(cost), **slots)
    work = (
        f"Step 1: {n} {first} cost {n} × {money(price)} = {money(one)}.\n"
        f"Step 2: {m} {second} cost {m} × {money(cost)} = {money(two)}.\n"
        f"Step 3: {money(one)} + {money(two)} = {money(total)}.\n"
        f"Answer: {name} pays {money(total)}."
    )
    left = sweets % friends
    rest = {0: "none are", 1: "1 is"}.get(left, f"{left} are")
    more = [
        Exchange(
            again(rng, "explain step 2"),
            f"In step 2 we take the number of {second}, which is {m}, and multiply it by the price "
            f"of one, which is {money(cost)}. That gives {money(two)}.",
        ),
        Exchange(
            then(rng, f"how much change does {name} get from {money(note)}?"),
            f"{money(note)} - {money(total)} = {money(note - total)}, so {name} gets "
            f"{money(note - total)} back.",
        ),
        Exchange(
            again(rng, "double everything"),
            f"Twice as much of everything costs 2 × {money(total)} = {money(2 * total)}.",
        ),
        Exchange(
            f"{other} shares {sweets} sweets among {friends} friends. How many does each one get?",
            f"Step 1: {sweets} ÷ {friends} = {sweets // friends}, remainder {left}.\n"
            f"Answer: Each friend gets {sweets // friends} sweets and {rest} left over.",
        ),
        Exchange(
            f"{other} saves €{saved} a week. How much is that after {weeks} weeks?",
            f"Step 1: {weeks} × €{saved} = €{weeks * saved}.\n"
            f"Answer: {other} has €{weeks * saved} after {weeks} weeks.",
        ),
        Exchange(
            f"{other} reads {pages} pages a day. How many pages is that in {weeks} days?",
            f"Step 1: {weeks} × {pages} = {weeks * pages}.\n"
            f"Answer: {other} reads {weeks * pages} pages in {weeks} days.",
        ),
    ]
    if rng.random() < 0.3:
        return some(rng, more[3:], 1, 3)
    return [Exchange(story, work), *some(rng, more, 1, 3)]


def units(rng: Random) -> list[Exchange]:
    source, target, factor = rng.choice(UNITS)
    amount, celsius = rng.randint(2, 30), 5 * rng.randint(-2, 8)
    about = "about " if factor in (1.609, 0.454) else ""  # an inch is 2.54 cm exactly
    fahrenheit = number(celsius * 9 / 5 + 32)

    def convert(value: int) -> str:
        result = number(value * factor)
        return f"{value} × {factor} = {result}, so {value} {source} are {about}{result} {target}."

    opening = say(rng, ("convert {n} {a} to {b}", "turn {n} {a} into {b}"), n=amount, a=source,
                  b=target)  # fmt: skip
    asked = request(rng, opening) if rng.random() < 0.6 else question(
        rng, f"how many {target} are {amount} {source}?")  # fmt: skip
    more = [
        Exchange(again(rng, "double it"), f"2 × {amount} = {2 * amount}. {convert(2 * amount)}"),
        Exchange(then(rng, f"what about {amount + 5} {source}?"), convert(amount + 5)),
        Exchange(
            then(rng, "how did you get that?"),
            f"I multiplied the number of {source} by {factor}, because there are {about}{factor} "
            f"{target} in one {SINGULAR.get(source, source[:-1])}.",
        ),
        Exchange(
            then(rng, f"what is {celsius} °C in °F?"),
            f"Multiply by 9, divide by 5 and add 32: {celsius} °C is {fahrenheit} °F.",
        ),
    ]
    return [Exchange(asked, convert(amount)), *some(rng, more, 1, 3)]


def percentages(rng: Random) -> list[Exchange]:
    price, percent, other = 20 * rng.randint(1, 15), *rng.sample((5, 10, 15, 20, 25, 30, 40, 50), 2)
    thing = rng.choice(("jacket", "lamp", "chair", "bicycle", "radio", "backpack", "clock", "desk"))

    def off(part: int) -> str:
        saved = price * part
        return (
            f"Step 1: {part}% of €{price} is €{price} × {part} ÷ 100 = {money(saved)}.\n"
            f"Step 2: €{price} - {money(saved)} = {money(100 * price - saved)}.\n"
            f"Answer: The {thing} costs {money(100 * price - saved)}."
        )

    opening = say(rng, (
        "{A} costs €{p} and is now {d}% off. What is the new price?",
        "How much is {a} of €{p} with a discount of {d}%?",
        "The shop takes {d}% off {a} that costs €{p}. What do I pay?",
    ), a=article(thing), A=capital(article(thing)), p=price, d=percent)  # fmt: skip
    more = [
        Exchange(
            then(rng, "how much do I save?"),
            f"You save {percent}% of €{price}, which is {money(price * percent)}.",
        ),
        Exchange(
            then(rng, "what do two of them cost?"),
            f"Two of them cost 2 × {money(price * (100 - percent))} = "
            f"{money(2 * price * (100 - percent))}.",
        ),
        Exchange(then(rng, f"what if it is {other}% off?"), off(other)),
        Exchange(
            then(rng, f"what is {other}% of {price}?"),
            f"{other}% of {price} is {price} × {other} ÷ 100 = {number(price * other / 100)}.",
        ),
    ]
    return [Exchange(opening, off(percent)), *some(rng, more, 1, 3)]


def sequences(rng: Random) -> list[Exchange]:
    start, step = rng.randint(1, 12), rng.randint(2, 9)
    growing = rng.random() < 0.25
    terms = [start * 2**i if growing else start + step * i for i in range(10)]
    rule = "each number is doubled" if growing else f"we add {step} each time"
    shown = ", ".join(map(str, terms[:4]))
    opening = rng.choice((
        question(rng, f"what comes next: {shown}?"),
        request(rng, f"continue this sequence: {shown}"),
        question(rng, f"which three numbers follow {shown}?"),
    ))  # fmt: skip
    more = [
        Exchange(then(rng, "what is the rule?"),
                 f"The rule is this: {rule}. For example, {terms[0]} is followed by {terms[1]}."),
        Exchange(then(rng, "what is the tenth number?"),
                 f"The first ten are {listing(terms)}, so the tenth number is {terms[9]}."),
        Exchange(again(rng, "add up the first four"),
                 f"The sum is {' + '.join(map(str, terms[:4]))} = {sum(terms[:4])}."),
        Exchange(again(rng, "write the first six backwards"),
         f"{', '.join(map(str, terms[5::-1]))}."),
    ]  # fmt: skip
    reply = f"The next numbers are {listing(terms[4:7])}: {rule}."
    return [Exchange(opening, reply), *some(rng, more, 1, 3)]


def times_table(rng: Random) -> list[Exchange]:
    base, other, count = *rng.sample(range(3, 20), 2), rng.randint(4, 6)

    def lines(n: int, times: int = 1) -> str:
        return "\n".join(f"{i} × {n * times} = {i * n * times}" for i in range(1, count + 1))

    rows = [(i, i * base) for i in range(1, count + 1)]
    answers = ", ".join(str(2 * i * base) for i in range(1, count + 1))
    more = [
        Exchange(again(rng, "put that in a table"), table(("n", f"n × {base}"), rows)),
        Exchange(again(rng, "double every answer"), f"The doubled answers are {answers}."),
        Exchange(then(rng, f"what is 12 × {base}?"), f"12 × {base} = {12 * base}."),
        Exchange(again(rng, f"do the same for {other}"), lines(other)),
    ]
    opening = request(rng, rng.choice((
        f"write the first {count} lines of the {base} times table",
        f"show me the {base} times table up to {count}",
    )))  # fmt: skip
    return [Exchange(opening, lead(rng, lines(base))), *some(rng, more, 1, 3)]


def number_writing(rng: Random) -> list[Exchange]:
    value, other = rng.randint(21, 399), rng.randint(21, 399)
    ways = [
        Exchange(f"write {value} in words", f"{value} in words is {in_words(value)}."),
        Exchange(f"write {value} in Roman numerals", f"{value} in Roman numerals is {roman(value)}."),
        Exchange(f"write {value} in binary", f"{value} in binary is {value:b}."),
        Exchange(f"round {value} to the nearest ten", f"{value} rounded to the nearest ten is "
         f"{(value + 5) // 10 * 10}."),
        Exchange(f"say whether {value} is even or odd",
         f"{value} is {'odd' if value % 2 else 'even'}, because it ends in {value % 10}."),
        Exchange(f"split {value} into hundreds, tens and ones",
         f"{value} = {value // 100} × 100 + {value // 10 % 10} × 10 + {value % 10} × 1."),
    ]  # fmt: skip
    rng.shuffle(ways)
    first, *rest = ways[: rng.randint(2, 4)]
    talk = [Exchange(request(rng, first[0]), lead(rng, first[1]))]
    talk += [Exchange(again(rng, ask.replace(str(value), "it")), reply) for ask, reply in rest]
    if rng.random() < 0.4:
        talk.append(
            Exchange(again(rng, f"write {other} in words"), f"{other} is {in_words(other)}.")
        )
    return talk
