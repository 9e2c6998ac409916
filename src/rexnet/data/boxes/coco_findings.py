"""What can be wrong in a COCO annotation file, and what is done with it."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from rexnet.text import printable

FINDINGS = {
    "malformed image": "left out",
    "duplicate image id": "left out",
    "duplicate file": "left out, its boxes added to the first entry",
    "missing file": "left out",
    "malformed annotation": "left out",
    "unknown image": "left out",
    "unknown category": "left out",
    "malformed box": "left out",
    "not finite": "left out",
    "zero area": "left out",
    "outside": "left out",
    "duplicate": "left out",
    "clipped": "clipped to the picture",
    "degenerate polygon": "the polygon left out",
    "malformed mask": "the mask left out",
    "no mask": "kept as a box",
}
"""Everything that is looked for, and what is done with it."""


class Finding(NamedTuple):
    """`kind` is one of FINDINGS; `annotation` is its id or else its place in the file, None where an image is meant."""

    kind: str
    image: str
    annotation: str | None
    text: str

    def __str__(self) -> str:
        annotation = f", annotation {self.annotation}" if self.annotation is not None else ""
        return f"{printable(self.image) or '(no image)'}{annotation}: {self.text}"


def count_findings(findings: Sequence[Finding]) -> dict[str, int]:
    """Kind -> how often, in the order of FINDINGS, kinds that were not found left out."""
    counts = Counter(finding.kind for finding in findings)
    return {kind: counts[kind] for kind in FINDINGS if counts[kind]}


def summary_of(findings: Sequence[Finding]) -> str:
    return ", ".join(f"{count:,} {kind}" for kind, count in count_findings(findings).items())
