"""The optimal brain surgeon's solver, as SparseGPT made it fast (https://arxiv.org/abs/2301.00774, algorithm 1)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Choose = Callable[["torch.Tensor"], "torch.Tensor"]
"""Takes the scores of some columns ``[rows, columns]`` and says True where a weight is to go."""


def solve(
    weight: torch.Tensor, gram: torch.Tensor, choose: Choose, *, at_once: int, damp: float, lazy: int = 128
) -> torch.Tensor:
    """`weight` with what `choose` says at zero, and the rest moved to make up for it.

    Columns are zeroed from left to right; each one's error is taken up by the columns to its right, by the inverse of
    ``gram``, the products of all pairs of inputs. `choose` sees `at_once` columns before the first of them is zeroed.
    Updates of the columns beyond the next `lazy` are put off and made together, which changes nothing but the time.
    """
    import torch

    weight = weight.clone()
    columns = weight.shape[1]
    hessian = gram + damp * gram.diagonal().mean() * torch.eye(columns, device=gram.device)
    # Row i of the upper factor, from its diagonal on, is the inverse for the columns from i on, scaled.
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)), upper=True)
    zero = torch.zeros_like(weight, dtype=torch.bool)
    for start in range(0, columns, lazy):
        stop = min(start + lazy, columns)
        errors = torch.zeros_like(weight[:, start:stop])
        for column in range(start, stop):
            if column % at_once == 0:
                seen = slice(column, min(column + at_once, stop))
                zero[:, seen] = choose((weight[:, seen] / inverse.diagonal()[seen]).square())
            error = weight[:, column] * zero[:, column] / inverse[column, column]
            weight[:, column:stop] -= error[:, None] * inverse[column, column:stop]
            errors[:, column - start] = error
        weight[:, stop:] -= errors @ inverse[start:stop, stop:]
    return weight.masked_fill_(zero, 0.0)
