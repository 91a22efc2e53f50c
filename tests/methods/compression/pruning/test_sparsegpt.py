"""SparseGPT against the optimal brain surgeon done slowly, and against pruning that moves nothing."""

import pytest
import torch

from bench.models.architecture import block_linears
from methods import _masks, _statistics
from methods._calibration import Calibration
from methods.compression.pruning._shared import obs
from tests.transforms import applied, work


def slow(weight, gram, choose, at_once, damp):
    """Row by row and column by column, with a new inverse for the columns that are left, in double precision."""
    weight = weight.double().clone()
    rows, columns = weight.shape
    hessian = gram.double() + damp * gram.double().diagonal().mean() * torch.eye(columns)
    inverses = [torch.linalg.inv(hessian[column:, column:]) for column in range(columns)]
    zero = torch.zeros(rows, columns, dtype=torch.bool)
    for column in range(columns):
        if column % at_once == 0:
            # A weight's loss if it goes when its turn comes: w² / [H⁻¹]₀₀ of the columns then left.
            losses = [weight[:, c] ** 2 / inverses[c][0, 0] for c in range(column, min(column + at_once, columns))]
            zero[:, column : column + at_once] = choose(torch.stack(losses, dim=1))
        for row in range(rows):
            if zero[row, column]:
                weight[row, column:] -= weight[row, column] / inverses[column][0, 0] * inverses[column][0]
                weight[row, column] = 0
    return weight


def lowest_of_all(scores):
    mask = torch.zeros_like(scores, dtype=torch.bool).flatten()
    mask[scores.flatten().sort().indices[: mask.numel() // 2]] = True
    return mask.view_as(scores)


def lowest_two(scores):
    return torch.zeros_like(scores, dtype=torch.bool).scatter_(1, scores.sort(1).indices[:, :2], True)


@pytest.mark.parametrize(("choose", "at_once"), [(lowest_of_all, 16), (lowest_of_all, 8), (lowest_two, 4)])
@pytest.mark.parametrize("lazy", [4, 16, 128])
def test_it_is_the_optimal_brain_surgeon(choose, at_once, lazy):
    if lazy < at_once:
        pytest.skip("columns are chosen within what is updated at once")
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(6, 16, generator=generator)
    inputs = torch.randn(50, 16, generator=generator) @ torch.randn(16, 16, generator=generator)
    gram = inputs.T @ inputs
    found = obs.solve(weight, gram, choose, at_once=at_once, damp=0.01, lazy=lazy)
    reference = slow(weight, gram, choose, at_once, 0.01)
    assert torch.equal(found == 0, reference == 0)
    assert torch.allclose(found.double(), reference, rtol=1e-3, atol=1e-4)


def test_its_error_is_between_zeros_alone_and_least_squares():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(8, 32, generator=generator, dtype=torch.double)
    inputs = torch.randn(200, 32, generator=generator, dtype=torch.double) @ torch.randn(
        32, 32, generator=generator, dtype=torch.double
    )
    found = obs.solve(weight, inputs.T @ inputs, lowest_of_all, at_once=128, damp=1e-6)
    best = torch.zeros_like(weight)
    for row, kept in enumerate(found != 0):
        best[row, kept] = torch.linalg.lstsq(inputs[:, kept], inputs @ weight[row]).solution
    moved, zeroed, optimum = (
        float((inputs @ (other - weight).T).norm()) for other in (found, weight * (found != 0), best)
    )
    assert optimum * 0.999 <= moved < 0.9 * zeroed


def output_error(difference, gram):
    return float(((difference @ gram) * difference).sum())


@pytest.mark.parametrize("fixture", ["tiny_bert", "tiny_llama"])
def test_its_outputs_are_nearer_than_those_of_magnitude_and_wanda(fixture, request, tmp_path):
    """On the first block, whose inputs are the same for all three."""
    model = request.getfixturevalue(fixture)
    errors = {}
    plain = work("full", model, tmp_path)
    block = _masks.by_block(plain.model)[0]
    grams = _statistics.collect(plain, block, Calibration(64), _masks.products)
    for text in ('magnitude(0.5, "layer")', "wanda(0.5, samples=64)", "sparsegpt(0.5, samples=64)"):
        _, done = applied(text, model, tmp_path)
        found = block_linears(done.model)
        with torch.no_grad():
            errors[text.partition("(")[0]] = sum(
                output_error(layer.weight - found[name].weight, grams[name]) / output_error(layer.weight, grams[name])
                for name, layer in block.items()
            )
    assert errors["sparsegpt"] < 0.9 * errors["wanda"] < 0.9 * errors["magnitude"] * 1.05


def test_the_share_is_exact_in_every_layer(tiny_llama, tmp_path):
    _, done = applied("sparsegpt(0.3, samples=16)", tiny_llama, tmp_path)
    for layer in block_linears(done.model).values():
        assert abs(float((layer.weight == 0).float().mean()) - 0.3) <= 1e-3
