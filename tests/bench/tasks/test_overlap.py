"""Scores of written texts against hand computations."""

import math

import pytest
import sacrebleu

from bench.tasks.overlap import bleu, chrf, exact_match, rouge

RIGHT = ["the cat sat on the mat today", "a dog barks loudly at the old gate", "two birds sing in the green tree"]
WRITTEN = ["the cat sat on the mat", "the dog barks at the old gate", "three birds sang in a green tree here"]


class TestBleu:
    def test_by_hand(self):
        # Right n-grams of the three texts: 6+6+4 of 6+7+8 words, 5+4+1 of 18 pairs, 4+2 of 15, 3+1 of 12.
        counts, totals = [16, 10, 6, 4], [21, 18, 15, 12]
        shortness = math.exp(1 - 22 / 21)
        value = 100 * shortness * math.exp(sum(math.log(n / m) for n, m in zip(counts, totals, strict=True)) / 4)
        found = bleu(RIGHT, WRITTEN)
        assert found.value == pytest.approx(value)

    def test_it_is_sacrebleus_of_the_corpus_and_its_parts_are_the_jackknifes(self):
        found = bleu(RIGHT, WRITTEN)
        assert found.value == pytest.approx(sacrebleu.corpus_bleu(WRITTEN, [RIGHT]).score)
        without = [
            sacrebleu.corpus_bleu(WRITTEN[:n] + WRITTEN[n + 1 :], [RIGHT[:n] + RIGHT[n + 1 :]]).score for n in range(3)
        ]
        mean = sum(without) / 3
        assert found.items == pytest.approx([found.value + 2 * (mean - each) for each in without])
        assert sum(found.items) / 3 == pytest.approx(found.value)

    def test_nothing_written(self):
        assert bleu(RIGHT, ["", "", ""]).value == 0


def test_chrf_of_one_text_by_hand():
    # "abc" of "abd": 2 of 3 signs, 1 of 2 pairs, 0 of 1 triple; longer ones there are none.
    assert chrf(["abd"], ["abc"]).value == pytest.approx(100 * (2 / 3 + 1 / 2 + 0) / 3)
    assert chrf(RIGHT, RIGHT).value == pytest.approx(100)


def test_rouge_by_hand():
    found = rouge(["the red cat sat"], ["the cat sat down there"], "rouge1", "rouge2", "rouge_l")
    assert found["rouge1"].value == pytest.approx(2 * (3 / 5) * (3 / 4) / (3 / 5 + 3 / 4))
    assert found["rouge2"].value == pytest.approx(2 * (1 / 4) * (1 / 3) / (1 / 4 + 1 / 3))
    assert found["rouge_l"].value == pytest.approx(2 * (3 / 5) * (3 / 4) / (3 / 5 + 3 / 4))
    turned = rouge(["one two three"], ["three two one"], "rouge1", "rouge_l")
    assert (turned["rouge1"].value, turned["rouge_l"].value) == (1, pytest.approx(1 / 3))
    both = rouge(["one two", "one"], ["one two", "two"], "rouge_l")["rouge_l"]
    assert both.items == (1, 0)
    assert both.value == 0.5


def test_exact_match_by_hand():
    found = exact_match(["The cat.", "a dog", "bird"], ["cat", "Dog!", "birds"])
    assert found.items == (1, 1, 0)
    assert found.value == pytest.approx(2 / 3)
