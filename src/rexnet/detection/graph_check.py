"""Whether a detector's graph finds what PyTorch finds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SCORE = 1e-3
BOX_PX = 0.1
MASK = 0.005
"""Largest differences of what counts as the same detection; masks by their sum, as a share of the box's area."""
UNMATCHED = 0.02
UNMATCHED_IN_ONE = 0.1
"""Shares of all detections and of those in one picture that the other need not have: rounding decides which of two
boxes stays that overlap by just the threshold or have the same score."""

Found = Sequence[np.ndarray]
"""boxes (N, 4), labels (N,), scores (N,) and of Mask R-CNN masks (N, 1, H, W)."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Of detections in pictures."""

    pictures: int
    detections: int
    """PyTorch's."""
    score: float
    """Largest difference."""
    box_px: float
    """Largest difference of a coordinate, in pixels."""


def compare(pairs: Sequence[tuple[Found, Found]]) -> Agreement:
    """PyTorch's and a graph's detections in each picture. ValueError, one sentence, where they are not the same."""
    worst = np.zeros(2)
    most_in_all = missing_in_all = 0
    for number, (ours, theirs) in enumerate(pairs):
        if [part.shape[1:] for part in ours] != [part.shape[1:] for part in theirs] or len(set(map(len, theirs))) > 1:
            shapes = [part.shape for part in theirs], [part.shape for part in ours]
            raise ValueError(f"the graph puts out {shapes[0]}, and PyTorch {shapes[1]}; nothing was written")
        matched = _match(ours, theirs)
        most = max(len(ours[0]), len(theirs[0]))
        if most - len(matched) > UNMATCHED_IN_ONE * most:
            raise ValueError(
                f"in picture {number} PyTorch finds {len(ours[0])} objects and the graph {len(theirs[0])}, of which "
                f"only {len(matched)} are the same; nothing was written"
            )
        most_in_all, missing_in_all = most_in_all + most, missing_in_all + most - len(matched)
        for mine, other in matched:
            differences = [np.abs(ours[part][mine] - theirs[part][other]).max() for part in (2, 0)]
            worst = np.maximum(worst, differences)
    if missing_in_all > UNMATCHED * most_in_all:
        raise ValueError(
            f"of {most_in_all} objects in {len(pairs)} pictures the graph and PyTorch find only "
            f"{most_in_all - missing_in_all} alike; nothing was written"
        )
    detections = sum(len(ours[0]) for ours, _ in pairs)
    return Agreement(pictures=len(pairs), detections=detections, score=float(worst[0]), box_px=float(worst[1]))


def _match(ours: Found, theirs: Found) -> list[tuple[int, int]]:
    """Pairs of equal detections, each in one pair at most; order does not matter, since scores may tie."""
    alike = ours[1][:, None] == theirs[1]
    alike &= np.abs(ours[2][:, None] - theirs[2]) <= SCORE
    alike &= np.abs(ours[0][:, None] - theirs[0]).max(axis=2, initial=0) <= BOX_PX
    areas = (ours[0][:, 2:] - ours[0][:, :2]).prod(axis=1).clip(min=1)
    pairs, free = [], np.ones(len(theirs[0]), bool)
    for mine in range(len(ours[0])):
        for other in np.flatnonzero(alike[mine] & free):
            if len(ours) < 4 or np.abs(ours[3][mine] - theirs[3][other]).sum() <= MASK * areas[mine]:
                pairs.append((mine, int(other)))
                free[other] = False
                break
    return pairs
