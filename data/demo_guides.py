"""Recipes and how-tos of the demo conversations."""

from __future__ import annotations

from typing import NamedTuple


class Recipe(NamedTuple):
    name: str
    serves: int
    ingredients: tuple[tuple[int, str, str], ...]  # amount, unit, what
    steps: tuple[str, ...]


RECIPES = (
    Recipe(
        "pancakes",
        4,
        ((200, "g", "flour"), (400, "ml", "milk"), (2, "", "eggs")),
        (
            "Whisk the flour, milk and eggs.",
            "Let the batter rest for 10 minutes.",
            "Fry thin rounds on both sides until golden.",
        ),
    ),
    Recipe(
        "tomato soup",
        4,
        ((800, "g", "tomatoes"), (2, "", "onions"), (600, "ml", "stock")),
        (
            "Fry the chopped onions gently.",
            "Add the tomatoes and the stock.",
            "Simmer for 20 minutes and blend.",
        ),
    ),
    Recipe(
        "lentil stew",
        6,
        ((300, "g", "lentils"), (6, "", "carrots"), (900, "ml", "water")),
        (
            "Rinse the lentils.",
            "Slice the carrots.",
            "Boil everything in the water for 25 minutes.",
        ),
    ),
    Recipe(
        "fruit salad",
        4,
        ((4, "", "apples"), (2, "", "oranges"), (200, "g", "grapes")),
        ("Wash the fruit.", "Cut everything into small pieces.", "Mix gently and chill."),
    ),
    Recipe(
        "apple crumble",
        6,
        ((6, "", "apples"), (240, "g", "flour"), (120, "g", "butter")),
        (
            "Slice the apples into a dish.",
            "Rub the butter into the flour.",
            "Cover the apples and bake at 180 °C for 35 minutes.",
        ),
    ),
    Recipe(
        "lemonade",
        4,
        ((4, "", "lemons"), (80, "g", "sugar"), (1000, "ml", "water")),
        ("Squeeze the lemons.", "Stir the juice and sugar until clear.", "Add the cold water."),
    ),
    Recipe(
        "potato purée",
        4,
        ((800, "g", "potatoes"), (40, "g", "butter"), (200, "ml", "milk")),
        (
            "Boil the peeled potatoes until soft.",
            "Mash them with the butter.",
            "Stir in the warm milk.",
        ),
    ),
    Recipe(
        "rice salad",
        4,
        ((300, "g", "rice"), (2, "", "peppers"), (100, "g", "peas")),
        ("Boil the rice and let it cool.", "Chop the peppers.", "Mix everything together."),
    ),
    Recipe(
        "oat biscuits",
        8,
        ((160, "g", "oats"), (80, "g", "butter"), (80, "g", "sugar")),
        (
            "Melt the butter.",
            "Stir in the oats and sugar.",
            "Bake small heaps at 170 °C for 15 minutes.",
        ),
    ),
    Recipe(
        "crêpes",
        4,
        ((250, "g", "flour"), (500, "ml", "milk"), (4, "", "eggs")),
        (
            "Beat the eggs with the milk.",
            "Stir in the flour until smooth.",
            "Cook very thin layers in a hot pan.",
        ),
    ),
)


class HowTo(NamedTuple):
    task: str  # completes "how do I ..."
    needs: str
    steps: tuple[tuple[str, str], ...]  # what to do, why


HOW_TOS = (
    HowTo(
        "water a house plant",
        "a small jug and a saucer",
        (
            ("Feel the soil with a finger.", "Damp soil does not need more water yet."),
            ("Pour water slowly around the stem.", "Slow pouring lets the soil soak it up."),
            ("Wait ten minutes.", "The extra water needs time to run through."),
            ("Empty the saucer.", "Roots rot when they stand in water."),
        ),
    ),
    HowTo(
        "make a cup of tea",
        "a kettle, a cup and a tea bag",
        (
            ("Boil fresh water.", "Hot water draws the taste out of the leaves."),
            ("Put the tea bag in the cup.", "It is easier to time the tea from the start."),
            ("Pour in the water and wait three minutes.", "Tea gets bitter if it stands too long."),
            ("Take out the bag.", "This stops the tea from getting stronger."),
        ),
    ),
    HowTo(
        "change a light bulb",
        "a new bulb and a steady step ladder",
        (
            ("Switch off the light.", "This keeps you safe from a shock."),
            ("Let the old bulb cool.", "A hot bulb can burn your fingers."),
            ("Unscrew the old bulb.", "The socket has to be free for the new one."),
            ("Screw in the new bulb and test it.", "A quick test shows that it sits well."),
        ),
    ),
    HowTo(
        "plant a seed",
        "a pot, some soil and a seed",
        (
            ("Fill the pot with soil.", "Loose soil leaves room for roots."),
            (
                "Make a small hole with a finger.",
                "A shallow hole keeps the seed close to the light.",
            ),
            ("Drop in the seed and cover it.", "The cover keeps the seed dark and damp."),
            ("Water it and put it in a warm place.", "Warmth and water wake the seed up."),
        ),
    ),
    HowTo(
        "clean a window",
        "warm water, a little soap and a dry cloth",
        (
            ("Wipe off the dust.", "Dry dust turns into mud when it gets wet."),
            ("Wash the glass with soapy water.", "Soap loosens grease and fingerprints."),
            ("Rinse it with clean water.", "Soap that stays on the glass leaves marks."),
            ("Dry it with the cloth.", "Drops leave spots when they dry by themselves."),
        ),
    ),
    HowTo(
        "pack a suitcase",
        "a list, a suitcase and small bags",
        (
            ("Write a list.", "A list stops you from forgetting things."),
            ("Put heavy things at the bottom.", "The case stands better that way."),
            ("Roll the soft clothes.", "Rolled clothes take less space."),
            ("Leave a little room.", "You may bring something back."),
        ),
    ),
    HowTo(
        "back up my photos",
        "an external drive and a cable",
        (
            ("Connect the drive to the computer.", "The computer has to see the drive first."),
            ("Make a folder with today's date.", "The date tells you how fresh the copy is."),
            ("Copy the photos into the folder.", "A second copy protects you from a broken disk."),
            ("Open a few copies to check them.", "A copy is only useful if it opens."),
        ),
    ),
    HowTo(
        "learn new words",
        "paper cards and a pen",
        (
            ("Choose ten words.", "A short list is easier to finish."),
            ("Write one word on each card.", "Writing helps you to remember."),
            ("Test yourself in the morning.", "Testing works better than reading again."),
            ("Repeat the hard cards in the evening.", "Hard words need more practice."),
        ),
    ),
    HowTo(
        "fix a flat bicycle tyre",
        "tyre levers, a patch and a pump",
        (
            ("Take off the wheel.", "You can reach the tyre from all sides."),
            ("Pull out the inner tube.", "The hole is nearly always in the tube."),
            ("Find the hole and stick on a patch.", "The patch keeps the air in."),
            ("Put everything back and pump it up.", "A firm tyre is hard to damage."),
        ),
    ),
    HowTo(
        "boil an egg",
        "an egg, a small pan and a spoon",
        (
            ("Bring water to the boil.", "Boiling water makes the timing reliable."),
            ("Lower the egg in with a spoon.", "A dropped egg cracks easily."),
            ("Wait eight minutes.", "After eight minutes the yolk is nearly firm."),
            ("Cool it in cold water.", "Cold water stops the cooking."),
        ),
    ),
    HowTo(
        "prepare for a meeting",
        "the agenda and your notes",
        (
            ("Read the agenda.", "You will know what people expect."),
            ("Write down three questions.", "Good questions keep the meeting short."),
            ("Check the time and the room.", "Being late costs everyone time."),
            ("Bring your notes.", "Notes help you to stay on the subject."),
        ),
    ),
    HowTo(
        "fall asleep more easily",
        "a dark room and a little patience",
        (
            ("Put the phone away an hour before bed.", "Bright screens keep you awake."),
            ("Open the window for a while.", "Cool, fresh air helps you to sleep."),
            ("Read a few quiet pages.", "Slow reading calms the mind."),
            ("Go to bed at the same time each day.", "A steady rhythm trains the body."),
        ),
    ),
)
