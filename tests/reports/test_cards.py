import pytest

from bench.compare.answer import answer
from bench.compare.compare import compare
from reports import cards as page
from tests import synthetic
from tests.synthetic import Method


def cards(comparison):
    return list(page.cards(comparison, list(answer(comparison))))


def made(methods, **options):
    (found,) = compare(synthetic.records(methods, **options))
    return found, cards(found)


def same(**factors):
    """A recipe that scores exactly as the baseline does."""
    return Method("full", **factors)


@pytest.fixture
def cheaper():
    records = synthetic.records({"full": Method("full"), "lean": Method("lora", step=0.5, memory=0.25)}, noise=0.001)
    for seed in (0, 1, 2):
        records.nodes[f"minilm/stdlib-topics/{seed}/lora"]["quality"] = records.nodes[
            f"minilm/stdlib-topics/{seed}/full"
        ]["quality"]
    (found,) = compare(records)
    return found


def test_each_need_has_the_recipe_that_serves_it_best(cheaper):
    by_need = {card.need: card for card in cards(cheaper)}
    fastest = by_need["Same or better accuracy, and it trains fastest"]
    change = cheaper.rows[1].changes["train_tokens_per_second"]
    assert fastest.recipe == "lean"
    assert fastest.figure == str(change) == "2.00×"
    assert " to ".join(change.ends) in fastest.about
    assert by_need["Same or better accuracy, and it needs least memory to train"].figure == "0.25×"


def test_a_recipe_that_is_better_is_named():
    _, found = made({"full": Method("full", accuracy=0.5), "more": Method("lora", accuracy=0.9)})
    assert found[0].need == "Better accuracy"
    assert found[0].recipe == "more"


def test_what_is_not_settled_is_counted_with_the_seeds_that_it_needs():
    comparison, found = made(synthetic.METHODS)
    card = next(card for card in found if card.need == "Not settled")
    open_ = [
        row
        for row in comparison.rows
        if row.ok and not row.is_baseline and row.changes["accuracy"].verdict == "not settled"
    ]
    assert card.figure == str(len(open_))
    needed = sorted(row.changes["accuracy"].settling.seeds or 999 for row in open_)
    within = [seeds - 3 for seeds in needed if seeds - 3 <= 12]
    assert card.about == f"{within[-1]} more seeds would settle {len(within)} of them"


def test_where_nothing_is_as_good_and_cheaper_that_is_said():
    _, found = made({"full": Method("full", accuracy=0.9), "less": Method("lora", accuracy=0.5, step=0.5)})
    assert found[-1].figure == "none shown"


def test_one_seed_cannot_settle():
    _, found = made({"full": Method("full"), "lora": Method("lora", accuracy=0.74)}, seeds=(0,))
    card = next(card for card in found if card.need == "Not settled")
    assert card.about == "one seed cannot settle them"
