"""What weights were when their column's turn came, read off the result of making up for errors. For evidence; imports torch.

Where columns are changed one after the other and the error of each is taken up by those to its right, all of it is one
equation: ``before − after = errors · U``, with ``Uᵀ U`` the inverse of the inputs' products. So the errors are known
from the weights before and after, and from them what each column was when it was its turn, with no loop.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Course:
    """How a weight ``[rows, columns]`` came to what it is. All in double precision.

    ``turn`` is each column at its own turn, the errors of all before it made up for.
    """

    weight: torch.Tensor
    errors: torch.Tensor
    factor: torch.Tensor
    turn: torch.Tensor

    def before(self, together: int) -> torch.Tensor:
        """Each column when it was the turn of the first of its group of `together` columns."""
        group = torch.arange(len(self.factor)) // together
        return self.weight - self.errors @ self.factor.where(group[:, None] < group, 0.0)


def course(was: torch.Tensor, now: torch.Tensor, products: torch.Tensor, damping: float) -> Course:
    """Of a weight that was `was` and is `now`; `damping` is what the diagonal of `products` is raised by, of its mean."""
    was, now, products = was.double().cpu(), now.double().cpu(), products.double().cpu()
    products = products + damping * products.diagonal().mean() * torch.eye(len(products), dtype=products.dtype)
    # Turned round, the lower factor of the products is the inverse of the upper factor of their inverse.
    root = torch.linalg.cholesky(products.flip(0, 1)).flip(0, 1)
    errors = (was - now) @ root
    factor = torch.linalg.solve_triangular(root, torch.eye(len(root), dtype=root.dtype), upper=True)
    return Course(was, errors, factor, now + errors / root.diagonal())
