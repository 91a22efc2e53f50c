"""Regression: a number for each text, or for each pair of texts."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from pydantic import Field

from bench.tasks.base import Answers, Batch, Chance, Quality, Split
from bench.tasks.item_task import ItemTask
from bench.tasks.items import Item
from bench.tasks.rows import Row
from bench.tasks.scores import Score, jackknifed, mean, quality
from bench.tasks.table import Name, PairTable

if TYPE_CHECKING:
    import numpy as np
    import torch

    from bench.tasks.tokens import EncodedTexts

    Array = np.ndarray[Any, np.dtype[np.float64]]


class RegressionTable(PairTable):
    """One's own texts, or pairs of texts, with a number each."""

    label: Name = Field("label", description="the column that holds the number")


class Regression(ItemTask["EncodedTexts"]):
    """A number for each text. The model learns the numbers less their mean over training, in their standard deviations.

    Errors are in the data's own unit.
    """

    kind = "regression"
    metrics = ("pearson", "spearman", "mean_absolute_error", "root_mean_squared_error")
    primary = "pearson"
    learns = "from texts, or pairs of texts, with a number each"
    table = RegressionTable
    auto_class = "AutoModelForSequenceClassification"
    peft_task_type = "SEQ_CLS"

    @classmethod
    def columns(cls, table: RegressionTable) -> tuple[str, ...]:
        """The texts and the number."""
        return (*table.texts, table.label)

    def item(self, row: Row) -> Item:
        """The texts of a row, and its number."""
        *texts, label = row.rows.columns
        return Item(tuple(row.text(column).strip() for column in texts), row.number_in(label))

    def problems(self) -> list[str]:
        """Say why the data cannot be used; also where all numbers are the same."""
        if found := super().problems():
            return found
        if len(self.data.distinct("train")) == 1:
            (only,) = self.data.distinct("train")
            return [f"{self.name}: all training items have the number {only}, so there is nothing to learn"]
        return []

    # -- in a stage's own process ----------------------------------------------------------------------------

    def head_options(self) -> dict[str, Any]:
        """One number."""
        return {"num_labels": 1, "problem_type": "regression"}

    @functools.cached_property
    def scale(self) -> tuple[float, float]:
        """The mean and the standard deviation of the training numbers."""
        import statistics

        numbers = list(self.data.answers("train"))
        return statistics.fmean(numbers), statistics.pstdev(numbers)

    def encode(self, split: Split, tokenizer: Any, max_length: int) -> EncodedTexts:
        """Texts with their numbers, scaled."""
        import torch

        from bench.tasks.tokens import EncodedTexts

        center, spread = self.scale
        targets = (torch.tensor(list(self.data.answers(split)), dtype=torch.float64) - center) / spread
        return EncodedTexts(tokenizer, self.data.columns(split), targets.float(), max_length, self.made_of(split))

    def criterion(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """The squared error of the scaled numbers in float32, the mean over items."""
        import torch

        return torch.nn.functional.mse_loss(self.logits(outputs, batch)[:, 0].float(), batch.labels)

    def logits(self, outputs: Any, batch: Batch) -> torch.Tensor:
        """``[items, 1]``, scaled."""
        logits: torch.Tensor = outputs.logits
        return logits

    def evaluate(
        self,
        model: torch.nn.Module,
        tokenizer: Any,
        *,
        batch_size: int,
        max_length: int,
        split: Split = "test",
        uncompressed: torch.nn.Module | Answers | None = None,
        answers: Answers | None = None,
    ) -> Quality:
        """Correlations and errors; ``correct`` has each item's part in the primary one.

        Raises:
            TaskError: the split has no texts.
        """
        import numpy as np

        from bench.tasks.answered import answered

        encoded = self.encoded(split, tokenizer, max_length)
        predictions = np.zeros(len(encoded))
        center, spread = self.scale
        for batch, logits, _ in answered(self.logits, encoded, model, batch_size):
            predictions[list(batch.items)] = logits[:, 0].double().cpu().numpy() * spread + center
        return quality(scores(list(self.data.answers(split)), predictions.tolist()), self.primary)

    def chance(self, tokenizer: Any, max_length: int) -> Chance:
        """The mean of the training numbers: of correlations it has none, which counts as 0."""
        truth = list(self.data.answers("test"))
        found = scores(truth, [self.scale[0]] * len(truth))
        return Chance("the mean of the training items' numbers", {name: score.value for name, score in found.items()})


def scores(truth: list[float], predictions: list[float]) -> dict[str, Score]:
    """Pearson's and Spearman's correlation, and the mean absolute and root mean squared error.

    A correlation with what does not vary counts as 0. Where a prediction is no number, no score is one.
    """
    import numpy as np
    from scipy import stats

    given, found = np.array(truth, dtype=np.float64), np.array(predictions, dtype=np.float64)
    if not np.isfinite(found).all():
        return dict.fromkeys(Regression.metrics, Score(float("nan")))
    errors = np.abs(found - given)
    squares = jackknifed(
        (errors**2)[:, None].repeat(2, 1) * [1, 0] + [0, 1], lambda sums: np.sqrt(sums[:, 0] / sums[:, 1])
    )
    return {
        "pearson": jackknifed(_moments(given, found), _correlation),
        # The items' parts are those at the ranks among all: an item that is left out hardly changes the others' ranks.
        "spearman": jackknifed(_moments(stats.rankdata(given), stats.rankdata(found)), _correlation),
        "mean_absolute_error": mean(errors.tolist()),
        "root_mean_squared_error": squares,
    }


def _moments(x: Array, y: Array) -> Array:
    import numpy as np

    # Scaled, so that neither large numbers that vary little nor small ones lose their digits.
    x, y = ((each - each.mean()) / (each.std() or 1.0) for each in (x, y))
    return np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1)


def _correlation(sums: Array) -> Array:
    import numpy as np

    count, x, y, xx, yy, xy = sums.T
    spread = (xx - x * x / count) * (yy - y * y / count)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(spread > 1e-12, (xy - x * y / count) / np.sqrt(np.maximum(spread, 0)), 0.0)
