"""Facts behind the demo conversations: countries, planets, elements, animals."""

from __future__ import annotations

from typing import NamedTuple


class Country(NamedTuple):
    name: str
    capital: str
    continent: str
    currency: str
    language: str
    river: str


COUNTRIES = tuple(
    Country(*row)
    for row in (
        ("France", "Paris", "Europe", "euro", "French", "Seine"),
        ("Spain", "Madrid", "Europe", "euro", "Spanish", "Tagus"),
        ("Portugal", "Lisbon", "Europe", "euro", "Portuguese", "Douro"),
        ("Germany", "Berlin", "Europe", "euro", "German", "Rhine"),
        ("Austria", "Vienna", "Europe", "euro", "German", "Danube"),
        ("Italy", "Rome", "Europe", "euro", "Italian", "Po"),
        ("Greece", "Athens", "Europe", "euro", "Greek", "Haliacmon"),
        ("Poland", "Warsaw", "Europe", "złoty", "Polish", "Vistula"),
        ("Hungary", "Budapest", "Europe", "forint", "Hungarian", "Danube"),
        ("Czechia", "Prague", "Europe", "koruna", "Czech", "Vltava"),
        ("Sweden", "Stockholm", "Europe", "krona", "Swedish", "Torne"),
        ("Norway", "Oslo", "Europe", "krone", "Norwegian", "Glomma"),
        ("Finland", "Helsinki", "Europe", "euro", "Finnish", "Kemijoki"),
        ("Iceland", "Reykjavík", "Europe", "króna", "Icelandic", "Þjórsá"),
        ("Ireland", "Dublin", "Europe", "euro", "English and Irish", "Shannon"),
        ("the Netherlands", "Amsterdam", "Europe", "euro", "Dutch", "Meuse"),
        ("Romania", "Bucharest", "Europe", "leu", "Romanian", "Danube"),
        ("Croatia", "Zagreb", "Europe", "euro", "Croatian", "Sava"),
        ("Egypt", "Cairo", "Africa", "Egyptian pound", "Arabic", "Nile"),
        ("Kenya", "Nairobi", "Africa", "Kenyan shilling", "Swahili and English", "Tana"),
        ("Ghana", "Accra", "Africa", "cedi", "English", "Volta"),
        ("Nigeria", "Abuja", "Africa", "naira", "English", "Niger"),
        ("Japan", "Tokyo", "Asia", "yen", "Japanese", "Shinano"),
        ("China", "Beijing", "Asia", "yuan", "Chinese", "Yangtze"),
        ("India", "New Delhi", "Asia", "rupee", "Hindi and English", "Ganges"),
        ("Thailand", "Bangkok", "Asia", "baht", "Thai", "Chao Phraya"),
        ("South Korea", "Seoul", "Asia", "won", "Korean", "Han"),
        ("Brazil", "Brasília", "South America", "real", "Portuguese", "Amazon"),
        ("Argentina", "Buenos Aires", "South America", "peso", "Spanish", "Paraná"),
        ("Chile", "Santiago", "South America", "peso", "Spanish", "Biobío"),
        ("Colombia", "Bogotá", "South America", "peso", "Spanish", "Magdalena"),
        ("Canada", "Ottawa", "North America", "dollar", "English and French", "Mackenzie"),
        ("Mexico", "Mexico City", "North America", "peso", "Spanish", "Lerma"),
        ("Australia", "Canberra", "Oceania", "dollar", "English", "Murray"),
        ("New Zealand", "Wellington", "Oceania", "dollar", "English and Māori", "Waikato"),
    )
)


class Planet(NamedTuple):
    name: str
    order: str
    diameter_km: int
    year: str
    kind: str
    note: str


PLANETS = tuple(
    Planet(*row)
    for row in (
        ("Mercury", "first", 4879, "88 days", "rocky planet", "it is the smallest planet"),
        ("Venus", "second", 12104, "225 days", "rocky planet", "it is the hottest planet"),
        ("Earth", "third", 12756, "365 days", "rocky planet", "it has oceans of liquid water"),
        ("Mars", "fourth", 6792, "687 days", "rocky planet", "its rusty soil looks red"),
        ("Jupiter", "fifth", 142984, "12 years", "gas giant", "it is the largest planet"),
        ("Saturn", "sixth", 120536, "29 years", "gas giant", "it has bright, wide rings"),
        ("Uranus", "seventh", 51118, "84 years", "ice giant", "it is tipped on its side"),
        ("Neptune", "eighth", 49528, "165 years", "ice giant", "it has very fast winds"),
    )
)


class Element(NamedTuple):
    name: str
    symbol: str
    number: int
    state: str
    use: str


ELEMENTS = tuple(
    Element(*row)
    for row in (
        ("hydrogen", "H", 1, "gas", "fuel cells"),
        ("helium", "He", 2, "gas", "balloons"),
        ("lithium", "Li", 3, "solid", "batteries"),
        ("carbon", "C", 6, "solid", "pencils, in the form of graphite"),
        ("nitrogen", "N", 7, "gas", "making fertiliser"),
        ("oxygen", "O", 8, "gas", "breathing equipment"),
        ("neon", "Ne", 10, "gas", "glowing signs"),
        ("sodium", "Na", 11, "solid", "street lamps and, with chlorine, table salt"),
        ("magnesium", "Mg", 12, "solid", "light alloys"),
        ("aluminium", "Al", 13, "solid", "cans and foil"),
        ("silicon", "Si", 14, "solid", "computer chips"),
        ("sulphur", "S", 16, "solid", "making rubber stronger"),
        ("chlorine", "Cl", 17, "gas", "keeping pools clean"),
        ("potassium", "K", 19, "solid", "fertiliser"),
        ("calcium", "Ca", 20, "solid", "cement"),
        ("titanium", "Ti", 22, "solid", "strong, light aircraft parts"),
        ("iron", "Fe", 26, "solid", "making steel"),
        ("nickel", "Ni", 28, "solid", "coins"),
        ("copper", "Cu", 29, "solid", "electric wires"),
        ("zinc", "Zn", 30, "solid", "protecting steel from rust"),
        ("silver", "Ag", 47, "solid", "jewellery and mirrors"),
        ("tin", "Sn", 50, "solid", "solder"),
        ("tungsten", "W", 74, "solid", "very hard tools"),
        ("gold", "Au", 79, "solid", "jewellery"),
        ("mercury", "Hg", 80, "liquid", "some old thermometers"),
        ("lead", "Pb", 82, "solid", "car batteries"),
    )
)


class Animal(NamedTuple):
    name: str
    young: str
    legs: int
    kind: str
    food: str
    home: str


ANIMALS = tuple(
    Animal(*row)
    for row in (
        ("cat", "kitten", 4, "mammal", "meat", "in houses and on farms"),
        ("dog", "puppy", 4, "mammal", "mostly meat", "in houses and on farms"),
        ("cow", "calf", 4, "mammal", "grass", "on farms"),
        ("sheep", "lamb", 4, "mammal", "grass", "on farms and hills"),
        ("horse", "foal", 4, "mammal", "grass and hay", "in fields and stables"),
        ("goat", "kid", 4, "mammal", "leaves and grass", "on farms and in mountains"),
        ("deer", "fawn", 4, "mammal", "leaves and buds", "in woods"),
        ("lion", "cub", 4, "mammal", "meat", "in grassland"),
        ("bear", "cub", 4, "mammal", "berries, fish and roots", "in forests"),
        ("fox", "cub", 4, "mammal", "mice, birds and fruit", "in woods and towns"),
        ("hare", "leveret", 4, "mammal", "grass and herbs", "in open fields"),
        ("duck", "duckling", 2, "bird", "plants and insects", "on ponds and rivers"),
        ("goose", "gosling", 2, "bird", "grass", "near lakes"),
        ("swan", "cygnet", 2, "bird", "water plants", "on lakes and rivers"),
        ("hen", "chick", 2, "bird", "seeds and insects", "on farms"),
        ("owl", "owlet", 2, "bird", "mice and other small animals", "in woods and barns"),
        ("eagle", "eaglet", 2, "bird", "fish and other animals", "on cliffs and in tall trees"),
        ("frog", "tadpole", 4, "amphibian", "insects", "in and near ponds"),
        ("butterfly", "caterpillar", 6, "insect", "nectar", "in gardens and meadows"),
        ("rabbit", "kit", 4, "mammal", "grass and leaves", "in burrows"),
    )
)
