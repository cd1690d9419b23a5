"""Labelled pictures that Debian ships: five packages -> one manifest.

Each line of the manifest: {"path", "source", "label", "caption", "category", "is_photo"}. Labels come from
file names, caption files and clip-art titles; one is kept only if words.txt knows it, which also gives the
category.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from html import unescape
from io import BytesIO
from pathlib import Path

from PIL import Image

from epalm.files import write_json_lines
from train.starter.packages import read_rcc, unpack
from train.starter.scale import FULL, Scale
from train.starter.words import ARTICLE_OF, CATEGORY_OF, LABEL_OF, head_label, read_names, with_article

PACKAGES = ("tuxpaint-stamps-default", "pysiogame", "gcompris-qt-data", "openclipart-png", "openclipart-svg")
LONGEST_SIDE = 512  # pixels: drawings are rendered, and larger pictures shrunk, to this
SHORTEST_SIDE = 24  # pixels: smaller pictures show nothing
MOST_PER_LABEL = 12  # of one package: otherwise 60 smileys outweigh everything


@dataclass(frozen=True)
class Picture:
    """One line of the manifest; `path` is relative to the work folder."""

    path: str
    source: str
    label: str
    caption: str
    category: str
    is_photo: bool


# One function per package: its folder -> (file, label, caption, is it a photo)
Found = Iterator[tuple[Path, str, str, bool]]

# Folders of stamps that show no thing, and stamps that repeat another one.
TUXPAINT_SKIP = re.compile(
    r"symbols/(alphabets|math|money|faces)|symbols/music/(?!treble|bass|quaver)|chess/._[1-6]_(?!knight)"
    r"|flags|roadsigns/(?!stop|traffic_cone)|dreydl-|mirror|_flip|body_parts/(hair_)?manga|wings\b"
)
TUXPAINT_DRAWN = re.compile(r"cartoon|symbols|shapes|seasonal/(easter|halloween|newy)")
LEAD = re.compile(
    r"^(the baby of|a (pair|bunch|cluster|head|string|couple|model|tube|plant|quarter|loaf) of"
    r"|a|an|some|the|our|two|one|another)\s+"
)


def tuxpaint(root: Path) -> Found:
    """Stamps, each with a text file that begins with a sentence: "A mobile telephone.  Do you hear me?" """
    labels, left_out = read_names("tuxpaint-stamps-default")
    stamps = root / "usr/share/tuxpaint/stamps"
    for text in sorted(stamps.rglob("*.txt")):
        name = str(text.relative_to(stamps).with_suffix(""))
        pictures = [path for path in (text.with_suffix(".png"), text.with_suffix(".svg")) if path.exists()]
        if not pictures or TUXPAINT_SKIP.search(name) or name.endswith(tuple(left_out)):
            continue
        photo = pictures[0].suffix == ".png" and not TUXPAINT_DRAWN.search(name)
        if planet := re.search(r"planets/[1245-9]_(\w+)", name):
            yield pictures[0], "planet", f"the planet {planet[1].title()}", True
            continue
        line = text.read_text(encoding="utf-8").splitlines()[0].lower().strip()
        line = re.split(r"[.!?;:]( |$)|—| \(|, | (?:that|to|worn|which|resembles|helps|is|from) ", line)[0]
        caption = re.sub(r"[“”\"]|^happy\b", "", line).strip(" .!").replace("an hippo", "a hippo")
        named = next((label for end, label in labels.items() if name.endswith(end)), None)
        bare = re.split(r" (with|for|in|inside|at|covered|making|dancing|playing) ", LEAD.sub("", caption))[0]
        if " of " in bare and not head_label(
            bare
        ):  # "a cup of espresso coffee" knows coffee, "a glass of water" …
            bare = bare.split(" of ")[0]
        label = named or head_label(bare)
        if not label:
            continue
        if named or not LEAD.match(caption) or caption.startswith(("our", "another")):
            caption = with_article(named or LEAD.sub("", caption))
        yield pictures[0], LABEL_OF[label], caption.replace("grey", "gray"), photo


def pysiogame(root: Path) -> Found:
    """Cartoons named after the word they illustrate."""
    labels, left_out = read_names("pysiogame")
    for path in sorted((root / "usr/share/games/pysiogame/res/images/art4apps").glob("*/*.*")):
        words = labels.get(path.stem, path.stem.replace("_", " "))
        if path.parent.name != "actions" and path.stem not in left_out and words in LABEL_OF:
            yield path, LABEL_OF[words], with_article(words), False


GCOMPRIS_FOLDERS = re.compile(
    r"lang/resource/words_sample|erase/resource|explore_(world|farm)_animals/resource/animals.*webp"
    r"|instruments/resource|categorization/resource/images/(others|tools|renewable|fishes|monuments)"
    r"|explore_monuments/resource/[a-z]+|babymatch/resource/images|babyshapes/resource/food"
    r"|details/resource/image/.*_background"
)


def gcompris(root: Path) -> Found:
    """Photos and drawings of several games, in Qt resource files, named after what they show."""
    labels, left_out = read_names("gcompris-qt-data")
    folder = root / "unpacked"
    for archive in sorted((root / "usr/share/gcompris-qt/rcc").glob("*.rcc")):
        for name, data in read_rcc(archive.read_bytes()):
            if GCOMPRIS_FOLDERS.search(name) and name.endswith((".webp", ".svg", ".svgz")):
                path = folder / name.removeprefix("/gcompris/src/activities/")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name, bare = path.stem, re.sub(r"\d+$", "", path.stem)  # hammer9 -> hammer
        if name in left_out or bare in left_out:
            continue
        named = labels.get(name, labels.get(bare))
        spoken = (
            re.sub(r"(?<=[a-z])(?=[A-Z])", " ", bare).replace("_", " ").lower()
        )  # berlinCathedral, polar_bear
        if str(path).endswith("explore_world_animals/resource/animals/dragon.webp"):
            spoken = "lizard"  # a Komodo dragon
        label = named or head_label(spoken)
        if label and (named or "background" not in name):
            caption = with_article(named or (spoken if spoken in LABEL_OF else label))
            yield path, LABEL_OF[label], caption, path.suffix == ".webp" and "words_sample" not in path.parts


CLIPART_SKIP = re.compile(
    r"^(shapes|signs_and_symbols/(?!weather|clocks)|computer/(?!hardware)|special"
    r"|recreation/(games/cards|religion)|decorations|transportation/(roadsigns|aiga|boating/(boating|knot|sailing_(?!sunset)))|logos|buttons"
    r"|geography|animals/fantasy|people/smilies/(?!smiley)|unsorted/dup)"
)
# Titles that name the collection, not the picture: then the file name tells.
CLIPART_COLLECTION = re.compile(
    r"Clipart by|Etiquette|R1\d |Homes Clipart|Map Symbols|menu collection|Architetto Francesco|Drawing|^$",
    re.IGNORECASE,
)
CLIPART_NOISE = re.compile(
    r"\(?\bb ?(and|&|_|amp) ?w\b\)?|\(.*?\)|&\w+;|\b(bw|bn|icon|symbol|outline|clip ?art|cartoon|contour"
    r"|silhouette?|simple|stylized|cute|generic|color|colour|black|colored|side|sketch|my|md|sup|lit|notlit|brightlit"
    r"|profile|head|another|old|sleeping|illustration|celtic|classical|v|ii|iii|i|an|a|the|all|la|le|il|happy|angry|bored"
    r"|big|small|little|large|closed|open|jonathon s|blank|plain)\b|[^a-z' -]"
)
COLOURS = ("red", "blue", "green", "yellow", "purple", "pink", "brown", "white", "black", "gray", "silver")


def openclipart(root: Path) -> Found:
    """Drawings whose SVG originals, in another package, carry a title."""
    left_out = read_names("openclipart-png")[1]
    pngs = root / "usr/share/openclipart/png"
    svgs = root.parent / "openclipart-svg/usr/share/openclipart/svg"
    seen: set[bytes | str] = set()
    for path in sorted(pngs.rglob("*.png")):
        name = str(path.relative_to(pngs))
        if CLIPART_SKIP.search(name) or any(part in name for part in left_out):
            continue
        digest = hashlib.sha256(path.read_bytes()).digest()
        if digest in seen or path.stem in seen:  # the same picture filed under two subjects
            continue
        seen |= {digest, path.stem}
        if "people/smilies" in name:
            yield path, "smiley", "a smiley face", False
            continue
        svg = svgs / Path(name).with_suffix(".svg")
        match = re.search(r"<dc:title>\s*([^<]*)", svg.read_text(errors="replace") if svg.exists() else "")
        title = unescape(match[1]).strip() if match else ""
        if "Road Signs" in title:
            continue
        words = path.stem if CLIPART_COLLECTION.search(title) else title
        words = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", words).replace("_", " ").lower()
        words = re.split(r" (?:-|of|with|on|in|from|against|for|e|per|di|al|da) |,", words)[0]
        colours = [colour for colour in COLOURS if colour in words.split()]
        words = " ".join(CLIPART_NOISE.sub(" ", words).split()).strip(" '-")
        label = head_label(words.replace("-", " ")) or head_label(words)
        if label == "mouse" and name.startswith("computer"):
            label = "computer mouse"
        if not label and words and re.search("archit|rolland", path.stem):  # Italian puts the noun first
            label = LABEL_OF.get(words.split()[0])
        if label:
            coloured = len(colours) == 1 and ARTICLE_OF.get(label.split()[-1]) != "a pair of"
            yield path, label, with_article(f"{colours[0]} {label}" if coloured else label), False


SOURCES = {
    "tuxpaint-stamps-default": tuxpaint,
    "pysiogame": pysiogame,
    "gcompris-qt-data": gcompris,
    "openclipart-png": openclipart,
}


def open_picture(path: Path) -> Image.Image:
    """A picture as RGBA, at most LONGEST_SIDE pixels wide and high; drawings are rendered.

    Raises:
        OSError, ValueError, SyntaxError: a broken picture or drawing.
    """
    if path.suffix in (".svg", ".svgz"):
        import resvg_py  # needed for the pictures alone

        file = Image.open(BytesIO(resvg_py.svg_to_bytes(svg_path=str(path), width=LONGEST_SIDE)))
    else:
        file = Image.open(path)
        file.draft("RGB", (LONGEST_SIDE, LONGEST_SIDE))
    image = file.convert("RGBA")
    image.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    return image


def collect(work: Path) -> list[Picture]:
    """Fetch the packages, store their labelled pictures as PNG in work/pictures; returns the manifest."""
    for package in PACKAGES:
        print(f"unpacking {package}", flush=True)
        unpack(package, work / "debs", work / "packages")
    pictures: list[Picture] = []
    for source, find in SOURCES.items():
        counts: Counter[str] = Counter()
        for path, label, caption, is_photo in find(work / "packages" / source):
            counts[label] += 1
            if counts[label] > MOST_PER_LABEL:
                continue
            try:
                image = open_picture(path)
            except (OSError, ValueError, SyntaxError) as error:
                print(f"  left out {path.name}: {error}")
                continue
            visible = image.getchannel("A").getbbox()
            if min(image.size) < SHORTEST_SIDE or not visible:
                continue
            stored = f"pictures/{source}/{len(pictures):04d}-{label.replace(' ', '-')}.png"
            (work / stored).parent.mkdir(parents=True, exist_ok=True)
            image.crop(visible).save(work / stored, compress_level=1)  # many float in an empty canvas
            pictures.append(Picture(stored, source, label, caption, CATEGORY_OF[label], is_photo))
        found = sum(picture.source == source for picture in pictures)
        print(f"{source}: {found} pictures of {len(counts)} kinds", flush=True)
    return pictures


def write_manifest(work: Path, scale: Scale = FULL) -> None:
    """Collect all pictures and list them in WORK/manifest.jsonl."""
    pictures = scale.kinds(collect(work), lambda picture: picture.label)
    write_json_lines(work / "manifest.jsonl", map(asdict, pictures))
