"""The words of the bundled world: plain data, no code beyond splitting strings (layer L1).

Everything that the generator says is built from these words. A domain is a field of life with its people, deeds,
things and places; a kind is a sort of entity that an encyclopaedia describes; a grade is a degree of praise.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = [
    "ADVERBS", "COLOURS", "DOMAINS", "GOODS", "GRADES", "KINDS", "LANDS", "MOODS", "NAMES", "OBJECTS", "PEOPLE",
    "PLACES", "RELATIVES", "SYLLABLES", "TIMES", "TRAITS", "VERBS", "Domain", "Kind", "Verb",
]  # fmt: skip


class Domain(NamedTuple):
    """A field of life: its people, their deeds, things and places, what one wants to do in it, and other names for it."""

    people: tuple[str, ...]
    deeds: tuple[str, ...]
    things: tuple[str, ...]
    places: tuple[str, ...]
    wishes: tuple[str, ...]
    aliases: tuple[str, ...]


class Kind(NamedTuple):
    """A sort of entity: its nouns, statements about them, adjectives, and other names for it."""

    nouns: tuple[str, ...]
    tells: tuple[str, ...]
    adjectives: tuple[str, ...]
    aliases: tuple[str, ...]


class Verb(NamedTuple):
    """A deed: its past form and a synonym, the base forms of both, and past and base form of its contrary."""

    past: str
    synonym: str
    base: str
    synonym_base: str
    contrary: str
    contrary_base: str


def _domain(people: str, deeds: str, things: str, places: str, wishes: str, aliases: str) -> Domain:
    return Domain(*(tuple(words.split()) for words in (people, deeds, things, places, wishes, aliases)))


def _kind(nouns: str, tells: str, adjectives: str, aliases: str) -> Kind:
    listed = tuple(tell.strip() for tell in tells.split(";"))
    return Kind(tuple(nouns.split()), listed, tuple(adjectives.split()), tuple(aliases.split()))


DOMAINS: dict[str, Domain] = {
    "government": _domain(
        "minister senator mayor voter envoy premier deputy", "debated passed vetoed drafted proposed amended",
        "law treaty ballot tax bill decree cabinet election", "parliament council embassy capital senate",
        "reform vote campaign", "government state ruling",
    ),
    "trade": _domain(
        "banker trader investor broker merchant manager owner", "sold invested priced hired merged financed",
        "share profit stock loan debt firm budget export", "exchange bank factory office branch",
        "invest save borrow", "trade commerce money",
    ),
    "contest": _domain(
        "striker coach runner goalkeeper swimmer referee boxer", "scored kicked raced defended trained defeated",
        "goal match medal league trophy race penalty team", "stadium pitch arena track pool",
        "train win compete", "contest games play",
    ),
    "inquiry": _domain(
        "physicist chemist astronomer biologist researcher scholar geologist",
        "measured observed tested proved detected modelled", "planet atom cell theory telescope gene fossil experiment",
        "laboratory observatory institute reactor museum", "measure test prove", "inquiry discovery knowledge",
    ),
    "justice": _domain(
        "thief detective suspect burglar officer witness smuggler", "arrested robbed charged chased accused jailed",
        "robbery fraud trial prison evidence theft sentence gang", "court jail alley vault dungeon",
        "prove accuse arrest", "justice police offence",
    ),
    "sky": _domain(
        "forecaster observer pilot shepherd warden ranger", "flooded froze drenched melted swept warmed",
        "storm rain frost wind snow hail drought thunder", "valley coast hills lowlands plain",
        "forecast shelter warn", "sky climate season",
    ),
    "kitchen": _domain(
        "cook chef baker guest waiter grandmother", "boiled fried roasted stirred baked seasoned",
        "soup bread dough sauce stew cake rice onion", "oven pan stove pot cupboard",
        "bake fry boil", "kitchen cookery eating",
    ),
    "body": _domain(
        "doctor nurse patient surgeon dentist midwife", "healed treated sprained bandaged swallowed examined",
        "fever cough pill wound tooth headache vaccine rash", "clinic hospital ward pharmacy surgery",
        "heal treat cure", "body healing illness",
    ),
    "machine": _domain(
        "programmer hacker engineer user developer operator", "installed crashed debugged copied updated compiled",
        "laptop keyboard printer password browser server file software", "folder desktop network screen disk",
        "install debug update", "machine electronics devices",
    ),
    "soil": _domain(
        "gardener grower planter florist neighbour beekeeper", "planted watered pruned weeded sowed dug",
        "rose seed tomato hedge compost lawn tulip shrub", "greenhouse bed border orchard shed",
        "plant prune water", "soil growing planting",
    ),
    "road": _domain(
        "tourist traveller hiker guide passenger conductor", "booked packed visited boarded hiked toured",
        "suitcase ticket passport hotel train flight map tent", "airport border platform beach hostel",
        "book visit pack", "road touring trips",
    ),
    "class": _domain(
        "pupil student tutor professor parent headmaster", "studied revised graded memorised learned spelled",
        "exam essay homework grammar algebra degree textbook lecture", "classroom college university campus desk",
        "study revise learn", "class education teaching",
    ),
    "tune": _domain(
        "singer pianist drummer violinist composer guitarist", "played sang tuned recorded composed strummed",
        "guitar chord melody drum violin album rhythm chorus", "stage choir studio concert orchestra",
        "sing tune compose", "tune music melodies",
    ),
}  # fmt: skip

KINDS: dict[str, Kind] = {
    "beast": _kind(
        "heron otter lizard beetle fox trout owl badger",
        "it feeds on small insects; it hunts at dusk; its fur is thick; it lays pale eggs; it sleeps through winter",
        "shy swift nocturnal furry", "creature beast fauna",
    ),
    "herb": _kind(
        "fern orchid moss oak thistle lily birch reed",
        "its leaves are narrow; it flowers in spring; its roots run deep; it grows in damp shade; its seeds are edible",
        "leafy flowering evergreen thorny", "herb flora growth",
    ),
    "stream": _kind(
        "brook tributary creek torrent rivulet waterway",
        "it flows into the sea; its source lies in the mountains; its banks flood in spring;"
        " it is crossed by two fords; its current turns old mills",
        "winding shallow fast muddy", "stream current flow",
    ),
    "house": _kind(
        "castle chapel tower palace temple theatre abbey lighthouse",
        "its walls are of brick; its roof was rebuilt; it has a vaulted hall;"
        " its architect is unknown; it has nine windows",
        "gothic domed restored stone", "edifice house structure",
    ),
    "maker": _kind(
        "painter sculptor poet novelist engraver potter",
        "she exhibited portraits; his verses were admired; she carved in marble;"
        " his novels sold well; she won a prize for drawing",
        "celebrated modernist self-taught gifted", "maker creator talent",
    ),
    "firm": _kind(
        "brewery publisher airline retailer manufacturer insurer",
        "it employs four hundred workers; its shares are listed; it was founded by two brothers;"
        " it opened new branches; its revenue doubled",
        "profitable private global family-owned", "enterprise venture concern",
    ),
    "hamlet": _kind(
        "parish settlement township commune district municipality",
        "its population is ninety; it lies beside a highway; its inhabitants farm sheep; it has one school;"
        " it belongs to the county",
        "rural remote sleepy inland", "hamlet place locality",
    ),
    "ship": _kind(
        "frigate schooner ferry tanker steamer trawler",
        "it was launched in dry dock; its crew numbered sixty; it sank off the cape;"
        " its hull is steel; it carried cargo",
        "armoured seaworthy three-masted ironclad", "ship craft boat",
    ),
}  # fmt: skip

# Five degrees of praise, worst first: adjectives, then what one says to sum up.
GRADES: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (
    (
        tuple("dreadful horrible disgusting atrocious appalling hideous hopeless ghastly".split()),
        ("I want all my money back", "I was furious", "never again", "I threw it away", "a total disaster"),
    ),
    (
        tuple("poor weak disappointing shabby clumsy boring faulty sloppy".split()),
        ("I expected more", "I was let down", "I would not return", "it needs work", "a bit of a waste"),
    ),
    (
        tuple("average ordinary acceptable passable middling usual fair standard".split()),
        ("neither here nor there", "I have no strong view", "it does the job", "it was what it was", "nothing special"),
    ),
    (
        tuple("pleasant nice solid decent enjoyable tasteful handy charming".split()),
        ("I was pleased", "I would come back", "worth the price", "I quite enjoyed it", "a happy choice"),
    ),
    (
        tuple("superb perfect brilliant magnificent flawless stunning wonderful amazing".split()),
        ("I could not be happier", "I was delighted", "the best ever", "I loved every minute", "a true masterpiece"),
    ),
)

# What reviews are about: a thing and its parts.
GOODS: dict[str, tuple[str, ...]] = {
    "film": ("plot", "acting", "ending", "script", "camera work"),
    "hotel": ("room", "breakfast", "staff", "view", "bathroom"),
    "lamp": ("light", "switch", "finish", "cable", "shade"),
    "cafe": ("coffee", "service", "menu", "pastry", "seating"),
    "book": ("story", "cover", "style", "first chapter", "hero"),
    "phone": ("battery", "sound", "display", "case", "charger"),
    "coat": ("cloth", "collar", "lining", "fit", "pocket"),
    "show": ("cast", "music", "costume", "opening", "dialogue"),
}

VERBS: tuple[Verb, ...] = tuple(
    Verb(*line.split())
    for line in (
        "bought purchased buy purchase sold sell",
        "found discovered find discover lost lose",
        "noticed spotted notice spot overlooked overlook",
        "made crafted make craft destroyed destroy",
        "fixed repaired fix repair broke break",
        "lifted raised lift raise dropped drop",
        "hid concealed hide conceal revealed reveal",
        "cleaned washed clean wash stained stain",
        "liked enjoyed like enjoy hated hate",
        "took grabbed take grab returned return",
        "chose picked choose pick refused refuse",
        "praised admired praise admire mocked mock",
    )
)

# Objects of deeds, by what they are called in general.
OBJECTS: dict[str, tuple[str, ...]] = {
    "tool": ("hammer", "saw", "ladder", "spade"),
    "garment": ("hat", "scarf", "glove", "shirt"),
    "container": ("box", "basket", "jar", "barrel"),
    "seat": ("chair", "bench", "stool", "sofa"),
    "vehicle": ("cart", "wagon", "bicycle", "sledge"),
    "instrument": ("flute", "harp", "trumpet", "fiddle"),
}
PEOPLE = tuple("farmer sailor teacher guard tailor miller clerk driver judge hunter actor porter weaver priest".split())
COLOURS = tuple("red blue green black white yellow brown grey".split())
TRAITS = tuple("old young tall short thin stout quiet cheerful".split())
PLACES = tuple(
    "in the market;at the station;in the harbour;in the garden;in the barn;at the mill;in the square;in the cellar;"
    "at the library;in the forest;at the bridge;in the workshop".split(";")
)
TIMES = tuple("at noon;at night;at dawn;on Monday;on Friday;on Sunday;in winter;in summer".split(";"))
MOODS = tuple("tired hungry proud afraid lonely rich famous clever".split())
RELATIVES = tuple("sister brother cousin friend uncle aunt daughter son".split())
NAMES = tuple(
    "Mira Tobin Elsa Ruben Hanna Milo Greta Oskar Nora Felix Ida Jonas Vera Hugo Lena Anton Clara Emil".split()
)
LANDS = tuple("northern southern eastern western central coastal upper lower".split())
SYLLABLES = tuple("vel mor kar dun tis ran bel os thar lin gar eth sul mir wen dor".split())
ADVERBS = tuple("reportedly later again yesterday today suddenly finally".split())
