"""Ranks of matrices: numerical, effective, stable rank and nuclear norm.

The numerical rank is the number of singular values above `tolerance` times the largest, in float64 for a matrix of any
dtype, as `torch.linalg.matrix_rank(matrix.double(), rtol=tolerance)` counts them. A tolerance of None means max(rows,
columns) times float32's epsilon, torch's choice for float32 matrices.
"""

from collections.abc import Callable

import torch
from torch import Tensor

MARGIN = 1e-3
"""Relative distance to the threshold within which singular values are counted by the slower exact method."""
_SMALLEST_FAST_TOLERANCE = 5e-6
_POWER_STEPS = (1, 6)


def choose_tolerance(rows: int, columns: int, tolerance: float | None) -> float:
    """Return `tolerance`; for None, torch's choice for a float32 matrix of this shape."""
    if tolerance is None:
        return max(rows, columns) * torch.finfo(torch.float32).eps
    if not 0.0 < tolerance < 1.0:
        raise ValueError(f"tolerance is {tolerance}; allowed: above 0 and below 1, or None")
    return tolerance


def check_matrices(matrices: Tensor) -> Tensor:
    """Convert (..., m, n) of any real dtype to float64. Raise ValueError for fewer than two axes or values that are not
    finite."""
    if matrices.ndim < 2:
        raise ValueError(f"the shape is {tuple(matrices.shape)}; allowed: two axes or more, (..., rows, columns)")
    if matrices.is_complex():
        raise ValueError(f"the dtype is {matrices.dtype}; allowed: real numbers")
    wide = matrices.double()
    if not torch.isfinite(wide.sum()) and not torch.isfinite(wide).all():
        raise ValueError("a matrix has values that are not finite (nan or inf), so its rank is undefined")
    return wide


def singular_values(matrices: Tensor) -> Tensor:
    """Return the singular values of (..., m, n): (..., min(m, n)) in float64, largest first.

    LAPACK's divide and conquer may fail to converge; then each matrix is tried alone, scaled, transposed, and with
    another driver; the last resort is the eigenvalues of its Gram matrix, exact to about 1e-8 of the largest.
    """
    matrices = check_matrices(matrices)
    try:
        return torch.linalg.svdvals(matrices)
    except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]
        flat = matrices.flatten(0, -3) if matrices.ndim > 2 else matrices[None]
        values = torch.stack([_stubborn_singular_values(matrix) for matrix in flat])
        return values.reshape(*matrices.shape[:-2], -1)


def _stubborn_singular_values(matrix: Tensor) -> Tensor:
    scale = matrix.abs().amax()
    scale = torch.where(scale > 0, scale, 1.0)
    scaled = matrix / scale
    attempts: list[Callable[[], Tensor]] = [
        lambda: torch.linalg.svdvals(scaled),
        lambda: torch.linalg.svdvals(scaled.mT.contiguous()),
        # The triangular factor has the same singular values but changes the iteration.
        lambda: torch.linalg.svdvals(torch.linalg.qr(scaled if len(scaled) > scaled.shape[1] else scaled.mT, "r")[1]),
    ]
    if matrix.is_cuda:
        attempts.append(lambda: torch.linalg.svdvals(scaled, driver="gesvd"))
    for attempt in attempts:
        try:
            return attempt() * scale
        except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]
            continue
    return torch.linalg.eigvalsh(_gram(scaled)).flip(-1).clamp_min(0.0).sqrt() * scale


def numerical_rank(matrices: Tensor, *, tolerance: float | None = None) -> Tensor:
    """Count the singular values of (..., m, n) above `tolerance` times the largest."""
    values = singular_values(matrices)
    limit = choose_tolerance(matrices.shape[-2], matrices.shape[-1], tolerance) * values[..., :1]
    return (values > limit).sum(-1)


def effective_rank(values: Tensor) -> Tensor:
    """Return the exponential of the entropy of the singular values (..., k) divided by their sum (Roy and Vetterli
    2007); 0 if all are zero."""
    total = values.sum(-1, keepdim=True)
    shares = values / torch.where(total > 0, total, 1.0)
    return torch.where(total[..., 0] > 0, torch.special.entr(shares).sum(-1).exp(), 0.0)


def stable_rank(values: Tensor) -> Tensor:
    """Return the sum of the squared singular values (..., k) divided by the largest square: never above the rank; 0 if
    all are zero."""
    largest = values.amax(-1, keepdim=True)
    return (values / torch.where(largest > 0, largest, 1.0)).square().sum(-1)


def nuclear_norm(values: Tensor) -> Tensor:
    """Return the sum of the singular values (..., k)."""
    return values.sum(-1)


def count_rank(matrices: Tensor, *, tolerance: float | None = None) -> Tensor:
    """Return `numerical_rank` of many matrices (B, m, n) several times faster, with the same result.

    By Sylvester's law of inertia the number of singular values above t is the number of positive pivots of G - t^2 I,
    where G is the Gram matrix in float64: all of them if its Cholesky factor exists, else counted in LDL^T. Matrices
    too close to the threshold for float64 go to `numerical_rank`.
    """
    matrices = check_matrices(matrices)
    if matrices.ndim != 3:
        raise ValueError(f"the shape is {tuple(matrices.shape)}; allowed: three axes, (matrices, rows, columns)")
    relative = choose_tolerance(matrices.shape[1], matrices.shape[2], tolerance)
    if relative < _SMALLEST_FAST_TOLERANCE or 0 in matrices.shape:
        return numerical_rank(matrices, tolerance=relative)
    gram = _gram(matrices)
    lowest, highest = _bound_largest(gram)
    surely_above = highest * (relative * (1 + MARGIN)) ** 2
    dead = (gram.diagonal(dim1=1, dim2=2) == 0.0).sum(1)
    shifted = _shifted(gram, surely_above)
    _, failures = torch.linalg.cholesky_ex(shifted)
    ranks = gram.shape[-1] - dead
    rest = (failures != 0).nonzero()[:, 0]
    if len(rest):
        surely_below = (lowest * (relative * (1 - MARGIN)) ** 2)[rest]
        ranks[rest] = _count_by_inertia(shifted[rest], _shifted(gram[rest], surely_below)) - dead[rest]
        unsure = rest[ranks[rest] < 0]
        if len(unsure):
            ranks[unsure] = numerical_rank(matrices[unsure], tolerance=relative)
    return ranks


def _gram(matrices: Tensor) -> Tensor:
    return matrices @ matrices.mT if matrices.shape[-2] <= matrices.shape[-1] else matrices.mT @ matrices


def _bound_largest(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Return a lower and an upper bound of the largest eigenvalue of each (B, d, d), at most a tenth of MARGIN apart.

    A vector after a few power steps splits the matrix into its Rayleigh quotient q, a coupling r and a remainder of
    norm at most f, the Frobenius norm of what is left: the largest eigenvalue is at most q + r^2 / (q - f) if f < q. If
    the bounds are too wide, more steps are taken, and finally the eigenvalues are computed.
    """
    frobenius = torch.linalg.vector_norm(gram, dim=(1, 2))
    lowest, highest = frobenius.clone(), frobenius.clone()
    open_cases = frobenius.nonzero()[:, 0]
    vector = gram[open_cases].sum(2, keepdim=True)
    for steps in _POWER_STEPS:
        part = gram if len(open_cases) == len(gram) else gram[open_cases]
        for _ in range(steps):
            vector = part @ (vector / vector.norm(dim=1, keepdim=True).clamp_min(1e-300))
        unit = vector / vector.norm(dim=1, keepdim=True).clamp_min(1e-300)
        image = part @ unit
        quotient = (unit * image).sum((1, 2))
        coupling = (image - quotient[:, None, None] * unit).square().sum((1, 2))
        rest = (frobenius[open_cases].square() - quotient.square() - 2 * coupling).clamp_min(0.0).sqrt()
        # A generous bound on the rounding of the norm and the quotient.
        gap = quotient - rest - 1e-7 * quotient
        narrow = (gap > 0) & (coupling <= 0.1 * MARGIN * quotient * gap)
        lowest[open_cases[narrow]] = quotient[narrow]
        highest[open_cases[narrow]] = (quotient + coupling / gap)[narrow]
        open_cases, vector = open_cases[~narrow], image[~narrow]
        if not len(open_cases):
            return lowest, highest
    lowest[open_cases] = highest[open_cases] = torch.linalg.eigvalsh(gram[open_cases])[:, -1]
    return lowest, highest


def _shifted(gram: Tensor, limit: Tensor) -> Tensor:
    """Return (B, d, d) minus `limit` (B,) on the diagonal; zero rows, of dead channels, get 1 there and count as
    positive."""
    shifted = gram.clone()
    diagonal = shifted.diagonal(dim1=1, dim2=2)
    dead = diagonal == 0.0
    diagonal.sub_(limit[:, None])
    diagonal[dead] = 1.0
    return shifted


def _count_by_inertia(shifted: Tensor, shifted_less: Tensor) -> Tensor:
    """Count the positive eigenvalues of `shifted`, including dead rows; -1 if `shifted_less` has a different number."""
    counted = _positive_pivots(shifted)
    return torch.where(_positive_pivots(shifted_less) == counted, counted, -1)


def _positive_pivots(symmetric: Tensor) -> Tensor:
    """Count the positive eigenvalues of each of (B, d, d) in the block-diagonal factor of LDL^T."""
    factor, pivots, _ = torch.linalg.ldl_factor_ex(symmetric)
    diagonal = factor.diagonal(dim1=1, dim2=2)
    below = factor.diagonal(offset=-1, dim1=1, dim2=2)
    # LAPACK marks both rows of a 2 x 2 block with a negative pivot; the entry that couples them is below the first.
    paired = pivots < 0
    ones = ((diagonal > 0) & ~paired).sum(1)
    order = paired.long().cumsum(1)
    first = (paired & (order % 2 == 1))[:, :-1]
    upper, lower = diagonal[:, :-1], diagonal[:, 1:]
    determinant, trace = upper * lower - below.square(), upper + lower
    in_block = torch.where(determinant < 0, 1, torch.where(trace > 0, 2, 0))
    return ones + torch.where(first, in_block, 0).sum(1)
