"""Python functions, definitions and comparisons of the demo conversations."""

from __future__ import annotations

from typing import NamedTuple


class Function(NamedTuple):
    task: str  # completes "write a Python function that ..."
    name: str
    signature: str
    annotated: str
    body: str
    steps: tuple[str, ...]
    calls: tuple[str, ...]  # argument lists for the examples


FUNCTIONS = tuple(
    Function(*row)
    for row in (
        (
            "adds two numbers",
            "add",
            "a, b",
            "a: int, b: int",
            "return a + b",
            ("It takes two numbers.", "It returns their sum."),
            ("2, 3", "10, 7", "-4, 9"),
        ),
        (
            "checks whether a number is even",
            "is_even",
            "n",
            "n: int",
            "return n % 2 == 0",
            ("It divides by 2 and keeps the remainder.", "An even number leaves remainder 0."),
            ("4", "7", "10"),
        ),
        (
            "reverses a string",
            "reverse",
            "text",
            "text: str",
            "return text[::-1]",
            ("The slice walks through the text backwards.", "It returns the new string."),
            ('"stone"', '"hello"', '"map"'),
        ),
        (
            "finds the largest number in a list",
            "largest",
            "numbers",
            "numbers: list[int]",
            "best = numbers[0]\nfor n in numbers:\n    if n > best:\n        best = n\nreturn best",
            (
                "It starts with the first number.",
                "It keeps every number that is larger.",
                "It returns the best one.",
            ),
            ("[3, 9, 4]", "[12, 5, 8, 1]", "[7]"),
        ),
        (
            "counts the vowels in a word",
            "count_vowels",
            "word",
            "word: str",
            'return sum(letter in "aeiou" for letter in word)',
            ("It looks at each letter.", "It adds 1 for every vowel."),
            ('"banana"', '"engine"', '"sky"'),
        ),
        (
            "computes the factorial of n",
            "factorial",
            "n",
            "n: int",
            "result = 1\nfor i in range(2, n + 1):\n    result *= i\nreturn result",
            ("It starts with 1.", "It multiplies by every number up to n."),
            ("3", "5", "6"),
        ),
        (
            "turns Celsius into Fahrenheit",
            "to_fahrenheit",
            "celsius",
            "celsius: float",
            "return celsius * 9 / 5 + 32",
            ("It multiplies by 9 and divides by 5.", "It adds 32."),
            ("0", "20", "100"),
        ),
        (
            "computes the mean of a list",
            "mean",
            "numbers",
            "numbers: list[float]",
            "return sum(numbers) / len(numbers)",
            ("It adds all the numbers.", "It divides by how many there are."),
            ("[2, 4, 6]", "[10, 20]", "[1, 2, 3, 4]"),
        ),
        (
            "checks whether a word is a palindrome",
            "is_palindrome",
            "word",
            "word: str",
            "return word == word[::-1]",
            ("It reverses the word with a slice.", "It compares both versions."),
            ('"level"', '"river"', '"noon"'),
        ),
        (
            "counts how often each word appears",
            "word_counts",
            "text",
            "text: str",
            (
                "counts = {}\nfor word in text.split():\n    counts[word] = counts.get(word, 0) + 1\n"
                "return counts"
            ),
            (
                "It splits the text into words.",
                "It adds 1 to the count of each word.",
                "It returns the dictionary.",
            ),
            ('"a b a"', '"red red blue"', '"one two"'),
        ),
        (
            "removes duplicates from a list",
            "unique",
            "items",
            "items: list",
            (
                "seen = []\nfor item in items:\n    if item not in seen:\n        seen.append(item)\n"
                "return seen"
            ),
            ("It keeps a list of what it has seen.", "It adds only new items, in order."),
            ("[1, 2, 1, 3]", '["a", "b", "a"]', "[5, 5, 5]"),
        ),
        (
            "returns the squares of the first n numbers",
            "squares",
            "n",
            "n: int",
            "return [i * i for i in range(1, n + 1)]",
            ("It counts from 1 to n.", "It multiplies each number by itself."),
            ("3", "5", "6"),
        ),
        (
            "clamps a number between two limits",
            "clamp",
            "x, low, high",
            "x: int, low: int, high: int",
            "return max(low, min(x, high))",
            ("It cuts the number at the upper limit.", "It lifts it to the lower limit."),
            ("15, 0, 10", "-3, 0, 10", "6, 0, 10"),
        ),
        (
            "finds the greatest common divisor",
            "gcd",
            "a, b",
            "a: int, b: int",
            "while b:\n    a, b = b, a % b\nreturn a",
            (
                "It replaces the pair by the smaller number and the remainder.",
                "When the remainder is 0, the other number is the answer.",
            ),
            ("12, 18", "35, 14", "9, 28"),
        ),
    )
)

DEFINITIONS = tuple(  # word, meaning, example sentence
    row.split(" | ")
    for row in """
archive | a place where old documents are kept | The town archive holds letters from 1850.
balance | a state in which things are evenly spread | She kept her balance on the narrow wall.
budget | a plan for how to spend money | Our budget for the trip is small.
compass | a tool that shows which way is north | The compass led them out of the forest.
curious | eager to know or learn something | The curious child asked about everything.
deadline | the latest time by which work must be done | The deadline for the report is Friday.
draft | an early version of a text | I will send you a draft tomorrow.
echo | a sound that comes back from a wall or hill | We heard an echo in the valley.
fragile | easy to break | Please carry the fragile glass with care.
generous | happy to give more than is expected | The generous baker added a free roll.
glacier | a large, slow river of ice | The glacier moves a little every year.
habit | something you do often, almost without thinking | Reading in bed is a good habit.
horizon | the line where the sky seems to meet the land | The sun sank below the horizon.
invention | a new thing that somebody has made or designed | The wheel is an old invention.
journey | a trip from one place to another | The journey by train took six hours.
kindness | the quality of being friendly and helpful | Thank you for your kindness.
lantern | a lamp that can be carried | He held up the lantern in the dark.
measure | to find the size or amount of something | Measure the table before you buy a cloth.
nectar | a sweet liquid that flowers make | Bees collect nectar from flowers.
orbit | the curved path of one thing around another | The Moon is in orbit around the Earth.
patience | the ability to wait calmly | Fishing takes a lot of patience.
puzzle | a game or problem that makes you think | We finished the puzzle after dinner.
quarry | a place where stone is dug out of the ground | The old quarry is full of water now.
rehearsal | a practice before a show | The last rehearsal went very well.
reliable | able to be trusted to work well | My old bicycle is still reliable.
rumour | a story that may or may not be true | The rumour spread through the school.
shelter | a place that protects you from bad weather | They found shelter under a bridge.
souvenir | a thing you keep to remember a place | She bought a small bell as a souvenir.
thermometer | a tool that measures temperature | The thermometer shows 21 °C.
tradition | something people have done for a long time | Singing together is a family tradition.
tunnel | a passage under the ground | The train went into a long tunnel.
valley | low land between hills | A river runs through the valley.
village | a group of houses smaller than a town | Everyone in the village knows the baker.
wisdom | good sense that comes from experience | Her grandmother was full of wisdom.
yeast | a tiny living thing that makes dough rise | Add the yeast to the warm water.
zigzag | a line that turns sharply left and right | The path goes up in a zigzag.
""".strip().splitlines()
)

PAIRS = (  # first, second, then (aspect, first's value, second's value)
    (
        "a bicycle",
        "a bus",
        (
            ("Cost", "very low", "a ticket for each trip"),
            ("Speed", "good in town", "better on long roads"),
            ("Weather", "you get wet", "you stay dry"),
        ),
    ),
    (
        "tea",
        "coffee",
        (
            ("Taste", "light and fresh", "strong and roasted"),
            ("Caffeine", "usually less", "usually more"),
            ("Made from", "leaves", "roasted beans"),
        ),
    ),
    (
        "a lake",
        "a river",
        (
            ("Water", "mostly still", "always flowing"),
            ("Shape", "wide and closed", "long and narrow"),
            ("Travel", "across it", "along it"),
        ),
    ),
    (
        "a paper book",
        "an e-reader",
        (
            ("Weight", "one book at a time", "many books in one device"),
            ("Power", "needs none", "needs charging"),
            ("Feel", "real pages", "a flat screen"),
        ),
    ),
    (
        "a cat",
        "a dog",
        (
            ("Walks", "goes out alone", "needs daily walks"),
            ("Character", "independent", "sociable"),
            ("Sound", "it meows", "it barks"),
        ),
    ),
    (
        "butter",
        "olive oil",
        (
            ("Made from", "milk", "olives"),
            ("At room temperature", "soft and solid", "liquid"),
            ("Good for", "baking", "salads"),
        ),
    ),
    (
        "a town",
        "a village",
        (
            ("Size", "larger", "smaller"),
            ("Shops", "many", "few"),
            ("Noise", "often loud", "mostly quiet"),
        ),
    ),
    (
        "a train",
        "a plane",
        (
            ("Speed", "fast", "very fast"),
            ("View", "fields and towns", "clouds"),
            ("Waiting", "a few minutes", "an hour or more"),
        ),
    ),
    (
        "wood",
        "steel",
        (
            ("Strength", "strong and light", "very strong and heavy"),
            ("Rust", "never rusts", "can rust"),
            ("Made from", "trees", "iron and carbon"),
        ),
    ),
    (
        "a pencil",
        "a pen",
        (
            ("Mark", "grey and easy to rub out", "dark and lasting"),
            ("Needs", "a sharpener", "ink"),
            ("Best for", "sketches", "letters"),
        ),
    ),
    (
        "summer",
        "winter",
        (
            ("Days", "long", "short"),
            ("Weather", "warm", "cold"),
            ("Clothes", "light shirts", "thick coats"),
        ),
    ),
    (
        "an email",
        "a letter",
        (
            ("Speed", "seconds", "a few days"),
            ("Cost", "nearly nothing", "a stamp"),
            ("Feel", "quick and plain", "personal"),
        ),
    ),
)
