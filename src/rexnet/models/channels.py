"""Channel rules: how many channels each block puts out."""

from itertools import accumulate, repeat


def round_to_multiple(channels: float, divisor: int) -> int:
    """Nearest multiple of `divisor` that is at least `divisor` and at most 10 % below `channels`.

    Source: MobileNet's rule as used by ReXNet-lite and timm's rexnetr.
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def linear_channels(
    *, first: float, growth: float, depth: int, growth_steps: int, width: float, divisor: int = 1
) -> list[int]:
    """Output channels of `depth` blocks on the line from `first` by `growth / growth_steps` a block, times `width`.

    Below width 1.0 the first block keeps its width. Source: paper section 4.2; clovaai/rexnet rexnetv1.py divides
    the growth by the number of blocks, rexnetv1_lite.py by one less and rounds to a multiple of 8.
    """
    start = first / width if width < 1.0 else first
    # Adding the step block after block, as the official code does, decides the ties of round().
    line = accumulate(repeat(growth / growth_steps, depth - 1), initial=start)
    return [round_to_multiple(round(channels * width), divisor) for channels in line]
