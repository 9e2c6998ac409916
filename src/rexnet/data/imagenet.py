"""Names and WordNet ids of ImageNet's classes."""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any


def imagenet_classes(count: int) -> tuple[str, ...]:
    """Return timm's class names of the ImageNet with `count` classes; numbers if there is none."""
    labels, lemmas = _labels_and_lemmas(count)
    if not labels:
        return tuple(map(str, range(count)))
    first, whole = Counter(text.partition(",")[0] for text in lemmas), Counter(lemmas)

    def name(lemma: str, label: str) -> str:
        short = lemma.partition(",")[0]
        if first[short] == 1:
            return short
        # ImageNet has two cranes: the bird and the machine
        return lemma if whole[lemma] == 1 and lemma != short else f"{lemma} ({label})"

    return tuple(map(name, lemmas, labels))


def name_wordnet_ids(ids: Sequence[str], classes: Sequence[str]) -> tuple[str, ...]:
    """Translate `ids`, the class names of a dataset, to the names in a model's `classes`; unchanged unless all are
    WordNet ids (n01440764) and `classes` are ImageNet's names."""
    if not ids or not all(re.fullmatch(r"n\d{8}", name) for name in ids):
        return tuple(ids)
    if imagenet_classes(len(classes)) != tuple(classes):
        return tuple(ids)
    name_of = dict(zip(_labels_and_lemmas(len(classes))[0], classes, strict=False))
    return tuple(name_of.get(name, name) for name in ids)


def _labels_and_lemmas(count: int) -> tuple[list[str], list[str]]:
    """Return the WordNet ids and lemmas of the ImageNet with `count` classes; empty if there is none."""
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": count})
    if subset is None:
        return [], []
    info: Any = ImageNetInfo(subset)
    return info.label_names(), [info.index_to_description(index) for index in range(count)]
