import io
import itertools
import random
import unicodedata

import pytest

from bench.tasks.alike import MISSING, class_of, comparable, doubtful, is_fraction, representative, said

TEXT = "A café's “fine” office №2, said Zoë"

SAME = {
    **{form: unicodedata.normalize(form, TEXT) for form in ("NFC", "NFD", "NFKC", "NFKD")},
    "two spaces": TEXT.replace(" ", "  "),
    "a tab": TEXT.replace(" ", "\t"),
    "no-break spaces": TEXT.replace(" ", "\u00a0"),
    "narrow no-break spaces": TEXT.replace(" ", "\u202f"),
    "ideographic spaces": TEXT.replace(" ", "\u3000"),
    "lines": TEXT.replace(" ", "\n"),
    "Windows' lines": TEXT.replace(" ", "\r\n"),
    "old lines": TEXT.replace(" ", "\r"),
    "line separators": TEXT.replace(" ", "\u2028"),
    "next lines": TEXT.replace(" ", "\x85"),
    "form feeds": TEXT.replace(" ", " \f"),
    "space around": f"\n\t {TEXT}\u2003\r\n",
    "a byte order mark before": f"\ufeff{TEXT}",
    "a byte order mark within": TEXT.replace(" ", " \ufeff"),
    "soft hyphens": TEXT.replace("ff", "f\u00adf"),
    "zero-width spaces": TEXT.replace(" ", " \u200b"),
    "joiners": TEXT.replace("a", "a\u200d").replace("o", "o\u200c"),
    "word joiners": TEXT.replace(" ", "\u2060 \u2060"),
    "marks of direction": f"\u202a{TEXT}\u202c\u200e",
    "isolates": f"\u2066{TEXT}\u2069",
    "a variation selector": TEXT.replace("№", "№\ufe0f"),
    "a grapheme joiner before a mark": unicodedata.normalize("NFD", TEXT).replace("\u0301", "\u034f\u0301"),
    "NUL": TEXT.replace(" ", "\x00 "),
    "tag characters": TEXT + "\U000e0041",
    "a ligature": TEXT.replace("ff", "ﬀ"),
    "full-width letters": TEXT.replace("A", "Ａ").replace("2", "２"),
    "a no-break space decomposed and spaces mixed": TEXT.replace(" ", " \u00a0\n\u2009"),
}


@pytest.mark.parametrize("text", SAME.values(), ids=SAME)
def test_what_reads_the_same_has_one_form(text):
    assert comparable(text) == comparable(TEXT)


@pytest.mark.parametrize(
    "text", [TEXT.lower(), TEXT.replace("é", "e"), TEXT.replace(" ", ""), TEXT.replace(",", ""), TEXT.replace("“", '"'), TEXT[:-1]]
)  # fmt: skip
def test_what_one_can_read_is_a_difference(text):
    assert comparable(text) != comparable(TEXT)


@pytest.mark.parametrize("text", ["", " \n", "\ufeff", "\u200b\u200b", "\u00ad \u2060", "\x00", "\ufe0f", "\u3164"])
def test_nothing_to_see_is_no_text(text):
    assert comparable(text) == ""


def test_invisible_is_what_unicode_says_and_every_normal_form_of_a_character_is_one():
    regex = pytest.importorskip("regex")
    invisible = regex.compile(r"[\p{Default_Ignorable_Code_Point}\p{Cc}]")
    # The planes that have characters.
    for number in itertools.chain(range(0xD800), range(0xE000, 0x30000), range(0xE0000, 0xE1000)):
        character = chr(number)
        form = comparable(f"a{character}b")
        assert (form == "ab") == bool(invisible.fullmatch(character) and not character.isspace()), hex(number)
        if unicodedata.decomposition(character):
            for name in ("NFC", "NFD", "NFKC", "NFKD"):
                assert comparable(unicodedata.normalize(name, f"a{character}b")) == form, hex(number)


def test_the_representative_is_a_text_as_it_was_written_whatever_the_order():
    texts = [*SAME.values()]
    chosen = representative(texts)
    assert chosen in texts
    for seed in range(5):
        random.Random(seed).shuffle(texts)
        assert representative(texts) == chosen
    assert representative(["a  b", "a b", "a\r\nb", "\ufeffa b", "a\nb"]) == "a\nb"
    assert representative(["cafe\u0301", "café"]) == "café"


@pytest.mark.parametrize(
    ("labels", "name"),
    [
        (("1", "1.0", "1.", "1.00", "+1", "1e0", "1E0", "10e-1", "0.1e1"), "1"),
        (("0", "0.0", "-0", "-0.0", ".0", "0e5"), "0"),
        (("-3", "-3.0"), "-3"),
        (("100", "1e2", "1E+2", "100.0"), "100"),
        (("0.5", ".5", "0.50", "5e-1", "+0.5"), "0.5"),
        (("true", "True", "TRUE"), "true"),
        (("false", "False", "FALSE"), "false"),
        (("1234567890123456789012345678901", "1234567890123456789012345678901.0"), "1234567890123456789012345678901"),
    ],
)
def test_one_value_is_one_class(labels, name):
    assert {class_of(label) for label in labels} == {name}


@pytest.mark.parametrize(
    "label",
    [
        "01", "007", "00", "1_000", "1,000", "1,5", "50%", "0x10", "1e999999999", "1e100", "inf", "infinity", "١", "１", "²",
        "1 2", "--1", ".", "e5", "-", "tRUE", "yes", "T", "v1.0", "1.2.3", "none", "1234567890123456789012345678901",
        "1234567890123456789012345678902",
    ],
)  # fmt: skip
def test_what_is_no_plain_number_is_a_class_of_its_own(label):
    assert class_of(label) == label


@pytest.mark.parametrize(
    "pair",
    [
        ("pos", "Pos"), ("pos", "POS"), ("café", "cafe\u0301"), ("very good", "very  good"), ("very good", "very\u00a0good"),
        ("pos", "pos\u200b"), ("office", "oﬃce"), ("1", "01"), ("07", "007"), ("1", "１"), ("-1", "-01"), ("true", "1"),
        ("0", "false"), ("true", "tRUE"), ("Yes", "yes"), ("m²", "m2"),
    ],
)  # fmt: skip
def test_classes_that_may_be_one_are_found(pair):
    assert doubtful(["another", *pair, "last"]) == pair
    assert doubtful(["another", *pair[::-1]]) == pair[::-1]


def test_classes_that_are_two_are_left_alone():
    assert doubtful(
        ["1", "2", "10", "-1", "01x", "0", "pos", "neg", "true", "café", "cafe", "a b", "ab", "1.5", "15"]
    ) == (
        "1",
        "true",
    )
    assert doubtful(["1", "2", "10", "-1", "0", "pos", "neg", "café", "cafe", "a b", "ab", "1.5", "15", "Maße"]) is None
    assert doubtful(["true", "false", "2"]) is None


def test_fractions():
    assert all(map(is_fraction, ["0.5", "-2.25"]))
    assert not any(map(is_fraction, ["1", "-3", "v0.5", "1.2.3", "a.b"]))


def test_missing_is_what_pandas_reads_as_missing():
    pandas = pytest.importorskip("pandas")
    others = ["none", "na", "Null", "no", "-", "?", "unknown", "missing", "NaNa", "0"]
    read = pandas.read_csv(io.StringIO("label\n" + "".join(f'"{label}"\n' for label in [*sorted(MISSING), *others])))
    assert read["label"].isna().tolist() == [True] * len(MISSING) + [False] * len(others)


def test_what_became_of_the_texts_is_said_in_a_line():
    counts = {
        "read": 1620,
        "equal": 20,
        "near_equal": 1300,
        "conflicting": 0,
        "train": 210,
        "validation": 30,
        "test": 60,
    }
    assert said(counts) == (
        "1,620 texts read; 210 in train, 30 in validation, 60 in test; left out 20 equal to another, 1,300 equal to another "
        "but for white space, invisible characters or Unicode form"
    )
    assert said({"read": 10, "train": 7, "validation": 1, "test": 2}) == (
        "10 texts read; 7 in train, 1 in validation, 2 in test"
    )
    assert "2 with several labels, 3 that another split has too" in said(
        counts | {"conflicting": 2, "in_two_splits": 3}
    )
    assert said(counts | {"respelled": 4}).endswith(
        "; 4 labels written in another way than their class is called, as 1.0 for 1"
    )
    assert said({}) == ""
