"""Labelled pictures that Debian ships: four packages -> one manifest.

python -m train.starter.pictures WORK      # WORK/pictures/… and WORK/manifest.jsonl

Each line of the manifest: {"path", "source", "label", "caption", "category", "is_photo"}. The packages are fetched
with `apt-get download` and unpacked with `dpkg-deb`, never installed. Labels come from file names, caption files
and clip-art titles; a label is kept only when words.txt knows it, which also gives its category.
"""

import hashlib
import json
import re
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from html import unescape
from pathlib import Path

from PIL import Image

from epalm.errors import EPALMError

PACKAGES = ("tuxpaint-stamps-default", "pysiogame", "gcompris-qt-data", "openclipart-png", "openclipart-svg")
LONGEST_SIDE = 512  # SVG drawings are rendered, and pictures shrunk, to this many pixels
MOST_PER_LABEL = 12  # of one package: otherwise 60 stick figures outweigh everything


@dataclass(frozen=True)
class Picture:
    """One line of the manifest. `path` is relative to the work folder once the picture has been stored."""

    path: str
    source: str
    label: str
    caption: str
    category: str
    is_photo: bool


# --- Words ---------------------------------------------------------------------------------------------------------


def read_words() -> tuple[dict[str, str], dict[str, str]]:
    """words.txt as two maps: any known word -> label, and label -> category."""
    label_of, category_of = {}, {}
    for line in Path(__file__).with_name("words.txt").read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        category, _, entries = line.partition(": ")
        for entry in entries.split(", "):
            label, *others = entry.strip().split("=")
            category_of.setdefault(label, category)
            for word in (label, *others):
                label_of.setdefault(word, label)
    return label_of, category_of


LABEL_OF, CATEGORY_OF = read_words()
MASS = set(
    "bacon beef bread broccoli butter candy cheese chocolate corn garlic ginger grass gum ham hair honey ice jam jelly "
    "juice lightning meat milk money paint paper pasta popcorn rain rice salad salami sand smoke snow soap soup "
    "spaghetti sugar sushi tea thyme toast toothpaste water wine wood yogurt coffee beer lava land jewellery "
    "lavender bamboo medicine celery asparagus spinach squash lettuce confetti fire lasagna soda".split()
)  # fmt: skip
PLURAL = set(
    "beans peas grapes fries people children women friends brothers scissors pliers tweezers glasses "
    "sunglasses jeans pants trousers shorts overalls pajamas pyjamas sandals slippers maracas castanets binoculars bongo "
    "timpani headphones fireworks twins boys girls blocks stairs ruins stones mountains chips browns rings "
    "shears pieces skates rollerblades leaves teeth feet lips matches cards icicles pantyhose sails tools keys".split()
)  # fmt: skip
PAIRS = {"scissors", "pliers", "tweezers", "glasses", "sunglasses", "jeans", "pants", "trousers", "shorts", "binoculars",
         "headphones", "overalls", "sandals", "slippers", "shoes", "boots", "rollerblades", "ice skates"}  # fmt: skip
UNIQUE = {"sun", "moon", "earth", "sky", "sea", "eiffel tower", "santa claus"}


def is_plural(word: str) -> bool:
    """True of words that words.txt has as another form of its label, or that lose an s to become one."""
    return word.endswith("s") and (LABEL_OF.get(word, word) != word or not word.endswith("ss") and word[:-1] in LABEL_OF)


def with_article(noun: str) -> str:
    """ "lion" -> "a lion", "scissors" -> "a pair of scissors", "bread" -> "some bread", "sun" -> "the sun"."""
    last = noun.split()[-1]
    if noun in UNIQUE:
        return noun if noun == "santa claus" else f"the {noun}"
    if last in PAIRS:
        return f"a pair of {noun}"
    if last in MASS or last in PLURAL or noun in PLURAL or is_plural(last):
        return f"some {noun}"
    return f"{'an' if noun[0] in 'aeiou' and not noun.startswith(('uni', 'eu', 'one')) else 'a'} {noun}"


def head_label(phrase: str, known_only: bool = True) -> str | None:
    """The label of a noun phrase: its longest ending that words.txt knows ("a red sports car" -> "sports car")."""
    words = phrase.lower().split()
    for start in range(len(words)):
        if (ending := " ".join(words[start:])) in LABEL_OF:
            return LABEL_OF[ending]
    return None if known_only or not words else words[-1]


# --- Packages --------------------------------------------------------------------------------------------------------


def unpack(package: str, debs: Path, into: Path) -> Path:
    """Fetch a Debian package (unless `debs` has it) and unpack it; returns the folder."""
    target = into / package
    if target.is_dir():
        return target
    for program in ("apt-get", "dpkg-deb"):
        if shutil.which(program) is None:
            raise EPALMError(f"The pictures come in Debian packages, but this system has no {program}; "
                             "build the starter adapters on Debian or Ubuntu, or in a container of either.")  # fmt: skip
    debs.mkdir(parents=True, exist_ok=True)
    if not list(debs.glob(f"{package}_*.deb")):
        result = subprocess.run(["apt-get", "download", "-q", package], cwd=debs, capture_output=True, text=True)
        if result.returncode:
            raise EPALMError(f"apt-get could not download {package} ({result.stderr.strip().splitlines()[-1]}); "
                             "run apt-get update and check the network connection.")  # fmt: skip
    partial = into / f"{package}.part"
    shutil.rmtree(partial, ignore_errors=True)
    subprocess.run(["dpkg-deb", "-x", str(next(debs.glob(f"{package}_*.deb"))), str(partial)], check=True)
    partial.rename(target)
    return target


def read_rcc(data: bytes) -> Iterator[tuple[str, bytes]]:
    """The files of a Qt binary resource (.rcc), big-endian: (path, contents).

    Header: "qres", u32 version, then the offsets of the tree, the data and the names. A tree node is u32 name, u16
    flags, and for a folder (flag 2) u32 children, u32 first child, for a file (flag 1: zlib after a u32 length)
    u32 locale, u32 data; version 2 adds a u64 time. A name is u16 length, u32 hash, UTF-16; data is u32 length, bytes.
    """
    magic, version, tree, contents, names = struct.unpack_from(">4s4I", data)
    if magic != b"qres":
        raise ValueError("not a Qt resource file")
    node_size = 14 if version == 1 else 22

    def walk(node: int, path: str) -> Iterator[tuple[str, bytes]]:
        at = tree + node * node_size
        name, flags, a, b = struct.unpack_from(">IHII", data, at)
        if flags & 2:
            for child in range(b, b + a):
                length = struct.unpack_from(">H", data, names + struct.unpack_from(">I", data, tree + child * node_size)[0])[0]
                start = names + struct.unpack_from(">I", data, tree + child * node_size)[0] + 6
                yield from walk(child, f"{path}/{data[start : start + 2 * length].decode('utf-16-be')}")
        else:
            length = struct.unpack_from(">I", data, contents + b)[0]
            body = data[contents + b + 4 : contents + b + 4 + length]
            yield path, zlib.decompress(body[4:]) if flags & 1 else body

    yield from walk(0, "")


# --- One function per package: folder -> (file, label, caption, is it a photo) -----------------------------------------

Found = tuple[Path, str, str, bool]

# Captions that name something else than what a stranger would see, and pictures that are no pictures of a thing.
TUX_SKIP = re.compile(r"symbols/(alphabets|math|money|faces)|flags|roadsigns/(?!stop|traffic_cone)|mirror|_flip|emblem|people/body_parts/"
                      r"(manga|hair_manga)|final-roll-call|dreydl-|bathyscape|trainSign|wings\b|docks|confetti|military/vehicles/inf"
                      r"|old_naval_shell|symbols/music/(?!treble|bass|quaver)|chess/._[1-6]_(?!knight)|sedan_police|tender|planes/cartoon|spider_computer|blankroad|rambutan|penguin_with_spider")  # fmt: skip
TUX_LEAD = re.compile(r"^(a|an|some|the|our|two|one|another|a pair of|a bunch of|a cluster of|a head of|a string of|"
                      r"a couple of|a model of|a tube of|the baby of|a plant of|a quarter of|a loaf of)\s+")  # fmt: skip
TUX_FIXED = {  # caption files that do not name the thing
    "food/bread": "bread", "food/cheese": "cheese", "food/loaf_of_bread": "bread", "vegetables/broccoli": "broccoli",
    "household/toilet": "toilet", "birds/cartoon/tux": "penguin", "birds/cartoon/pengwin": "penguin", "naturalforces/fire": "fire",
    "naturalforces/explosion": "explosion", "Roast_turkey": "roast turkey", "Mince_Pie": "pie", "medical/stethoscope": "stethoscope",
    "football_helmet_side": "football helmet", "football_helmet_front": "football helmet", "bearsedward": "teddy bear",
    "planets/0_sun": "sun", "planets/3_earth": "earth", "flowers/chemparathi": "hibiscus", "eddieCopter": "helicopter",
    "household/recyclingbox": "recycling box", "household/recyclingbox2": "recycling box", "hats/mortarboard": "mortarboard",
    "monuments/magic_stones": "stones", "insects/cartoon/spider_fly": None, "houses/cartoon/cave_entrance": "cave", "houses/cartoon/hunter": "house", "mushrooms/cep-2": "mushroom", "fish/bluegroper": "fish",
    "menorah": "menorah", "seasonal/shamrock": "clover", "seasonal/clover": "clover",
    "_4_knight": "chess piece", "christmas/German_Christmas_toy": None, "symbols/music/quaver": "music note", "space/spacewalk": "astronaut", "space/voyager2": "satellite", "stoplight_01_red": "traffic light",
    "stoplight_02_yellow": "traffic light", "stoplight_03_green": "traffic light", "monuments/inukshuk-photo": "statue",
    "tux_tractor": "tractor", "carriage": "carriage", "boxcar": "train", "caboose": "train", "Christmas_pudding": "pudding",
    "Candy_cane_photo_1": "candy cane", "Candy_cane_photo_2": "candy cane", "flower10": "hibiscus", "knitting": None,
    "f22_raptor": "airplane", "bradley": "tank", "mustang": "airplane", "rubberduck": "rubber duck", "globe": "globe",
    "holly_leaves": "holly", "7spoke256": "wheel", "spider_football": "spider", "hoverfly": "hoverfly", "xanthia": "moth",
    "uk_post_box": "mailbox", "tree336": "tree", "beetle": "car", "vehicles/auto/beetle": "car", "smallcake": "cupcake",
    "flight/balloon360": "hot air balloon", "seasonal/christmas/star": "star", "appooppanthady": "flower", "adeenia": "flower",
    "anthoorium": "anthurium", "bolsom": "flower", "chuvanna_plastic_poo": "flower", "orca": "orca", "edward_bear": "teddy bear",
    "ship/chineseJunk": "sailboat", "leafrake": "rake", "garbagetruck": "garbage truck", "apollo_lander": "spaceship",
}  # fmt: skip


def tuxpaint(root: Path) -> Iterator[Found]:
    stamps = root / "usr/share/tuxpaint/stamps"
    for text in sorted(stamps.rglob("*.txt")):
        name = str(text.relative_to(stamps).with_suffix(""))
        pictures = [p for p in (text.with_suffix(".png"), text.with_suffix(".svg")) if p.exists()]
        if not pictures or TUX_SKIP.search(name):
            continue
        line = text.read_text(encoding="utf-8").splitlines()[0].lower().strip()
        caption = re.split(r"[.!?;:]( |$)|—| \(|, | that | to | worn | which | resembles | helps | is | from ", line)[0]
        caption = re.sub(r"[“”\"]|^happy\b", "", caption).strip(" .!").replace("grey", "gray").replace("an hippo", "a hippo")
        fixed = next((v for k, v in TUX_FIXED.items() if name.endswith(k)), "")
        if fixed is None:
            continue
        if planet := re.search(r"planets/[1245-9]_(\w+)", name):
            yield pictures[0], "planet", f"the planet {planet[1].title()}", True
            continue
        bare = re.split(r" (with|for|in|inside|at|covered|making|dancing|playing) ", TUX_LEAD.sub("", caption))[0]
        if " of " in bare and not head_label(bare):  # "a cup of espresso coffee", "a glass of water"
            bare = bare.split(" of ")[0]
        label = LABEL_OF.get(fixed, fixed) or head_label(bare)
        if not label:
            continue
        if fixed or not TUX_LEAD.match(caption) or caption.startswith(("our", "another")):
            caption = with_article(fixed or TUX_LEAD.sub("", caption))
        photo = pictures[0].suffix == ".png" and not re.search(r"cartoon|symbols|shapes|seasonal/(easter|halloween|newy)", name)
        yield pictures[0], label, caption, photo


# Left out: pictures where an arrow points at a part, feelings, and scenes that the word does not describe.
PYSIO_SKIP = set(
    "badge office magic bank mates parade jog hop stretch stand throw walk win race ride run jump hike row rope pool tribe "
    "ankle arm back cheek chin ear elbow eyebrow eyelash hip knee neck nostril spine thigh throat wrist toe hair nose leg "
    "belly_button bottom breast finger muscle thumb step brick well_ roof smoke steeple chimney shutter lace kernel peak coast "
    "patch pocket sleeve zip shoe_sole heel lad madam male female dad mom wife husband daughter son sisters doe "
    "fawn handlebar mast pedal sail carpet feast fudge ice jelly lunch meal meat slice spice spread sprinkle roast dessert "
    "land cave tongue sash smock skirt robe stew circus farm garage shed shop store street crow_ torch whistle squat hockey "
    "ice_skating helmet golf boxing judo tennis swim skate ski rowing engineer accountant coach athlete president "
    "worker actor librarian princess_ brothers friends child mother family grandfather_ couple_ jewellery pants_ vest shirt "
    "patient raft ray_ opossum_ fruit uniform button hen_ boy girl man woman_ bride face eye foot_ belly beard window door "
    "braid feet kimono sock swimming_suit mashed_potato milk sugar grandfather grandmother jockey lawyer pilot lake lava hill dune "
    "cliff pants cook collar twin_girls twin_boys shrike gum peel jewel electrician juice flour vet zip coat_ hut_".split()
)  # fmt: skip


def pysiogame(root: Path) -> Iterator[Found]:
    for path in sorted((root / "usr/share/games/pysiogame/res/images/art4apps").glob("*/*.*")):
        name, folder = path.stem, path.parent.name
        if folder == "actions" or name in PYSIO_SKIP:
            continue
        words = name.replace("_", " ")
        label = LABEL_OF.get(words)
        if label:
            spoken = label if name in ("ballet", "police", "mill", "chimp", "lama") else words
            yield path, label, with_article(spoken), False


GCOMPRIS_FOLDERS = re.compile(
    r"lang/resource/words_sample|erase/resource|explore_(world|farm)_animals/resource/animals|instruments/resource"
    r"|categorization/resource/images/(others|tools|renewable|fishes|monuments)|explore_monuments/resource/[a-z]+"
    r"|babymatch/resource/images|babyshapes/resource/food|details/resource/image"
)
GCOMPRIS_SKIP = set(
    "animal arm back black blue brother brown child color dad ear eight eleven eyes face finger five flies four friend gray "
    "green hair head knee leg man mauve mother nine one orange-color pink red reptile seven sister six sixteen skin son "
    "ten three thumb tongue twelve two white woman yellow zero neck nose boy grandmother bug background key question "
    "farm-animals solar1 solar2 solar3 geothermal buffetset cuttingTool sound eggpot postpoint fusee rape light windflag5 "
    "canyondeChelly navajo ajantaCave cabrillo georgeWashingtonBirthplace castleClinton leMusee jucheTower burj bayterek "
    "world-map transparent_square transparent_square_green transparent_square_yellow card petra machuPicchu rocamadour "
    "egypt france germany india usa greatWall greatWallofChina trierImperialBaths mountRushmore monument3 knife screwDriver3 organ".split()
)  # fmt: skip
GCOMPRIS_NAMES = {  # file name -> (label, caption)
    "minivan": "van", "plier": "pliers", "tweezer": "tweezers", "erasers": "eraser", "raquette": "tennis racket", "tuxhelico": "helicopter", "tuxplane": "airplane",
    "long_nosed_monkey": "monkey", "flying_fox": "bat", "northern_harrier": "hawk", "nubian_ibex": "ibex", "scarlet_macaw": "macaw",
    "chamaeleon": "chameleon", "drum_kit": "drum kit", "flute_traversiere": "flute", "nailCutter": "nail clipper",
    "sideCutter": "pliers", "screwDriver": "screwdriver", "measuringTape": "measuring tape", "weighingMachine": "scale",
    "blackslate": "chalkboard", "solar": "solar panel", "spray": "spray bottle", "fishingboat": "boat", "sailingboat": "sailboat",
    "flowerpot": "flower vase", "football": "soccer ball", "windmill6": "wind turbine", "horse": "horse", "milk_cup": "milk",
    "french_croissant": "croissant", "bread_slice": "bread", "chocolate_cake": "cake", "round_cookie": "cookie", "sugar_box": "sugar",
    "marmelade": "jam", "milk_shake": "milk shake", "electric_guitar": "electric guitar",
    "eiffelTower": "eiffel tower", "TourEiffel_background": "eiffel tower", "sound": "speaker", "black_slate": "chalkboard",
    "Chenonceau_background": "castle", "EilanDonanCastle_background": "castle", "Neuschwanstein_background": "castle",
    "EgeskovSlotSpejling_background": "castle", "FanoeWindmill_background": "windmill", "GizahPyramids_background": "pyramid",
    "NDP_background": "cathedral", "OperaSidney_background": "opera house", "TajMahal_background": "palace",
    "TowerBridgeLondon_background": "bridge", "colosseum": "amphitheater", "arlesAmphitheater": "amphitheater",
    "chateaudeChambord": "castle", "chateaudeChenonceau": "castle", "citedeCarcassonne": "castle", "montStMichel": "castle",
    "palaisdesPapes": "palace", "pontduGard": "bridge", "aulaPalatina": "church", "qutubMinar": "tower", "kutubMinar": "tower",
    "operaHouse": "opera house", "tajMahal": "palace", "statueOfLiberty": "statue", "statueofLiberty": "statue",
    "christTheRedeemer": "statue", "leaningTowerOfPisa": "tower", "parthenon": "temple", "hawaMahal": "palace",
    "goldenTemple": "temple", "konarkSunTemple": "temple", "chichenItza": "pyramid", "empireState": "skyscraper",
    "zimniPalace": "palace", "cathedral": "cathedral", "castillodeSanMarcos": "castle", "greatStupa": "stupa", "rangGhar": None,
    "lincolnMemorial": "monument", "IndiaGate": "monument", "arcDeTriomphe": "monument", "brandenburgGate": "monument",
    "gatewayofIndia": "monument", "charminar": "monument", "victoriaMemorial": "palace", "usCapitol": "palace",
    "neuschwansteinCastle": "castle", "schwerinPalace": "castle", "mysorePalace": "palace", "fortSumter": "fort",
    "postcard": None, "lifebuoy": "lifebuoy", "star": "star", "igloo": "igloo", "fish": "fish",
}  # fmt: skip


def gcompris(root: Path) -> Iterator[Found]:
    folder = root / "unpacked"
    for archive in sorted((root / "usr/share/gcompris-qt/rcc").glob("*.rcc")):
        for name, data in read_rcc(archive.read_bytes()):
            name = name.removeprefix("/gcompris/src/activities/")
            if GCOMPRIS_FOLDERS.search(name) and name.endswith((".webp", ".png", ".jpg", ".svg", ".svgz")):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(data)
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name, bare = path.stem, re.sub(r"\d+$", "", path.stem)
        if name in GCOMPRIS_SKIP or "details" in str(path) and not name.endswith("_background") or "animals" in str(path) and path.suffix == ".svg":
            continue
        # theCathedral, great_cathedral -> "great cathedral"
        spoken = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", bare).replace("_", " ").lower()
        if str(path).endswith("explore_world_animals/resource/animals/dragon.webp"):
            spoken = "lizard"  # a Komodo dragon
        fixed = GCOMPRIS_NAMES.get(name, GCOMPRIS_NAMES.get(bare, ""))
        label = LABEL_OF.get(fixed, fixed) if fixed != "" else head_label(spoken)
        if label is None or "background" in name and not fixed:
            continue
        yield path, label, with_article(fixed or (spoken if spoken in LABEL_OF else label)), path.suffix == ".webp" and "/lang/" not in str(path)


CLIPART_SKIP = re.compile(
    r"^(shapes|signs_and_symbols/(?!weather|clocks)|computer/(?!hardware)|special|recreation/games/cards|recreation/religion|decorations"
    r"|transportation/(roadsigns|aiga|boating/(boating|knot|sailing_(?!sunset)))|logos|buttons|geography|animals/fantasy|people/smilies/(?!smiley)|unsorted/dup)"
)
# Titles that name the collection, not the picture: then the file name tells.
CLIPART_COLLECTION = re.compile(r"Clipart by|Etiquette|R1\d |Homes Clipart|Map Symbols|menu collection|Architetto Francesco|Drawing|^$", re.I)
CLIPART_NOISE = re.compile(
    r"\(?\bb ?(and|&|_|amp) ?w\b\)?|\(.*?\)|&\w+;|\b(bw|bn|icon|symbol|outline|clip ?art|cartoon|contour|silhouette?|simple|stylized|cute|"
    r"generic|color|colour|black|colored|side|sketch|my|md|sup|lit|notlit|brightlit|profile|head|another|old|sleeping|illustration|celtic|"
    r"classical|v|ii|iii|i|an|a|the|all|la|le|il|happy|angry|bored|big|small|little|large|closed|open|jonathon s|blank|plain)\b|[^a-z' -]"
)
COLOURS = "red blue green yellow orange purple pink brown white black gray golden silver".split()
CLIPART_BAD = re.compile(r"turkey_on_pl|architetto_francesco_ro|stylized_wolf|duck_yellow_ii|pollo_arch|toro_al|sleeping_bear|raccoon|gameboy_pocket|mouse_scroll|/tower|lindworm|golf_drive|family_swim|rubber_duck_fam|safety_pin|/hand_|smoke_|utensili_chiave|airplane$|road_?runner|southen|psycho|secchio_arch|scrub_brush|compass_01|televisore|wreath_of|scodella|evolution|grampa|stereo|bandiera|cog_rose|bilancia|blue_stamper|toast_|cleanpalm|cat_scrath|christian|tank_|scuba|juice_box|water_fight|nodding|natural_gas|flag|pantyhose|stripper|sexy"
                         r"|bullet_hole|gallows|cannabis|atomic|nuditi|tombs|labels|blueprint|tatoo|wedding_sign|sign_|spider_sword|chess_set")  # fmt: skip


def openclipart(root: Path) -> Iterator[Found]:
    pngs, svgs = root / "usr/share/openclipart/png", root.parent / "openclipart-svg/usr/share/openclipart/svg"
    seen = set()
    for path in sorted(pngs.rglob("*.png")):
        name = path.relative_to(pngs)
        if CLIPART_SKIP.search(str(name)) or CLIPART_BAD.search(str(name)):
            continue
        digest = hashlib.sha256(path.read_bytes()).digest()
        if digest in seen or path.stem in seen:  # the same picture filed under two subjects
            continue
        seen |= {digest, path.stem}
        svg = svgs / name.with_suffix(".svg")
        title = re.search(r"<dc:title>\s*([^<]*)", svg.read_text(errors="replace")) if svg.exists() else None
        title = unescape(title[1]).strip() if title else ""
        if "people/smilies" in str(name):
            yield path, "smiley", "a smiley face", False
            continue
        if "Road Signs" in title:
            continue
        words = path.stem if CLIPART_COLLECTION.search(title) else title
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", words).replace("_", " ").lower()
        words = re.split(r" - | of | with | on | in | from | against | for | e | per | di | al | da | against |,", words)[0]
        colours = [c for c in COLOURS if c in words.split() and c != "orange"]
        words = " ".join(CLIPART_NOISE.sub(" ", words).split()).strip(" '-")
        label = head_label(words.replace("-", " ")) or head_label(words)
        if label == "mouse" and str(name).startswith("computer"):
            label = "computer mouse"
        if not label and (first := words.split()[:1]):  # Italian puts the noun first
            label = LABEL_OF.get(first[0]) if "archit" in path.stem or "rolland" in path.stem else None
        if label:
            yield path, label, with_article(f"{colours[0]} {label}" if len(colours) == 1 and label.split()[-1] not in PAIRS else label), False


SOURCES = {"tuxpaint-stamps-default": tuxpaint, "pysiogame": pysiogame, "gcompris-qt-data": gcompris, "openclipart-png": openclipart}


# --- The manifest ------------------------------------------------------------------------------------------------------


def open_picture(path: Path) -> Image.Image:
    """A picture as RGBA, at most LONGEST_SIDE pixels wide and high; drawings (.svg, .svgz) are rendered."""
    if path.suffix in (".svg", ".svgz"):
        from io import BytesIO

        import resvg_py

        image = Image.open(BytesIO(resvg_py.svg_to_bytes(svg_path=str(path), width=LONGEST_SIDE)))
    else:
        image = Image.open(path)
    image = image.convert("RGBA")
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return image


def collect(work: Path) -> list[Picture]:
    """Fetch the packages, store their labelled pictures as PNG under work/pictures, and return the manifest."""
    for package in PACKAGES:
        print(f"unpacking {package}", flush=True)
        unpack(package, work / "debs", work / "packages")
    pictures = []
    for source, find in SOURCES.items():
        counts: dict[str, int] = {}
        for path, label, caption, is_photo in find(work / "packages" / source):
            counts[label] = counts.get(label, 0) + 1
            if counts[label] > MOST_PER_LABEL:
                continue
            try:
                image = open_picture(path)
            except (OSError, ValueError, SyntaxError) as error:  # a few drawings are broken
                print(f"  left out {path.name}: {error}")
                continue
            if min(image.size) < 24 or image.getchannel("A").getbbox() is None:
                continue
            image = image.crop(image.getchannel("A").getbbox())  # many stamps float in an empty canvas
            stored = work / "pictures" / source / f"{len(pictures):04d}-{label.replace(' ', '-')}.png"
            stored.parent.mkdir(parents=True, exist_ok=True)
            image.save(stored, compress_level=1)
            pictures.append(
                Picture(str(stored.relative_to(work)), source, label, caption, CATEGORY_OF[label], is_photo)
            )
        print(f"{source}: {sum(p.source == source for p in pictures)} pictures of {len(counts)} kinds", flush=True)
    return pictures


def write_manifest(pictures: list[Picture], path: Path) -> None:
    path.write_text("".join(json.dumps(asdict(picture), ensure_ascii=False) + "\n" for picture in pictures))


if __name__ == "__main__":
    work = Path(sys.argv[1])
    write_manifest(collect(work), work / "manifest.jsonl")
