"""Demo skills of words and texts: spelling, word play, translations, stories, emails."""

from __future__ import annotations

from random import Random

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
    then,
)
from demo_texts import DEFINITIONS
from demo_words import (
    CATEGORIES,
    LANGUAGES,
    NAMES,
    OPPOSITES,
    PAST,
    PHRASES,
    PLURALS,
    SURNAMES,
    WORDS,
)

NUMBERS = ("three", "four", "five", "six")
EMAIL_PURPOSES = (  # subject, request, thanks
    ("Meeting on {day}", "could we meet on {day} at {hour}:00 to talk about the {topic}",
     "your time"),
    ("Question about the {topic}", "could you send me the latest notes on the {topic} by {day}",
     "your help"),
    ("Day off on {day}", "may I take {day} off, since the {topic} is nearly finished",
     "your understanding"),
    ("Delay of the {topic}", "would it be all right to finish the {topic} on {day}",
     "your patience"),
    ("Thank you for the {topic}", "may I invite you for a coffee on {day} at {hour}:00",
     "your great work on the {topic}"),
    ("Visit on {day}", "would you like to visit us on {day} to discuss the {topic}", "your interest"),
)  # fmt: skip
TOPICS = ("report", "garden project", "school paper", "website", "budget plan", "poster", "survey")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")
HEROES = ("fox", "robot", "baker", "snail", "sailor", "dragon", "girl", "boy", "mouse", "gardener")
TRAITS = ("small", "curious", "brave", "quiet", "clever", "patient", "cheerful", "shy")
PLACES = ("a quiet forest", "a town by the sea", "an old lighthouse", "a village in the hills",
          "a house at the edge of a lake", "a castle without a door")  # fmt: skip
FINDS = ("a silver key", "a lost letter", "a tiny lantern", "a map with no names", "a singing stone",
         "a box of old photos", "a green umbrella")  # fmt: skip
PROBLEMS = (
    ("a storm came up and the path was gone", "waited under a tree until the stars came out"),
    ("nobody knew what it was for", "asked every neighbour, one after another"),
    ("it was far too heavy to carry alone", "called a friend, and they carried it together"),
    ("a sleepy bear lay in the way", "sang softly until the bear moved aside"),
    ("the bridge was broken", "built a new one from fallen branches"),
)
MORALS = ("Asking for help is a kind of courage", "Small steps can lead a long way",
          "Good friends make heavy things light", "Patience opens many doors")  # fmt: skip
FEELINGS = (
    "At first {name} did not know what to do.",
    "{name} sat down and thought for a while.",
    '"This will not stop me," said {name}.',
    "{name} felt sad, but only for a moment.",
)
ENDINGS = (
    "In the end all was well, and {name} went home happy.",
    "By the evening everything was in its place, and {name} smiled.",
    "Since that day, {name} has told this story to every guest.",
)
SUBJECTS = ("The old farmer", "My sister", "The young teacher", "Our neighbour", "The tired driver")
ACTIONS = (  # past, present, the rest
    ("walked", "walks", "to the market"), ("painted", "paints", "the wooden door"),
    ("baked", "bakes", "a loaf of bread"), ("found", "finds", "a warm coat"),
    ("wrote", "writes", "a long letter"), ("watched", "watches", "the quiet river"),
    ("carried", "carries", "a heavy basket"), ("sang", "sings", "an old song"),
)  # fmt: skip
WHEN = ("in the morning", "after lunch", "on a rainy day", "before sunset", "with great care")


def word_order(rng: Random) -> list[Exchange]:
    words = rng.sample(WORDS, rng.choice((4, 4, 5)))
    ordered = sorted(words)
    one = rng.choice(words)
    longest = max(len(word) for word in words)
    top = [word for word in ordered if len(word) == longest]
    initials = "".join(word[0] for word in words)
    more = [
        Exchange(again(rng, "turn the order around"), ", ".join(ordered[::-1])),
        Exchange(then(rng, "which word is the longest?"),
                 f"The longest: {listing(top)}, with {longest} letters."),
        Exchange(then(rng, f'how many letters does "{one}" have?'),
                 f'"{one}" has {len(one)} letters: {"-".join(one)}.'),
        Exchange(again(rng, f'spell "{one}" backwards'),
                 f'{"-".join(one)} backwards is {"-".join(one[::-1])}: {one[::-1]}.'),
        Exchange(again(rng, "write them in capitals"), ", ".join(ordered).upper()),
    ]  # fmt: skip
    opening = request(rng, rng.choice((
        f"sort these words: {', '.join(words)}",
        f"put these words in alphabetical order: {', '.join(words)}",
    )))  # fmt: skip
    if rng.random() < 0.25:
        clause = f"take the first letters of these words: {', '.join(words)}"
        reply = f"The first letters are {'-'.join(initials)}."
        return [Exchange(request(rng, clause), reply), *some(rng, more[2:4], 1, 2)]
    return [Exchange(opening, lead(rng, f"In order: {', '.join(ordered)}")), *some(rng, more, 1, 3)]


def sentence_editing(rng: Random) -> list[Exchange]:
    who, other = rng.sample(SUBJECTS, 2)
    past, present, rest = rng.choice(ACTIONS)
    when = rng.choice(WHEN)
    text = f"{who} {past} {rest} {when}."
    edits = [
        Exchange("put {it} into the present tense", f"{who} {present} {rest} {when}."),
        Exchange("write {it} in capitals", text.upper()),
        Exchange("make {it} shorter", f"{who} {past} {rest}."),
        Exchange(f'start {{it}} with "{other}"', f"{other} {past} {rest} {when}."),
        Exchange("count the words in {it}", f"The sentence has {len(text.split())} words."),
        Exchange("move the last part of {it} to the front",
                 f"{capital(when)}, {who[0].lower() + who[1:]} {past} {rest}."),
        Exchange("find the verb in {it}", f'The verb is "{past}".'),
    ]  # fmt: skip
    rng.shuffle(edits)
    first, *others = edits[: rng.randint(2, 4)]
    opening = f"{request(rng, first.human.format(it='this sentence'))}\n\n{text}"
    return [Exchange(opening, first.assistant)] + [
        Exchange(again(rng, edit.human.format(it="the first sentence")), edit.assistant)
        for edit in others
    ]


def word_relations(rng: Random) -> list[Exchange]:
    asks = []
    for one, other in rng.sample(OPPOSITES, 2):
        a, b = (one, other) if rng.random() < 0.5 else (other, one)
        asks.append(Exchange(f'what is the opposite of "{a}"?',
                             f'The opposite of "{a}" is "{b}". '
                             f'For example: this one is {a}, but that one is {b}.'))  # fmt: skip
    for one, many in rng.sample(PLURALS, 2):
        asks.append(Exchange(f'what is the plural of "{one}"?',
                             f'The plural of "{one}" is "{many}": one {one}, two {many}.'))  # fmt: skip
    for verb, past in rng.sample(PAST, 2):
        asks.append(Exchange(f'what is the past tense of "{verb}"?',
                             f'The past tense of "{verb}" is "{past}": yesterday we {past}.'))  # fmt: skip
    rng.shuffle(asks)
    first, *others = asks[: rng.randint(2, 5)]
    talk = [Exchange(question(rng, first.human), first.assistant)]
    return talk + [Exchange(then(rng, ask), reply) for ask, reply in others]


def categories(rng: Random) -> list[Exchange]:
    (kind, members), (_, strangers) = rng.sample(list(CATEGORIES.items()), 2)
    count = rng.randint(3, 6)
    chosen = rng.sample(members, count)
    spare = [word for word in members if word not in chosen]
    one = spare[0]
    odd = rng.choice([word for word in strangers if word not in members])
    row = rng.sample([*chosen[:3], odd], 4)
    opening = request(rng, rng.choice((
        f"name {NUMBERS[count - 3]} {kind}",
        f"list {NUMBERS[count - 3]} {kind}",
        f"give me {NUMBERS[count - 3]} examples of {kind}",
    )))  # fmt: skip
    more = [
        Exchange(again(rng, "sort them"), f"In order: {', '.join(sorted(chosen))}."),
        Exchange(again(rng, "number them"), numbered(chosen)),
        Exchange(again(rng, "write them in capitals"), ", ".join(chosen).upper() + "."),
        Exchange(again(rng, "add one more"), f"One more: {one}."),
        Exchange(then(rng, f"which word does not fit: {', '.join(row)}?"),
                 f'"{odd}" does not fit, because the others are {kind}.'),
    ]  # fmt: skip
    return [Exchange(opening, lead(rng, f"{capital(listing(chosen))}.")), *some(rng, more, 1, 3)]


def definitions(rng: Random) -> list[Exchange]:
    (word, meaning, example), (other, second, sample) = rng.sample(DEFINITIONS, 2)
    opening = rng.choice((
        question(rng, f'what does "{word}" mean?'),
        request(rng, f'define "{word}"'),
        request(rng, f'explain the word "{word}"'),
    ))  # fmt: skip
    more = [
        Exchange(again(rng, "use it in a sentence"), example),
        Exchange(then(rng, f'what about "{other}"?'), f'"{other}" means: {second}.'),
        Exchange(again(rng, f'use "{other}" in a sentence'), sample),
        Exchange(then(rng, f'how many letters does "{word}" have?'),
                 f'"{word}" has {len(word)} letters: {"-".join(word)}.'),
    ]  # fmt: skip
    return [Exchange(opening, f'"{word}" means: {meaning}.'), *some(rng, more, 1, 3)]


def translation(rng: Random) -> list[Exchange]:
    phrase, forms = rng.choice(list(PHRASES.items()))
    other, more_forms = rng.choice([item for item in PHRASES.items() if item[0] != phrase])
    first, second, third = rng.sample(range(len(LANGUAGES)), 3)
    opening = rng.choice((
        request(rng, f'translate "{phrase}" into {LANGUAGES[first]}'),
        f'How do you say "{phrase}" in {LANGUAGES[first]}?',
        question(rng, f'what is "{phrase}" in {LANGUAGES[first]}?'),
    ))  # fmt: skip
    more = [
        Exchange(then(rng, f"what is it in {LANGUAGES[second]}?"),
                 f'In {LANGUAGES[second]} it is "{forms[second]}".'),
        Exchange(again(rng, f'translate "{other}" too'),
                 f'"{other}" in {LANGUAGES[first]} is "{more_forms[first]}".'),
        Exchange(again(rng, f"give me {LANGUAGES[second]} and {LANGUAGES[third]} in a list"),
                 f"- {LANGUAGES[second]}: {forms[second]}\n- {LANGUAGES[third]}: {forms[third]}"),
        Exchange(then(rng, f'what does "{more_forms[third]}" mean?'),
                 f'"{more_forms[third]}" is {LANGUAGES[third]} and means "{other}".'),
    ]  # fmt: skip
    reply = f'"{phrase}" in {LANGUAGES[first]} is "{forms[first]}".'
    return [Exchange(opening, reply), *some(rng, more, 1, 3)]


def story(rng: Random) -> list[Exchange]:
    trait, hero, place = rng.choice(TRAITS), rng.choice(HEROES), rng.choice(PLACES)
    name, (find, spare) = rng.choice(NAMES), rng.sample(FINDS, 2)
    (trouble, answer), moral = rng.choice(PROBLEMS), rng.choice(MORALS)
    who = f"{article(trait)} {hero}"
    setting = say(rng, (
        "Once upon a time, {who} called {name} lived in {place}.",
        "In {place} there lived {who} called {name}.",
        "There was once {who} named {name}, who lived in {place}.",
    ), who=who, name=name, place=place)  # fmt: skip

    start = rng.choice(("One morning", "On a windy day", "One evening", "After a long winter"))
    feeling = say(rng, FEELINGS, name=name)
    ending = say(rng, ENDINGS, name=name)

    def tale(thing: str) -> str:
        return (
            f"{setting} {start}, {name} found {thing}, but {trouble}. {feeling} So {name} {answer}. "
            f"{ending} {moral}."
        )

    opening = request(rng, rng.choice((
        f"tell me a short story about {who} and {find}",
        f"write a tiny story about {who} who finds {find}",
        f"write a story with {who}, {find} and {place}",
    )))  # fmt: skip
    title = f"{name} and {find.replace('a ', 'the ', 1)}"
    more = [
        Exchange(again(rng, "make it shorter"),
                 f"{capital(who)} called {name} found {find}, but {trouble}. So {name} {answer}."),
        Exchange(again(rng, "give it a title"), f'How about "{title}"?'),
        Exchange(then(rng, f"what did {name} find?"), f"{name} found {find}."),
        Exchange(again(rng, f"change {find} to {spare}"), tale(spare)),
        Exchange(then(rng, "what can we learn from it?"), f"{moral}."),
    ]  # fmt: skip
    return [Exchange(opening, lead(rng, tale(find))), *some(rng, more, 1, 3)]


def email(rng: Random) -> list[Exchange]:
    subject, ask, thanks = rng.choice(EMAIL_PURPOSES)
    sender, surname, topic = rng.choice(NAMES), rng.choice(SURNAMES), rng.choice(TOPICS)
    title, hour = rng.choice(("Ms", "Mr", "Dr")), rng.randint(9, 17)
    day, new_day = rng.sample(DAYS, 2)

    def letter(when: str, casual: bool = False) -> str:
        slots = {"day": when, "hour": hour, "topic": topic}
        hello = "Hello" if casual else f"Dear {title} {surname}"
        bye = (
            "Many thanks and see you soon" if casual else f"Thank you for {thanks.format(**slots)}"
        )
        close = "Best wishes" if casual else "Kind regards"
        return (
            f"Subject: {subject.format(**slots)}\n\n{hello},\n\nI hope you are well. "
            f"{capital(ask.format(**slots))}? {bye}.\n\n{close},\n{sender}"
        )

    asked = capital(ask.format(day=day, hour=hour, topic=topic))
    about = subject.format(day=day, topic=topic)
    about = about[0].lower() + about[1:]
    opening = request(rng, rng.choice((
        f"write a polite email to {title} {surname} from {sender} (subject: {about})",
        f"draft a short email from {sender} to {title} {surname}, subject: {about}",
        f"help {sender} to write to {title} {surname}; the subject is: {about}",
    )))  # fmt: skip
    more = [
        Exchange(again(rng, "make it shorter"),
                 f"Dear {title} {surname},\n\n{asked}?\n\nKind regards,\n{sender}"),
        Exchange(again(rng, f"change the day to {new_day}"), letter(new_day)),
        Exchange(again(rng, "make it less formal"), letter(day, casual=True)),
        Exchange(then(rng, "who is it from?"), f"It is from {sender}, to {title} {surname}."),
    ]  # fmt: skip
    return [Exchange(opening, lead(rng, letter(day))), *some(rng, more, 1, 2)]
