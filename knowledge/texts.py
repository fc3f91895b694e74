"""Text as the index sees it: cleaned, bounded, split into stems. Texts come from outside and are never trusted."""

import re
import unicodedata

TEXT_CHARS_MAX = 2_000
SEARCH_CHARS_MAX = 16_000

_WORD = re.compile(r"[a-z0-9]+(?:_[a-z0-9]+)*")
_SUFFIXES = (
    "ations",
    "ation",
    "ingly",
    "ments",
    "ment",
    "ness",
    "ings",
    "ing",
    "edly",
    "ies",
    "ied",
    "ed",
    "es",
    "ly",
    "s",
)
_STOP_TEXT = """
a about after again all also always an and any are as at be because been before being but by can could did do
does doing down each even every few for from further get gets had has have having how if in into is it its
itself just like more most much my no nor not now of off on once one only or other our out over own same see
seen she should so some such than that the their them then there these they thing this those through to too
under until up us very was we were what when where which while who whom why will with would you your
"""
_STOP = frozenset(_STOP_TEXT.split())


class _Kept(dict[int, int | None]):
    """What becomes of each character, found out once."""

    def __missing__(self, code: int) -> int | None:
        kept = code if unicodedata.category(chr(code))[0] != "C" else None
        self[code] = kept
        return kept


_KEPT = _Kept({ord("\n"): ord("\n"), ord("\t"): ord("\t"), 0x2028: ord("\n"), 0x2029: ord("\n")})


def clean(text: str) -> str:
    """Remove control, format and surrogate characters (terminal escapes, bidirectional overrides); keep line breaks."""
    return text if text.isprintable() else text.replace("\r\n", "\n").translate(_KEPT)


def bounded(text: str, chars_max: int = TEXT_CHARS_MAX) -> str:
    """The cleaned text, at most `chars_max` characters long."""
    cleaned = clean(text)
    return cleaned if len(cleaned) <= chars_max else cleaned[: chars_max - 1] + "…"


def line(text: str, chars_max: int = 200) -> str:
    """The cleaned text on one line."""
    return bounded(" ".join(clean(text).split()), chars_max)


def words(text: str) -> list[str]:
    """Lowercase words without stop words; a name like `unit_change` gives itself and its parts."""
    found: list[str] = []
    for word in _WORD.findall(text.lower()):
        parts = word.split("_")
        if len(parts) > 1:
            found.append(word)
        found.extend(part for part in parts if len(part) > 1 and part not in _STOP)
    return found


def telling_words(text: str, count: int) -> list[str]:
    """The words that look rarest: names and numbers before plain words, long before short."""
    found = dict.fromkeys(words(text))
    return sorted(found, key=lambda word: (word.isalpha(), -len(word)))[:count]


def stems(text: str) -> list[str]:
    """The words of a text with common English endings removed (a light stemmer: `readings` and `read` meet)."""
    return [_stem(word) for word in words(text)]


def _stem(word: str) -> str:
    if "_" in word or word[0].isdigit():
        return word
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            word = word[: -len(suffix)] + ("y" if suffix in {"ies", "ied"} else "")
            break
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "aeiouls":
        word = word[:-1]
    return word[:-1] if len(word) > 3 and word.endswith("e") else word
