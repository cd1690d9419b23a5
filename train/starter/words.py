"""What pictures show: words.txt (labels, synonyms, categories) and names.txt (what file names do not say)."""

import re
from pathlib import Path

HERE = Path(__file__).parent


def read_words() -> tuple[dict[str, str], dict[str, str]]:
    """words.txt as two maps: any known word -> label, and label -> category."""
    label_of: dict[str, str] = {}
    category_of: dict[str, str] = {}
    for line in (HERE / "words.txt").read_text().splitlines():
        if line and line[0] not in "#(":
            category, _, entries = line.partition(": ")
            for entry in entries.split(", "):
                label, *others = entry.strip().split("=")
                category_of.setdefault(label, category)
                for word in (label, *others):
                    label_of.setdefault(word, label)
    return label_of, category_of


def read_articles() -> dict[str, str]:
    """The nouns of words.txt that take no "a": word -> "some", "the", "a pair of" or nothing."""
    article_of: dict[str, str] = {}
    for line in (HERE / "words.txt").read_text().splitlines():
        if match := re.match(r"\((.*)\): (.*)", line):
            article_of |= dict.fromkeys(match[2].split(", "), match[1])
    return article_of


def read_names(package: str) -> tuple[dict[str, str], set[str]]:
    """One section of names.txt: file name -> label, and the names that are left out."""
    section = (HERE / "names.txt").read_text().split(f"[{package}]\n")[1].split("\n\n")[0]
    labels: dict[str, str] = {}
    left_out: set[str] = set()
    for entry in section.replace("\n    ", " ").splitlines():
        label, _, names = entry.partition(" = ")
        if label == "-":
            left_out |= set(names.split())
        else:
            labels |= dict.fromkeys(names.split(), label)
    return labels, left_out


LABEL_OF, CATEGORY_OF = read_words()
ARTICLE_OF = read_articles()


def is_plural(word: str) -> bool:
    """True of words that words.txt has as another form of its label, or that lose an s to become one."""
    if not word.endswith("s"):
        return False
    return LABEL_OF.get(word, word) != word or (not word.endswith("ss") and word[:-1] in LABEL_OF)


def with_article(noun: str) -> str:
    """ "lion" -> "a lion", "jeans" -> "a pair of jeans", "bread" -> "some bread", "sun" -> "the sun"."""
    last = noun.split()[-1]
    article = ARTICLE_OF.get(noun, ARTICLE_OF.get(last, "some" if is_plural(last) else None))
    if article is not None:
        return f"{article} {noun}".strip()
    vowel = re.match("(?!uni|eu|one)[aeiou]|hour", noun, re.IGNORECASE)  # as it is spoken
    return f"{'an' if vowel else 'a'} {noun}"


def head_label(phrase: str) -> str | None:
    """The label of a noun phrase, its longest ending in words.txt: "a red sports car" -> "sports car"."""
    words = phrase.lower().split()
    endings = (" ".join(words[start:]) for start in range(len(words)))
    return next((LABEL_OF[ending] for ending in endings if ending in LABEL_OF), None)
