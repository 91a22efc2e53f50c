"""When two texts are the same text, and two labels the same class.

What a person reads as one must not be two to a benchmark: a text in training and testing at once is a leak, and a class
under two names is two classes that no model can tell apart.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping
from decimal import Context, Decimal

from bench.metrics.units import counted

_INVISIBLE = re.compile(
    r"[\x00-\x08\x0E-\x1B\x7F-\x84\x86-\x9F"
    r"\u00AD\u034F\u061C\u115F\u1160\u17B4\u17B5\u180B-\u180F\u200B-\u200F\u202A-\u202E\u2060-\u206F\u3164\uFE00-\uFE0F\uFEFF"
    r"\uFFA0\uFFF0-\uFFF8\U0001BCA0-\U0001BCA3\U0001D173-\U0001D17A\U000E0000-\U000E0FFF]+"
)
"""Control characters, but for white space, and Unicode's Default_Ignorable_Code_Point: soft hyphens, zero-width spaces
and joiners, marks of direction and of bytes' order, variation selectors."""


def comparable(text: str) -> str:
    """The form in which texts are compared; empty where nothing of `text` can be seen.

    Invisible characters are left out, the rest is in Unicode's form NFKC, and any white space, ends of lines too, is one
    space, but none at the ends. That is NFKC_Casefold (Unicode Standard, section 3.13) with white space folded
    and case kept. NFKC and not NFC, for SentencePiece's normalisation and others' make full-width letters, ligatures and
    no-break spaces one with the plain ones before a model sees them. Case counts: it is a difference that one can read.
    """
    return " ".join(unicodedata.normalize("NFKC", _INVISIBLE.sub("", text)).split())


def representative(texts: Iterable[str]) -> str:
    """The one of several texts of the same form that stands for all: the shortest, and of those the first in order."""
    return min(texts, key=lambda text: (len(text), text))


MISSING = frozenset(
    [
        "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA", "NULL",
        "NaN", "None", "n/a", "nan", "null",
    ]
)  # fmt: skip
"""What stands for a missing value in a table, as pandas reads and writes it:
https://pandas.pydata.org/docs/reference/api/pandas.read_csv.html (``na_values``)."""

_NUMBER = re.compile(r"[+-]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,2})?")
_TRUTH = {"True": "true", "TRUE": "true", "False": "false", "FALSE": "false"}


def class_of(label: str) -> str:
    """The name of the class that `label` stands for: the same for the same number or truth value, else `label`.

    ``1``, ``1.0`` and ``1e0`` are the class ``1``, and ``True``, ``TRUE`` and ``true`` are ``true``. A number with zeros
    in front, such as ``007``, may be a code, and stays as it is.
    """
    if not _NUMBER.fullmatch(label):
        return _TRUTH.get(label, label)
    value = Decimal(label)
    # To as many digits as there are, for by default Decimal rounds to 28.
    return format(value.normalize(Context(prec=len(label))), "f") if value else "0"


def is_fraction(name: str) -> bool:
    """Whether a class's name is a number that is not whole."""
    return bool(_NUMBER.fullmatch(name)) and "." in name


def doubtful(names: Iterable[str]) -> tuple[str, str] | None:
    """Two classes that may be one: their names differ in case, white space, Unicode form, zeros in front of a number, or
    by ``1`` for ``true``. None where there are none."""
    seen: dict[str, str] = {}
    for name in names:
        sense = comparable(name).lower()
        sense = class_of(re.sub(r"^([+-]?)0+(?=[0-9])", r"\1", sense))
        sense = {"true": "1", "false": "0"}.get(sense, sense)
        if seen.setdefault(sense, name) != name:
            return seen[sense], name
    return None


_LEFT_OUT = {
    "equal": "equal to another",
    "near_equal": "equal to another but for white space, invisible characters or Unicode form",
    "conflicting": "with several labels",
    "in_two_splits": "that another split has too",
    "near_duplicates": "nearly equal to another, by their words",
}


def said(counts: Mapping[str, int]) -> str:
    """What became of the texts of a task's data, in one line; empty where nothing is known of them."""
    if not counts:
        return ""
    parts = [f"{counted(counts.get('read', 0), 'text')} read"]
    parts.append(", ".join(f"{counts.get(split, 0):,} in {split}" for split in ("train", "validation", "test")))
    left_out = [f"{counts[what]:,} {words}" for what, words in _LEFT_OUT.items() if counts.get(what)]
    parts += [f"left out {', '.join(left_out)}"] if left_out else []
    if respelled := counts.get("respelled"):
        parts.append(f"{counted(respelled, 'label')} written in another way than their class is called, as 1.0 for 1")
    return "; ".join(parts)
