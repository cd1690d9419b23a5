"""Record what the official caption evaluation says, with its Java tokenizer -> tests/golden/metrics/.

    pip install pycocoevalcap==1.2                       # and any Java
    python -m benchmarks.record_metrics                  # captions.json: made up, full of difficult words
    python -m benchmarks.record_metrics --elisions       # elisions.json: l'età, d'été, aujourd'hui, …
    python -m benchmarks.record_metrics --audiocaps DIR  # real.json

DIR is the folder `data` of aac-metrics' source package: a model's captions for AudioCaps and the references.
captions.json keeps the sentences and their official words, because the tests run where Java is missing.
real.json keeps only the measured values: the captions are not ours to ship.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from train.metrics import score_captions
from train.metrics.tokenizer import tokenize

FOLDER = Path(__file__).parents[1] / "tests" / "golden" / "metrics"


def parts(listed: str) -> list[str]:
    return [" ".join(part.split()) for part in listed.split("|")]


ARTICLES = ("A", "a", "The", "the", "Two", "three", "An old", "Some", "5", "his")
NOUNS = """
    man | woman | dog | cat | t-shirt | x-ray | merry-go-round | skate boarder | jack-o'-lantern |
    traffic light | U.S. flag | Dr. Pepper can | St. Bernard | Mr. Smith | café | piñata | crème
    brûlée | TV | B-52 | 747 jet | 3-year-old | 20-foot boat | 1950's car | 1950s car | '80s band |
    7-Eleven | M&M's | AT&T store | rock 'n' roll band | VW bus | No. 5 train | hot-dog stand | fish
    & chips | black/white cat | men's room | dogs' bowl | James' bike | O'Reilly book | McDonald's |
    "open" sign | 50% off sign | $5 bill | €10 note | £3 coin | #1 fan | @home sign | wi-fi router |
    DVD's | 4x4 truck | 2x4 board | 10x zoom | 6ft ladder | 20mph sign | 3:30 train | 12:30pm show |
    a.m. show | 10 a.m. flight | 5 o'clock | 1/2 pizza | 2 1/2 pizzas | ½ pizza | 90° angle | C++
    book | www.flickr.com page | 'stop' sign | “stop” sign | ‘go’ sign | STOP!! sign | (small) bird
    | [red] box | {blue} box | bird (left) | double-decker bus | self-portrait | naïve girl | 日本
    sign | E.T. doll | R2-D2 | Xbox 360 | Main St. sign | 5th Ave. bus | Inc. logo | man/woman | no.
    23 jersey | 10,000 people | 3.5mm jack | 0.5 liter | -5 degrees | snow-covered hill | snow- and
    ice-covered hill | close-up | t.v. | tv's | 6'2" man | 5' pole | 12" pizza | 😀 mug
"""
VERBS = """
    is | isn't | isnt | can't ride | cannot ride | won't eat | doesn't like | don't | couldn't've |
    's holding | is holding | is gonna eat | wanna eat | gotta go | they're on | it's on | that's |
    who's | let's | sits | is sitting | 'tis | ain't | she'd | I'm | we've | you'll see | y'all see
    | ma'am | lemme | 'cause of | 'em
"""
BETWEEN = "on | in | with | next to | near | - | -- | – | ... | … | , | ; | : | & | / | w/ | @"
APOSTROPHES = "''\N{RIGHT SINGLE QUOTATION MARK}"
ENDS = ("", ".", ".", ".", "!", "?", "...", "..", "!!", "?!", '."', ".)", " .", "  ", ",", "'", "*", " -")
PARTS = (parts(NOUNS), parts(VERBS), parts(BETWEEN), parts(NOUNS))


def sentence(rng: random.Random, scene: Sequence[str]) -> str:
    """A caption of `scene` (noun, verb, link, noun) with some of its parts exchanged."""
    noun, verb, link, other = (
        rng.choice(options) if rng.random() < 0.3 else part
        for part, options in zip(scene, PARTS, strict=True)
    )
    text = f"{rng.choice(ARTICLES)} {noun} {verb} {link} {rng.choice(ARTICLES)} {other}"
    case = rng.random()
    if case < 0.05:
        text = text.upper()
    elif case < 0.2:
        text = text.lower()
    elif case < 0.25:
        text = text.replace("'", "’")
    return text + rng.choice(ENDS)


def made_up(items: int = 500, references: int = 2, seed: int = 0) -> list[list[str]]:
    """Per item a caption and its references."""
    rng = random.Random(seed)
    out = []
    for _ in range(items):
        scene = [rng.choice(options) for options in PARTS]
        out.append([sentence(rng, scene) for _ in range(1 + references)])
    return out


SENTENCES = """
    L'età dell'uomo è scritta sull'albero. | C'è un'altra città all'ombra dell'Università. | Un po' di tutto,
    gli anni '80. | Un homme à l'île d'Oléron, c'est l'été. | L'élève s'étire près de l'église d'à côté. |
    Aujourd'hui, l'âne n'a pas d'ânon ; qu'est-ce que c'est ? | Jusqu'à l'école, lorsqu'il pleut, quelqu'un
    d'autre. | J'ai vu l'œuvre d'art à l'hôtel. | Un chef-d’œuvre et des hors-d'œuvre. | L’eau-de-vie de
    l'après-midi. | S'il vous plaît, n'oublie pas l'Élysée. | El niño está en la playa con su perro. | ¿Cómo
    está? ¡Qué día! | Un copo d'água y una estrela-d'alva. | Der Hund läuft über die Straße, geht's gut? | Ein
    Mädchen fährt mit'm Fahrrad. | Die Äpfel sind für's Kind. | O'Reilly and D'Angelo's bar, L'Oréal's. |
    „Schöne Grüße“, sagt die Ärztin. | «¿Qué?» – „Nein“, ‚doch‘.
"""
BEFORE = "l d j c s m t n qu L D J S N Qu dell all sull un lorsqu jusqu quelqu aujourd presqu o O gl com"
AFTER = (
    "età île été élève œuvre uomo è à ô ombra auto Élysée Università état étaient est ünder ärger ñandú "
    "un été-ci arc-en-ciel ha École Œuvre çà s re à-côté é1 1 x1"
)


def elisions(sentences: int = 200, seed: int = 0) -> list[list[str]]:
    """Sentences with words joined by an apostrophe: real ones, and three random joints each."""
    rng = random.Random(seed)
    before, after = BEFORE.split(), AFTER.split()

    def joint() -> str:
        return f"{rng.choice(before)}{rng.choice(APOSTROPHES)}{rng.choice(after)}"

    made = [[f"{joint()} {joint()}.", f"le {joint()} ici", joint()] for _ in range(sentences)]
    real = parts(SENTENCES)
    return [real[start : start + 3] for start in range(0, len(real), 3)] + made


def audiocaps(folder: Path) -> list[list[str]]:
    """Per sound the predicted caption and its references, from aac-metrics' two example files."""
    out = []
    for name in ("example_1.csv", "example_2.csv"):
        with (folder / name).open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                sentences = [row["caption_predicted"], *(row[f"caption_{i}"] for i in range(1, 6))]
                out.append([text for text in sentences if text])
    return out


def official_words(items: Sequence[Sequence[str]]) -> list[list[str]]:
    """Each sentence through the official Java tokenizer, joined by spaces."""
    captions = {i: [{"caption": text} for text in item] for i, item in enumerate(items)}
    tokenized = PTBTokenizer().tokenize(captions)
    return [tokenized[i] for i in range(len(items))]


def official_scores(items: Sequence[Sequence[str]]) -> dict[str, float]:
    """BLEU-1..4, ROUGE-L, CIDEr and METEOR of tokenised items as pycocoevalcap computes them."""
    captions = {i: item[:1] for i, item in enumerate(items)}
    references = {i: item[1:] for i, item in enumerate(items)}
    bleu = Bleu(4).compute_score(references, captions, verbose=0)[0]
    return {f"BLEU-{n}": value for n, value in enumerate(bleu, start=1)} | {
        "ROUGE-L": float(Rouge().compute_score(references, captions)[0]),
        "CIDEr": float(Cider().compute_score(references, captions)[0]),
        "METEOR": Meteor().compute_score(references, captions)[0],
    }


def measure(items: Sequence[Sequence[str]]) -> dict[str, Any]:
    """How many sentences our tokenizer splits otherwise, and both sides' scores from raw captions."""
    official = official_words(items)
    pairs = [pair for item in zip(items, official, strict=True) for pair in zip(*item, strict=True)]
    ours = score_captions(
        {str(i): item[0] for i, item in enumerate(items)}, {str(i): item[1:] for i, item in enumerate(items)}
    )
    return {
        "items": len(items),
        "sentences": len(pairs),
        "sentences split otherwise": sum(tokenize(text) != split.split() for text, split in pairs),
        "official": official_scores(official),
        "ours": ours.corpus,
    }


def write(name: str, content: Mapping[str, Any]) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / name).write_text(json.dumps(content, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--audiocaps", type=Path, metavar="DIR")
    parser.add_argument("--elisions", action="store_true")
    arguments = parser.parse_args()
    folder = arguments.audiocaps
    if arguments.elisions:
        items = elisions()
        write("elisions.json", {"raw": items, "official": official_words(items)})
    elif folder:
        source = "AudioCaps and a model's captions: example_1.csv and example_2.csv of aac-metrics 0.6.0"
        write("real.json", {"source": source, **measure(audiocaps(folder))})
    else:
        items = made_up()
        write("captions.json", {"raw": items, "official": official_words(items), "measured": measure(items)})


if __name__ == "__main__":
    main()
