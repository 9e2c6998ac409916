"""Search for the widest network of a family whose measured cost stays within limits.

The search first assumes that the cost is affine in the multiply-accumulates, a + b MACs, over all widths and image
sizes. Measurements near the limit then narrow the width down between the widest network within the limit and the
narrowest above it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations

import numpy as np
import torch

from rexnet.models.cost import Cost, measure_cost
from rexnet.models.factory import create_model
from rexnet.models.variants import MAX_WIDTH

SMALLEST, WIDEST = 10, int(100 * MAX_WIDTH)
"""Smallest and largest width in hundredths, as in the name rexnet_117."""
FIRST_WIDTHS = (50, 100, 200)
_AIM = 0.97
"""Fraction of the limit to aim at; the rest allows for measurement noise."""
_GOOD = 0.95
"""Fraction of the limit at which the search ends."""
_MOST_MEASUREMENTS = 14
_NOISE = 0.1
"""Allowed relative difference between two measurements of nearly the same cost."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of a network's cost."""

    latency_ms: float
    memory_mib: float | None = None


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Measured cost of a network."""

    latency_ms: float
    peak_mib: float | None = None

    def fraction_of(self, limits: Limits) -> float:
        """Return the cost as a fraction of the limit, the largest over all limits; 1 is exactly at the limit."""
        memory = 0.0
        if limits.memory_mib is not None:
            assert self.peak_mib is not None
            memory = self.peak_mib / limits.memory_mib
        return max(self.latency_ms / limits.latency_ms, memory)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """Measured network."""

    model: str
    hundredths: int
    """Width in hundredths."""
    image_size_px: int
    parameters: int
    macs: int
    predicted_ms: float | None
    """Latency predicted from the networks measured before; None with fewer than two."""
    measured: Measured
    """Latest measurement."""
    fits: bool


Measure = Callable[[str, int], Measured]
"""Function from a network's name and image side to the measured cost on this machine."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """Search in a family on this machine; every measured network is added to `candidates`."""

    family: str
    limits: Limits
    measure: Measure
    stem_stride: int
    num_classes: int
    candidates: list[Candidate]

    def widest(self, image_size_px: int) -> Candidate | None:
        """Return the widest network that fits at this image size; None if even the smallest is too slow.

        Networks whose times contradict each other are measured again before the search continues.
        """
        best = self._widest(image_size_px)
        pairs = self.contradictions(image_size_px)
        if not pairs:
            return best
        for candidate in {each.model: each for pair in pairs for each in pair}.values():
            self._measure_again(candidate)
        return self._widest(image_size_px)

    def contradictions(self, image_size_px: int) -> list[tuple[Candidate, Candidate]]:
        """Return pairs of a network and a wider one that was measured as clearly faster, a sign of load by other
        programs."""
        known = sorted(self._at(image_size_px), key=lambda each: each.hundredths)
        return [
            (narrow, wide)
            for narrow, wide in combinations(known, 2)
            if wide.measured.latency_ms < (1 - _NOISE) * narrow.measured.latency_ms
        ]

    def _widest(self, image_size_px: int) -> Candidate | None:
        if not self.candidates:
            for hundredths in FIRST_WIDTHS:
                self._add(hundredths, image_size_px)
        confirmed: set[str] = set()
        for _ in range(_MOST_MEASUREMENTS):
            best = self._best(image_size_px)
            good = best is not None and best.measured.fraction_of(self.limits) >= _GOOD
            hundredths = None if good else self._next(image_size_px)
            if hundredths is not None:
                self._add(hundredths, image_size_px)
            elif best is None or best.model in confirmed:
                return best
            else:
                confirmed.add(best.model)
                self._measure_again(best)
        return self._best(image_size_px)

    def _at(self, image_size_px: int) -> list[Candidate]:
        return [each for each in self.candidates if each.image_size_px == image_size_px]

    def _too_wide(self, image_size_px: int) -> int:
        """Return the narrowest width that does not fit, in hundredths."""
        return min((each.hundredths for each in self._at(image_size_px) if not each.fits), default=WIDEST + 1)

    def _best(self, image_size_px: int) -> Candidate | None:
        """Return the widest network that fits and is not contradicted by a narrower one."""
        bound = self._too_wide(image_size_px)
        fitting = [each for each in self._at(image_size_px) if each.fits and each.hundredths < bound]
        return max(fitting, key=lambda each: each.hundredths, default=None)

    def _next(self, image_size_px: int) -> int | None:
        """Return the width to measure next, in hundredths; None if no width remains between the bounds."""
        best, bound = self._best(image_size_px), self._too_wide(image_size_px)
        least = SMALLEST if best is None else best.hundredths + 1
        if least > bound - 1:
            return None
        slope, base = self._line(best, bound, image_size_px)
        wanted = (_AIM - base) / slope
        return min(max(self._widest_with(wanted, image_size_px), least), bound - 1)

    def _line(self, best: Candidate | None, bound: int, image_size_px: int) -> tuple[float, float]:
        """Return slope and intercept of the used fraction over MACs: through both neighbours, or through the only
        neighbour with the slope of all measurements."""
        near = [each for each in self._at(image_size_px) if each.hundredths == bound] + ([best] if best else [])
        if len(near) == 2:
            return _affine(*self._points(near))
        slope, base = _affine(*self._points(self.candidates))
        return slope, near[0].measured.fraction_of(self.limits) - slope * near[0].macs if near else base

    def _points(self, candidates: list[Candidate]) -> tuple[list[float], list[float]]:
        return [each.macs for each in candidates], [each.measured.fraction_of(self.limits) for each in candidates]

    def _widest_with(self, macs: float, image_size_px: int) -> int:
        low, high = SMALLEST, WIDEST
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self._cost(middle, image_size_px).macs <= macs else (low, middle - 1)
        return low

    def _cost(self, hundredths: int, image_size_px: int) -> Cost:
        return network_cost(self._name(hundredths), image_size_px, self.stem_stride, self.num_classes)

    def _name(self, hundredths: int) -> str:
        return f"{self.family}_{hundredths:03d}"

    def _add(self, hundredths: int, image_size_px: int) -> None:
        cost, name = self._cost(hundredths, image_size_px), self._name(hundredths)
        predicted_ms = None
        if len(self.candidates) >= 2:
            slope, base = _affine(
                [each.macs for each in self.candidates], [each.measured.latency_ms for each in self.candidates]
            )
            predicted_ms = base + slope * cost.macs
        measured = self.measure(name, image_size_px)
        self.candidates.append(
            Candidate(
                model=name,
                hundredths=hundredths,
                image_size_px=image_size_px,
                parameters=cost.parameters,
                macs=cost.macs,
                predicted_ms=predicted_ms,
                measured=measured,
                fits=measured.fraction_of(self.limits) <= 1,
            )
        )

    def _measure_again(self, candidate: Candidate) -> None:
        """Measure a network again and replace the first measurement, which was selected by its value."""
        again = self.measure(candidate.model, candidate.image_size_px)
        fits = again.fraction_of(self.limits) <= 1
        self.candidates[self.candidates.index(candidate)] = replace(candidate, measured=again, fits=fits)


def _affine(macs: list[float], costs: list[float]) -> tuple[float, float]:
    """Return slope and intercept of the line with the least relative errors; the line passes through zero if it would
    not rise."""
    slope, base = np.polyfit(macs, costs, 1, w=1 / np.array(costs)) if len(macs) > 1 else (0.0, 0.0)
    return (float(slope), float(base)) if slope > 0 else (float(np.mean(np.divide(costs, macs))), 0.0)


@lru_cache(maxsize=4096)
def network_cost(name: str, image_size_px: int, stem_stride: int, num_classes: int) -> Cost:
    with torch.device("meta"):
        model = create_model(name, stem_stride=stem_stride, num_classes=num_classes)
    return measure_cost(model, image_size_px)
