"""Words that tasks draw from: everyday nouns, each one token in most vocabularies, so that a choice costs one row."""

from __future__ import annotations

# ruff: noqa: SIM905
COLOURS = "red blue green yellow black white purple orange silver golden brown pink grey copper violet".split()
THINGS = "door box gate tower ship garden vault bridge lamp chest cellar wagon".split()

WORDS = (
    "apple river stone lemon tiger candle mirror anchor hammer pencil basket ladder bottle button carpet cotton dragon "
    "engine feather finger forest fountain garlic ginger helmet honey ivory jacket jungle kettle lantern leather "
    "magnet marble meadow monkey mountain needle ocean onion oven paper parrot pepper piano pillow planet pocket "
    "potato rabbit radio ribbon rocket saddle salmon shadow spider sponge storm sugar summer sunset table temple "
    "thunder ticket tomato tractor trumpet tunnel turtle umbrella valley velvet wallet walnut whale window winter wolf "
    "zebra butter cloud cream crown desert diamond eagle elephant flame flower frost grape island jewel king lake milk "
    "mouse pearl pirate queen snake spoon straw sword wheat wheel"
).split()

PEOPLE = (
    "John Mary Daniel Sandra Bill Fred Julie Jeff Anna Ben Carl Emma Frank Grace Henry Laura Peter Sarah Tom Alice "
    "Bob David Lucy Paul Jane Mark Nina Oscar"
).split()

PLACES = (
    "kitchen garden office bathroom bedroom park school cinema library museum station hospital market church garage "
    "attic"
).split()

OBJECTS = "apple football book lamp key cup knife letter ring map hat coat phone candle mirror hammer".split()

HOLDERS = "box bag basket drawer bottle suitcase bucket pocket".split()

BUILDINGS = "laboratory museum harbour library castle airport hospital theatre bakery palace".split()
