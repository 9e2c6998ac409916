import math

import pytest
import torch

from rexnet.ranks import matrix_rank as rank
from rexnet.study.networks import ACTIVATIONS, BLOCKS, generator_for, outputs
from rexnet.study.protocol import Protocol


def matrix_of_rank(rows, columns, true_rank, *, condition=1e3, seed=0):
    """Orthogonal factors around singular values spread evenly in the logarithm from 1 down to 1 / condition."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.linalg.qr(torch.randn(rows, true_rank, generator=generator, dtype=torch.float64))[0]
    right = torch.linalg.qr(torch.randn(columns, true_rank, generator=generator, dtype=torch.float64))[0]
    values = torch.logspace(0, -math.log10(condition), true_rank, dtype=torch.float64)
    return (left * values) @ right.mT


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(12, 30), (30, 12), (20, 20)])
@pytest.mark.parametrize("true_rank", [1, 5, 12])
def test_known_ranks_are_found(dtype, shape, true_rank):
    condition = 10.0 if dtype is torch.bfloat16 else 1e3
    matrices = torch.stack([matrix_of_rank(*shape, true_rank, condition=condition, seed=seed) for seed in range(4)])
    tolerance = 0.03 if dtype is torch.bfloat16 else 1e-4
    for scale in (1e-9, 1.0, 1e9):
        scaled = (matrices * scale).to(dtype)
        assert rank.numerical_rank(scaled, tolerance=tolerance).tolist() == [true_rank] * 4
        assert rank.count_rank(scaled, tolerance=tolerance).tolist() == [true_rank] * 4


def test_the_tolerance_decides_what_counts():
    matrices = torch.diag(torch.tensor([1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5]))[None]
    for tolerance, expected in ((0.5, 1), (2e-2, 2), (2e-3, 3), (2e-4, 4), (2e-5, 5), (None, 6)):
        assert rank.numerical_rank(matrices, tolerance=tolerance).tolist() == [expected]
        assert rank.count_rank(matrices, tolerance=tolerance).tolist() == [expected]


@pytest.mark.parametrize("name", BLOCKS)
def test_the_fast_count_is_matrix_rank_of_float64_for_random_networks(name):
    protocol = Protocol(smallest_size=10, largest_size=40)
    counted = 0
    for ratio in (0.1, 0.3, 1.0):
        for network in range(10):
            generator = generator_for(1, name, ratio=ratio, network=network)
            size = protocol.draw_size(BLOCKS[name], ratio=ratio, generator=generator)
            batch = [protocol.draw_tensors(BLOCKS[name], size, generator)]
            for activation in ACTIVATIONS:
                matrices = outputs(protocol, BLOCKS[name], batch=batch, activations=[activation])[0]
                for tolerance in (1e-2, 1e-4, 1e-6):
                    expected = torch.linalg.matrix_rank(matrices.double(), rtol=tolerance)
                    assert rank.count_rank(matrices, tolerance=tolerance).tolist() == expected.tolist()
                    counted += 1
    assert counted == 3 * 10 * 8 * 3


def test_singular_values_at_the_threshold_are_not_counted_the_fast_way():
    values = torch.tensor([[1.0, 0.5, 1e-3 * (1 + shift)] for shift in (-1e-9, 1e-9, -1e-5, 1e-5)], dtype=torch.float64)
    matrices = torch.diag_embed(values)
    assert rank.count_rank(matrices, tolerance=1e-3).tolist() == [2, 3, 2, 3]


def test_dead_channels_and_empty_networks_have_rank_zero():
    matrices = torch.randn(3, 6, 20)
    matrices[0, 2] = 0
    matrices[1] = 0
    assert rank.count_rank(matrices, tolerance=1e-4).tolist() == [5, 0, 6]
    assert rank.numerical_rank(matrices, tolerance=1e-4).tolist() == [5, 0, 6]


def test_matrices_without_a_dominating_direction():
    matrices = torch.linalg.qr(torch.randn(5, 16, 16, dtype=torch.float64))[0]
    matrices[:, :, 3] = 0
    assert rank.count_rank(matrices, tolerance=1e-4).tolist() == [15] * 5


def test_a_decomposition_that_does_not_converge_is_retried_with_other_methods(monkeypatch):
    real, calls = torch.linalg.svdvals, []

    def refuses(matrix, **options):
        calls.append(matrix.shape)
        if len(calls) < 4:
            raise torch.linalg.LinAlgError("did not converge")
        return real(matrix, **options)

    monkeypatch.setattr(torch.linalg, "svdvals", refuses)
    matrices = 1e3 * matrix_of_rank(8, 12, 5)[None]
    torch.testing.assert_close(rank.singular_values(matrices), real(matrices))

    def never(matrix, **options):
        raise torch.linalg.LinAlgError("did not converge")

    monkeypatch.setattr(torch.linalg, "svdvals", never)
    torch.testing.assert_close(rank.singular_values(matrices), real(matrices), atol=1e-4, rtol=0)
    assert rank.numerical_rank(matrices, tolerance=1e-4).tolist() == [5]


def test_effective_rank_stable_rank_and_nuclear_norm():
    values = torch.tensor([[2.0, 2.0, 2.0, 0.0], [3.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(rank.effective_rank(values), torch.tensor([3.0, 1.0, 0.0], dtype=torch.float64))
    assert rank.stable_rank(values).tolist() == [3.0, 1.0, 0.0]
    assert rank.nuclear_norm(values).tolist() == [6.0, 3.0, 0.0]


def test_matrices_without_a_rank_are_refused():
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match="not finite"):
            rank.count_rank(torch.full((1, 2, 2), value))
    with pytest.raises(ValueError, match=r"shape is \(3,\); allowed: two axes"):
        rank.numerical_rank(torch.ones(3))
    with pytest.raises(ValueError, match="tolerance is 2; allowed: above 0 and below 1"):
        rank.numerical_rank(torch.ones(2, 2), tolerance=2)
