from __future__ import annotations

import json
import math
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench.tasks.kinds.regression import Regression, RegressionTable, scores
from bench.testing import jobs


def rows(count: int = 120) -> list[dict[str, Any]]:
    draw = random.Random(0)
    return [
        {
            "premise": f"word {n} " + "x " * (n % 7),
            "hypothesis": f"other {n % 5}",
            "score": round(draw.gauss(3, 1) + n % 7, 3),
        }
        for n in range(count)
    ]


@pytest.fixture
def task(tmp_path: Path) -> Regression:
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows())))
    table = RegressionTable(kind="regression", data="rows.jsonl", text=["premise", "hypothesis"], label="score")
    return Regression(table, tmp_path)


class TestScores:
    TRUTH, FOUND = [1.0, 2.0, 3.0, 4.0, 5.0], [1.5, 1.0, 3.0, 6.0, 5.5]

    def test_by_hand(self) -> None:
        found = scores(self.TRUTH, self.FOUND)
        # Deviations of the truth −2..2, of what was found −1.9, −2.4, −.4, 2.6, 2.1: products' sum 13.0.
        assert found["pearson"].value == pytest.approx(13.0 / math.sqrt(10 * (3.61 + 5.76 + 0.16 + 6.76 + 4.41)))
        # Ranks 2, 1, 3, 5, 4: 1 − 6 · (1 + 1 + 0 + 1 + 1) / (5 · 24).
        assert found["spearman"].value == pytest.approx(0.8)
        assert found["mean_absolute_error"].value == pytest.approx((0.5 + 1 + 0 + 2 + 0.5) / 5)
        assert found["root_mean_squared_error"].value == pytest.approx(math.sqrt((0.25 + 1 + 0 + 4 + 0.25) / 5))

    def test_as_scipy_has_them_and_the_items_mean_is_the_score(self) -> None:
        from scipy import stats

        draw = random.Random(3)
        truth = [draw.gauss(1e6, 2) for _ in range(50)]
        guessed = [each + draw.gauss(0, 3) for each in truth]
        found = scores(truth, guessed)
        assert found["pearson"].value == pytest.approx(stats.pearsonr(truth, guessed).statistic)
        assert found["spearman"].value == pytest.approx(stats.spearmanr(truth, guessed).statistic)
        for score in found.values():
            assert np.mean(score.items) == pytest.approx(score.value)

    def test_what_does_not_vary_has_no_correlation(self) -> None:
        assert scores(self.TRUTH, [2.0] * 5)["pearson"].value == 0
        assert scores(self.TRUTH, [2.0] * 5)["spearman"].value == 0

    def test_no_number_is_no_score(self) -> None:
        assert all(math.isnan(score.value) for score in scores(self.TRUTH, [math.nan, *self.FOUND[1:]]).values())


class TestTask:
    def test_labels_are_scaled_by_the_training_items_alone(self, task: Regression, tiny_bert: Path) -> None:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
        train = list(task.data.answers("train"))
        assert task.scale == pytest.approx((float(np.mean(train)), float(np.std(train))))
        (batch,) = task.batches("test", tokenizer, batch_size=99, max_length=32)
        expected = [(each - np.mean(train)) / np.std(train) for each in task.data.answers("test")]
        assert batch.labels.tolist() == pytest.approx(expected, abs=1e-5)
        texts = zip(*task.data.columns("test"), strict=True)
        for row, length, pair in zip(batch.inputs["input_ids"].tolist(), batch.lengths, texts, strict=True):
            assert row[:length] == tokenizer(*pair, truncation=True, max_length=32)["input_ids"]

    def test_a_bare_loop_gives_the_same_loss_and_scores(self, task: Regression, tiny_bert: Path) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
        torch.manual_seed(0)
        model = AutoModelForSequenceClassification.from_pretrained(
            tiny_bert, num_labels=1, problem_type="regression"
        ).eval()
        center, spread = task.scale
        truth, found, loss = list(task.data.answers("test")), [], 0.0
        with torch.no_grad():
            for premise, hypothesis, number in zip(*task.data.columns("test"), truth, strict=True):
                out = model(
                    **tokenizer(premise, hypothesis, return_tensors="pt"),
                    labels=torch.tensor([(number - center) / spread]),
                )
                found.append(out.logits.item() * spread + center)
                loss += out.loss.item() / len(truth)
        (batch,) = task.batches("test", tokenizer, batch_size=99, max_length=64)
        with torch.no_grad():
            assert task.criterion(model(**batch.inputs), batch).item() == pytest.approx(loss, rel=1e-4)
        for size in (1, 7):
            quality = task.evaluate(model, tokenizer, batch_size=size, max_length=64)
            assert quality.metrics["pearson"] == pytest.approx(np.corrcoef(truth, found)[0, 1], rel=1e-4)
            assert quality.metrics["mean_absolute_error"] == pytest.approx(
                np.abs(np.array(truth) - found).mean(), rel=1e-4
            )
            assert sum(quality.correct) / len(truth) == pytest.approx(quality.metrics["pearson"])

    def test_chance_is_the_mean_of_training(self, task: Regression) -> None:
        chance = task.chance(None, 16)
        test, center = np.array(list(task.data.answers("test"))), np.mean(list(task.data.answers("train")))
        assert chance.metrics["mean_absolute_error"] == pytest.approx(np.abs(test - center).mean())
        assert chance.metrics["pearson"] == 0

    @pytest.mark.parametrize(
        ("row", "says"),
        [
            ('{"text": "a", "label": "high"}', "line 1: `label` is a number, found 'high'"),
            ('{"text": "a", "label": true}', "line 1: `label` is a number, found True"),
            ('{"text": "a", "label": NaN}', "line 1: `label` is a number, found nan"),
            ('{"text": "a", "label": null}', "line 1: `label` is a number, found None"),
            ('{"text": "", "label": 1}', "line 1: `text` is empty"),
        ],
    )
    def test_faults_are_named(self, row: str, says: str, tmp_path: Path) -> None:
        (tmp_path / "a.jsonl").write_text(row)
        (problem,) = Regression(RegressionTable(kind="regression", data="a.jsonl"), tmp_path).problems()
        assert says in problem

    def test_numbers_that_are_all_the_same_are_said(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"text {n},2.5\n" for n in range(60)))
        (problem,) = Regression(RegressionTable(kind="regression", data="a.csv"), tmp_path).problems()
        assert "all training items have the number 2.5" in problem


@pytest.mark.parametrize("recipe", ["full", "lora", "full >> torch_int8_dynamic", "head"])
def test_recipes_run(recipe: str, task: Regression, tiny_bert: Path) -> None:
    status, reason, records = jobs.run(recipe, tiny_bert, task.own._files["data"].parent, task=task.given)
    assert (status, reason) == ("ok", "")
    assert set(Regression.metrics) <= records[-1]["quality"]["metrics"].keys()


def test_scores_of_a_model_that_fell_apart(task: Regression, tiny_bert: Path) -> None:
    import torch
    from transformers import AutoTokenizer

    class Broken(torch.nn.Linear):
        def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
            return SimpleNamespace(logits=torch.full((len(input_ids), 1), torch.nan))

    quality = task.evaluate(Broken(1, 1), AutoTokenizer.from_pretrained(tiny_bert), batch_size=8, max_length=16)
    assert math.isnan(quality.metrics["pearson"])
    assert quality.correct == ()
