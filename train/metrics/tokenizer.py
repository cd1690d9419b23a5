r"""Words of a caption as the COCO caption evaluation counts them, without Java.

    tokenize("A man's t-shirt can't fit...")   # ["a", "man", "'s", "t-shirt", "ca", "n't", "fit"]

The official evaluation runs Stanford's PTBTokenizer (Penn Treebank rules) in lower case and then drops the
tokens of punctuation. Two of its habits matter to scores and are kept: brackets stay as the words "-lrb-" and
"-rrb-" (the list of punctuation has them in capitals), and so do runs such as "!!".

Measured against pycocoevalcap 1.2 (Stanford CoreNLP 3.4.1), sentences that are split otherwise:

    AudioCaps references and a model's captions              0 of   8,242
    descriptions of things, written by a language model     93 of 144,824 (0.06 %)
    made-up captions packed with difficult words             1 of   1,500
    elisions of French, Italian, Spanish and German          0 of     620

All but a few end in a single letter ("a Ford Model T."). The official tokenizer reads a whole file and drops
the full stop there only if the next caption begins with "A", "The" or the like; ours always does, so that a
caption's words do not depend on its neighbours. Smileys and telephone numbers are not joined.
"""

from __future__ import annotations

import re

# Words that keep their full stop.
TITLES = (
    "adj|adm|adv|assoc|asst|attys?|brig|capt|cmdr|col|comdr|cpl|det|drs?|ens|esq|gen|govs?|hon|insp|jr|lieut|lt|maj"
    "|messrs|mlle|mme|mrs?|ms|msgr|pfc|pres|profs?|pvt|reps?|rev|sens?|sfc|sgt|spc|sr|supts?|[ep][dh]\\.d|ph"
)
PLACES = (
    "ala|ariz|ave|bldg|blvd|calif|colo|conn|ct|dak|fla|ft|ga|ind|kans?|ky|md|mich|minn|mo|mont|mt|neb|nev|okla"
    "|penn|rd|ste?|tenn|va|vt|wisc?|wyo"
)
DAYS = "apr|aug|dec|feb|fri|jan|jul|jun|mar|mon|nov|oct|sept?|thu|thurs|tues?|wed"
COMPANIES = (
    "assn|bancorp|bhd|bros|cie|cos?|corp|dept|elec|inc|intl|invt|ltd|m[ft]g|natl|plc|pt[ey]|rt|sys|univ"
)
OTHERS = "al|alex|cf|est|etc|ext|jos|seq|sq|tel|vs|wm"
CAPITALISED = "Ark|Az|Del|Ill|La|Mass|Miss|Ore|Pa|Tex|Wash"  # otherwise words of their own
BEFORE_NUMBER = "art|ca|figs?|nos?|op|pp|prop"  # otherwise their full stop ends a sentence

A = "[A-Za-z0-9]"
LETTER = r"[^\W\d_]"
LETTERS = r"[^\W_]"  # with digits
QUOTE = "['’]"
OWN = rf"{QUOTE} (?i: [msd] | re | ve | ll ) (?! [A-Za-z] )"
ELISION = rf"[dDoOlL] ['’`] {LETTERS}"  # l'été, d'or, O'Reilly: with two letters or more behind it
LINKED_ELISION = rf"(?: [-_‐‑] {ELISION} {LETTERS}+ )"  # hors-d'œuvre
LINKED = rf"(?: [-_‐‑] (?: {ELISION} )? {LETTERS}+ )*"
WORD = rf"{LETTER} {LETTERS}* (?: [.!?] {LETTER} {LETTERS}* )*"

# The official lexer takes the longest match of all its rules. These stand in such an order that the first
# match is the longest one in nearly all text.
TOKEN = re.compile(
    rf"""
    # addresses, names, tags
      (?: https?:// | www\. ) [^\s"<>|()]+ [^\s"<>|.!?(),;:-]
    | (?: [^\s"`'<>|.!?(){{}},_$-]+ \. )+ (?: com | net | org | edu ) (?!{A}) (?: / [^\s"<>|()]+ {A} )?
    | [\w.%+-]+ @ {A} [\w.-]* {A}
    | @ [A-Za-z_] \w* | \# {LETTER} \w* {LETTERS}
    | < /? [A-Za-z] [\w:.-]* \ * /? >

    # one written word that counts as two: can not, gon na, do n't, dog 's, y' all
    | (?i: can (?= not (?!{A}) ) | (?: gon | wan ) (?= na (?!{A}) ) | got (?= ta (?!{A}) ) )
    | (?i: (?: gim | lem ) (?= me (?!{A}) ) | ' t (?= (?: is | was ) (?!{A}) ) )
    | [A-Za-z]* [A-MO-Za-mo-z] (?= [nN] ['’`] [tT] s? (?!{A}) ) | [nN] ['’`] [tT] s? (?!{A})
    | {WORD} (?= {OWN} ) | {OWN}
    | [yY] {QUOTE} (?= {LETTER} )

    # apostrophes that belong to the word: 'n', '80s, o'clock, O'Reilly, ma'am
    | (?i: {QUOTE} n {QUOTE} | {QUOTE} (?: n | em | till? | cause | [2-9]0s ) (?!{A}) )
    | {QUOTE} \d\d (?! \S )
    | {ELISION} {LETTERS}+ {LINKED}
    | {LETTERS}+ {LINKED_ELISION} {LINKED}
    | [A-HJ-XZn] ['’`] {LETTER}{{2,}} | [lLdDjJ] {QUOTE} | {LETTER}+ [aeiouyAEIOUY] ['’`] [aeiouA-Z] {LETTER}*
    | (?i: c['’`]est | o['’`]o | c'mon | e'er | s'mores | ev'ry | li'l | nor'easter | ol{QUOTE} (?!{A}) )

    # strokes and hyphens: black-and-white/red, 2 1/2, t-shirt, 3.5-inch
    | {A}+ (?: - [A-Za-z]+ ){{0,2}} (?: / {A}+ (?: - [A-Za-z]+ ){{0,2}} ){{1,2}}
    | (?: \d{{1,4}} [- ] )? \d{{1,4}} / \d{{1,4}}
    | {LETTERS} (?: {LETTERS} | [.,] (?!-) )* (?: - {LETTERS}+ (?: \.\d+ )? )+
    | {LETTERS}+ (?: _ {LETTERS}+ )+

    # full stops that belong to the word; one letter's ends a caption
    | (?: (?i: {TITLES} | {PLACES} | {DAYS} | {COMPANIES} | {OTHERS} ) | {CAPITALISED} ) \. (?! [A-Za-z] )
    | [A-Za-z] (?: \. [A-Za-z] )+ \. (?! [A-Za-z] )
    | [A-Za-z] \. (?! [A-Za-z] | \s* \Z )
    | (?i: {BEFORE_NUMBER} ) \. (?= \ ? \d )

    # AT&T, C++, 20mph, 3:30, -5.2, on.the.road
    | [A-Z]+ (?: [+&] [A-Z]+ )+ | [cC] \+\+
    | \d+ {LETTER} {LETTERS}*
    | [-+]? (?: \d* (?: [.:,] \d+ )+ | \d+ )
    | {WORD}

    # signs, in runs or one by one
    | [A-Z]* \$ | \.\.+ | -+ | [?!]+ | =+ | \*+ | @+ | _+ | \#+ | \S
    """,
    re.VERBOSE,
)

# Unknown to the official lexer, which skips them: characters of no width, and emoji.
INVISIBLE = re.compile("[\u200b-\u200f\ufe00-\ufe0f\ufeff\U00010000-\U0010ffff]")
SOFT_HYPHEN = "\u00ad"

# Marks that are dropped: the official list and what the official lexer writes as one of it. The low quotes of
# German, „ and ‚, are not: they stay as words.
PUNCTUATION = re.compile("[.?!,:;'’‘‛‹›`\"“”«»–—―…]|-{1,4}|[.]{2,}")
BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
CURRENCY = {"€": "$", "£": "#", "¤": "$", "¢": "cents"}
FRACTIONS = {"½": "1/2", "¼": "1/4", "¾": "3/4", "⅓": "1/3", "⅔": "2/3"}
# Made straight where the official lexer does; "o’clock" and the like keep theirs.
CURLY = {"’s": "'s", "’m": "'m", "’d": "'d", "’re": "'re", "’ve": "'ve", "’ll": "'ll", "n’t": "n't"}
REPLACED = BRACKETS | CURRENCY | FRACTIONS | CURLY


def tokenize(caption: str) -> list[str]:
    """The lower-case words of a caption, without punctuation; an empty list if nothing else is in it."""
    words: list[str] = []
    for token in TOKEN.findall(INVISIBLE.sub(" ", caption.replace(SOFT_HYPHEN, ""))):
        if not PUNCTUATION.fullmatch(token):
            word = token.lower()
            words += REPLACED.get(word, word).split()  # "2 1/2" is one token but two words to every metric
    return words
