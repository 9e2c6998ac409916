"""Why a rewritten network differs from what it was."""

from typing import Literal

Reason = Literal["line", "expand input", "activation", "penultimate", "budget"]

WHY: dict[Reason, str] = {
    "line": "channels grow by the same step from layer to layer, so that no layer expands much (section 3, rule 2)",
    "expand input": "the input of a layer that expands is widened (v1; section 3, rule 1)",
    "activation": "SiLU follows 1x1 and 3x3 convolutions; what follows a depthwise one stays (section 3, rule 3)",
    "penultimate": "more channels enter the classifier (v1)",
    "budget": "scaled, so that the multiply-accumulates stay what they were",
}
