"""The paper's four searches and what came of them (Table 3), on CIFAR-100."""

from typing import Literal, NamedTuple

Constraint = Literal["a", "b", "c", "d"]


class Group(NamedTuple):
    """Mean top-1 in percent, its spread, and mean FLOPs in millions with theirs, of a tenth of the candidates."""

    top1: float
    top1_spread: float
    mflops: float
    mflops_spread: float


class Search(NamedTuple):
    """The paper rounds its limits; `max_parameters` and `max_macs` are the least round numbers that its best and worst
    networks keep. Of (d) Table 3 says about 300 M, but all its networks have about 350."""

    blocks: int
    max_parameters: float
    max_macs: float
    stated: str
    best: tuple[int, ...]
    worst: tuple[int, ...]
    best_top1: float
    worst_top1: float
    groups: dict[str, Group]
    """Of the top, middle and bottom 10 %."""


SEARCHES: dict[Constraint, Search] = {
    "a": Search(
        blocks=5,
        max_parameters=0.205e6,
        max_macs=30e6,
        stated="0.2 M parameters, 30 M FLOPs",
        best=(34, 34, 45, 55, 66),
        worst=(36, 36, 36, 36, 83),
        best_top1=63.4,
        worst_top1=61.1,
        groups={
            "top": Group(63.1, 0.1, 30, 1),
            "middle": Group(62.2, 0.0, 30, 1),
            "bottom": Group(61.4, 0.2, 30, 1),
        },
    ),
    "b": Search(
        blocks=9,
        max_parameters=0.515e6,
        max_macs=100e6,
        stated="0.5 M parameters, 100 M FLOPs",
        best=(24, 33, 42, 50, 59, 68, 77, 85, 94),
        worst=(39, 39, 39, 39, 39, 39, 39, 87, 158),
        best_top1=68.9,
        worst_top1=67.6,
        groups={
            "top": Group(68.8, 0.1, 101, 5),
            "middle": Group(68.0, 0.1, 100, 6),
            "bottom": Group(67.4, 0.3, 97, 8),
        },
    ),
    "c": Search(
        blocks=9,
        max_parameters=1.055e6,
        max_macs=200e6,
        stated="1.0 M parameters, 200 M FLOPs",
        best=(30, 45, 59, 74, 88, 103, 117, 132, 146),
        worst=(47, 47, 70, 70, 70, 70, 70, 70, 364),
        best_top1=71.1,
        worst_top1=69.6,
        groups={
            "top": Group(71.0, 0.1, 210, 15),
            "middle": Group(70.3, 0.0, 198, 18),
            "bottom": Group(69.9, 0.2, 200, 15),
        },
    ),
    "d": Search(
        blocks=13,
        max_parameters=3.1e6,
        max_macs=350e6,
        stated="3.0 M parameters, 300 M FLOPs",
        best=(34, 34, 34, 40, 64, 88, 112, 136, 160, 184, 208, 232, 256),
        worst=(52, 52, 52, 52, 52, 52, 52, 52, 52, 115, 263, 263, 412),
        best_top1=73.2,
        worst_top1=71.6,
        groups={
            "top": Group(73.0, 0.1, 351, 5),
            "middle": Group(72.1, 0.1, 351, 5),
            "bottom": Group(71.7, 0.1, 351, 6),
        },
    ),
}
