"""Many short texts in two flat arrays."""

import os
from collections.abc import Iterable
from typing import final

import numpy as np


@final
class FlatTexts:
    """Texts by position, without a Python object each: worker processes would slowly copy those as their reference
    counts change. Any file name fits, also one that is no text."""

    def __init__(self, texts: Iterable[str]):
        encoded = [os.fsencode(text) for text in texts]
        self._bytes = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        self._ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, position: int) -> str:
        start = self._ends[position - 1] if position else 0
        return os.fsdecode(self._bytes[start : self._ends[position]].tobytes())
