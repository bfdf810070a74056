"""From raw segments to sentence pairs: what is repaired, where segments are cut, what is refused and why."""

import html
import re
from collections.abc import Iterator

PLACEHOLDER = re.compile(
    r"%(?:\d+\$)?[-+#0]*\d*(?:\.\d+)?(?:hh|h|ll|l|z|j|q|L)?[a-zA-Z]\b|%\d+|%\([^)]+\)[sd]|%[<{'][^\s]*|"
    r"\{[^{}]*\}|\$\{?\w+\}?|\$\(\w+\)|@\w+@|%%"
)
INVISIBLE = str.maketrans({"\u00ad": None, "\u200b": None, "\u00a0": " ", "\u202f": " "})
BLOCK_TAG = re.compile(r"</?(?:p|br|div|h\d|li|ul|td|tr|para|title|center)\b[^<>]*>")
TAG = re.compile(r"</?[A-Za-z][^<>]*>")
ENTITY = re.compile(r"&(\w+|#\d+);")
# The key that selects a menu entry: "&" in Qt and KDE, "_" in GTK, "~" in VCL.
AMPERSAND_ACCELERATOR = re.compile(r"&(?=\w)")
ACCELERATOR = re.compile(r"(?<![\w])[_~](?=\w)|(?<=[a-zA-Z\u00c0-\u024f])[_~](?=[a-zA-Z\u00c0-\u024f])(?!\w*[_~])")
PLAIN_QUOTES = str.maketrans(
    {**dict.fromkeys("\u201e\u201c\u201d\u00bb\u00ab", '"'), **dict.fromkeys("\u2018\u2019\u201a", "'")}
)

SENTENCE_END = re.compile(r"[.!?][\"')\]]*\s+(?=[\"'(\[\u00bf\u00a1]*[A-Z\u00c0-\u00de])")
ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|vs|cf|No|Nr|St|Dr|Mr|Mrs|z\. ?B|d\. ?h|u\. ?a|o\. ?\u00e4|bzw|usw|ca|evtl|ggf|inkl|sog|Abs|"
    r"Abk|engl|p\. ?ex|c\.-\u00e0-d|Ud|Sr|p\. ?ej)|\b[A-Za-z]|\b\d{1,2})\.$"
)

URL = re.compile(r"https?://|www\.|ftp://|\S+@\S+\.\S+|[\w.-]+\.(?:org|com|net)\b")
CODE_CHARACTERS = set("\\{}|\u0004=^#~<>_[]*\u2022\ufffd@")
CODE = re.compile(r"(.)\1{3,}|\w/\w+/|^[-+*.,;:)]|(?<!\w)--?[A-Za-z]|[a-z]\d+\.\d")
TEXT_START = re.compile(r"[\"'(\u00bf\u00a1]*[A-Za-z0-9\u00c0-\u024f]")
OTHER_SCRIPT = re.compile(r"[\u0370-\u1eff\u2e80-\uffef]")
LONGEST_WORD = 40

FREQUENT_WORDS = {
    "en": "the of and is are with this that for from which be will you if not can it as by when",
    "de": "der die das und ist sind mit ein eine einen einem nicht von den dem wird werden zu auf im für sie oder als "
    "wenn kann",
    "fr": "le la les de des et est sont avec un une pas ne du dans pour que qui vous si au ce cette par sur",
    "es": "el la los las de y es son con un una no del en para que se si por al este esta como su",
}
FREQUENT_WORDS = {language: frozenset(words.split()) for language, words in FREQUENT_WORDS.items()}
MORE_ENGLISH_WORDS = frozenset(("a", "an", "to", "in", "on", "or"))
PUNCTUATED_END = re.compile(r"[.!?][\"')]*$")
CAPITAL_START = re.compile(r"[\"'(]*[A-Z]")


def has_placeholder(text: str) -> bool:
    """Whether a message has parts that a program fills in: ``%s``, ``{name}``, ``$HOME``, ``@file@``."""
    return PLACEHOLDER.search(text) is not None


def clean_text(text: str, source_format: str) -> str:
    """Plain text on one line: no tags, entities, accelerators or invisible characters; ASCII quotes and ellipses."""
    text = text.translate(INVISIBLE)
    if "<" in text:
        text = TAG.sub("", BLOCK_TAG.sub(" ", text))
    if "&" in text:
        text = ENTITY.sub(lambda entity: html.unescape(entity.group(0)), text)
        if source_format == "mo":
            text = AMPERSAND_ACCELERATOR.sub("", text)
    if source_format == "mo" and text.count("_") + text.count("~") == 1:
        text = ACCELERATOR.sub("", text)
    text = text.replace("\\n", " ").translate(PLAIN_QUOTES)
    text = text.replace("``", '"').replace("''", '"').replace("\u2026", "...").replace("`", "'")
    return re.sub(r"\s+", " ", text).strip()


def sentences(text: str) -> list[str]:
    """Cut after ``. ! ?`` before a capital letter, but not after an abbreviation, a single letter or a small number."""
    parts, start = [], 0
    for end in SENTENCE_END.finditer(text):
        sentence = text[start : end.end()].rstrip()
        if not ABBREVIATION.search(sentence):
            parts.append(sentence)
            start = end.end()
    rest = text[start:].strip()
    return [*parts, rest] if rest else parts


def sentence_pairs(text: str, translation: str) -> Iterator[tuple[str, str]]:
    """A cleaned segment cut into sentences where both sides have as many, else the segment as it is."""
    first, second = sentences(text), sentences(translation)
    if len(first) != len(second) or len(first) == 1:
        first, second = [text], [translation]
    yield from zip(first, second, strict=True)


def refusal(text: str, translation: str, language: str, max_words: int) -> str:
    """Why a pair is not a translation of running text, in a word; "" for a good pair.

    In this order: ``same-or-empty``, ``length`` (3 to ``max_words`` English words, 2 to ``max_words`` in the
    translation), ``ratio`` of lengths, ``non-text`` (code, lists, symbols), ``url``, ``caps``, ``script``,
    ``target-language`` and ``source-language`` (a side in the wrong language, told by frequent words), ``overlap``
    (too many words left untranslated), ``digits`` (the sides have other numbers).
    """
    if not text or not translation or text.lower() == translation.lower():
        return "same-or-empty"
    words, translated_words = text.split(), translation.split()
    if not (3 <= len(words) <= max_words and 2 <= len(translated_words) <= max_words):
        return "length"
    if not (0.45 <= len(translated_words) / len(words) <= 2.0 and 0.5 <= len(translation) / len(text) <= 2.2):
        return "ratio"
    for side in (text, translation):
        if _is_code(side):
            return "non-text"
        if URL.search(side):
            return "url"
        if not TEXT_START.match(side):
            return "non-text"
    if sum(word.isupper() and len(word) > 1 for word in words) > 0.3 * len(words):
        return "caps"
    if OTHER_SCRIPT.search(text + translation):
        return "script"
    bare_words = [_bare(word) for word in words]
    bare_translated = [_bare(word) for word in translated_words]
    english, target = FREQUENT_WORDS["en"], FREQUENT_WORDS[language]
    english_count = sum(word in english and word not in target for word in bare_translated)
    if english_count >= 2 and english_count >= sum(word in target for word in bare_translated):
        return "target-language"
    if sum(word in target and word not in english for word in bare_words) >= 2:
        return "source-language"
    if len(set(bare_words) & set(bare_translated)) > 0.6 * len(words):
        return "overlap"
    if _numbers(text) != _numbers(translation):
        return "digits"
    return ""


def running_text(text: str, source_format: str) -> list[str]:
    """The clean sentences of a paragraph, without those that are code, hold an address, or begin with a sign."""
    parts = sentences(clean_text(text, source_format))
    return [part for part in parts if not _is_code(part) and TEXT_START.match(part) and not URL.search(part)]


def is_sentence_like(text: str, translation: str) -> bool:
    """Whether a pair reads like a sentence: punctuated on both sides, a capital first, a frequent English word."""
    return bool(
        PUNCTUATED_END.search(text)
        and PUNCTUATED_END.search(translation)
        and CAPITAL_START.match(text)
        and any(word.lower() in FREQUENT_WORDS["en"] | MORE_ENGLISH_WORDS for word in text.split())
    )


def _is_code(text: str) -> bool:
    letters = sum(character.isalpha() for character in text)
    return (
        letters < 0.78 * len(text.replace(" ", ""))
        or not CODE_CHARACTERS.isdisjoint(text)
        or max(map(len, text.split())) > LONGEST_WORD
        or CODE.search(text) is not None
    )


def _bare(word: str) -> str:
    return re.sub(r"\W", "", word).lower()


def _numbers(text: str) -> list[str]:
    return sorted(re.findall(r"\d+", text.replace(",", "").replace(".", "")))
