"""Options of `rexnet study advise` and `rexnet study rewrite`, in a module that imports none of the libraries they
need."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from rexnet.data.preprocess import require_image_size
from rexnet.errors import require, require_at_least
from rexnet.files import check_output_folder
from rexnet.options import positional
from rexnet.references import MEASURABLE, resolve


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Thresholds of the rules, beyond which a layer breaks them."""

    greatest_expansion: float = 6.0
    """Ratio of output to input channels of a 1x1 convolution before a depthwise, 3x3 or larger one; 6 is the
    paper's."""
    least_block_ratio: float = 0.8
    """Ratio of input to output channels of a block with a depthwise convolution. The paper says "nearer 1"; 0.8 is the
    value to which its Table 2 raises 0.22."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "greatest_expansion")
        ratio = self.least_block_ratio
        require(0 < ratio <= 1, "least_block_ratio", ratio, "above 0 and at most 1")


@dataclass(frozen=True, kw_only=True)
class _KnownNetwork:
    model: Annotated[str, positional("MODEL")]
    """A checkpoint, a folder of rexnet card, a name such as rexnet_100, a file of rexnet search export, timm/resnet50
    or torchvision/vgg16_bn, module:factory, or rewritten/ before any of these."""
    image_size: int | None = None
    """Image side in pixels; None: the size that the network was designed for, else 224."""

    def __post_init__(self) -> None:
        require_image_size(self)

    def check(self) -> None:
        """Raise ModelError for a model that does not exist."""
        resolve(self.model, allowed=MEASURABLE)


@dataclass(frozen=True, kw_only=True)
class AdviceConfig(_KnownNetwork):
    """List the layers of a network that break the paper's design principles; the exit code is 1 if there are any."""

    format: Literal["table", "json"] = "table"
    """Output format: a table, or JSON for programs."""
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, kw_only=True)
class RewriteConfig(_KnownNetwork):
    """Rewrite a network by the paper's design principles at equal multiply-accumulates, and list the changes with their
    reasons."""

    output: str | None = None
    """Folder for report.json and, for a network that becomes a list of blocks, config.json."""

    def check(self) -> None:
        """Raise ValueError for an output or a model that cannot be used."""
        if self.output is not None:
            check_output_folder(self.output, allowed="a folder")
        super().check()
