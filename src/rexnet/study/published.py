"""Values of the paper's figures, read off the images. Those of Fig. 1 are exact to about 0.005 for the single
convolutions, 0.01 for the bottlenecks."""

from collections.abc import Mapping

_SINGLE = (0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)
_BOTTLENECK = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0)
_CURVES: dict[str, dict[str, tuple[tuple[float, ...], tuple[float, ...]]]] = {
    "conv1x1": {
        "silu": (_SINGLE, (0.958, 0.983, 0.985, 0.989, 0.995, 0.997, 0.998)),
        "hardswish": (_SINGLE, (0.948, 0.984, 0.991, 0.992, 0.995, 0.998, 0.998)),
        "softplus": (_SINGLE, (0.934, 0.975, 0.983, 0.990, 0.994, 0.996, 0.998)),
        "elu": (_SINGLE, (0.914, 0.963, 0.970, 0.982, 0.993, 0.997, 0.998)),
        "leaky_relu": (_SINGLE, (0.875, 0.930, 0.949, 0.968, 0.981, 0.990, 0.992)),
        "relu6": (_SINGLE, (0.855, 0.906, 0.928, 0.946, 0.953, 0.959, 0.960)),
        "relu": (_SINGLE, (0.848, 0.900, 0.930, 0.938, 0.948, 0.955, 0.966)),
        "linear": (_SINGLE, _SINGLE),
    },
    "conv3x3": {
        "silu": (_SINGLE, (0.963, 0.984, 0.990, 0.992, 0.995, 0.996, 0.998)),
        "hardswish": (_SINGLE, (0.963, 0.984, 0.990, 0.992, 0.995, 0.996, 0.998)),
        "softplus": (_SINGLE, (0.946, 0.973, 0.983, 0.991, 0.994, 0.995, 0.998)),
        "elu": (_SINGLE, (0.921, 0.962, 0.978, 0.984, 0.990, 0.996, 0.998)),
        "leaky_relu": (_SINGLE, (0.884, 0.937, 0.951, 0.965, 0.978, 0.988, 0.990)),
        "relu6": (_SINGLE, (0.868, 0.908, 0.931, 0.938, 0.958, 0.965, 0.969)),
        "relu": (_SINGLE, (0.866, 0.916, 0.937, 0.940, 0.953, 0.960, 0.967)),
        "linear": (_SINGLE, _SINGLE),
    },
    "bottleneck3x3": {
        "silu": (_BOTTLENECK, (0.385, 0.685, 0.835, 0.910, 0.955, 0.975, 0.985, 0.990, 1.0)),
        "hardswish": (_BOTTLENECK, (0.385, 0.685, 0.835, 0.910, 0.955, 0.975, 0.985, 0.990, 1.0)),
        "softplus": (_BOTTLENECK, (0.365, 0.640, 0.800, 0.885, 0.935, 0.955, 0.980, 0.985, 1.0)),
        "leaky_relu": (_BOTTLENECK[:5], (0.310, 0.600, 0.750, 0.860, 0.930)),
        "relu6": (_BOTTLENECK, (0.300, 0.555, 0.745, 0.845, 0.910, 0.950, 0.970, 0.985, 1.0)),
        "relu": (_BOTTLENECK[:7], (0.300, 0.570, 0.745, 0.845, 0.910, 0.955, 0.975)),
        "linear": (_BOTTLENECK, _BOTTLENECK),
    },
    "bottleneck_depthwise": {
        "silu": (_BOTTLENECK, (0.240, 0.420, 0.555, 0.655, 0.740, 0.800, 0.865, 0.910, 1.0)),
        "hardswish": (_BOTTLENECK, (0.260, 0.440, 0.575, 0.670, 0.760, 0.820, 0.875, 0.920, 1.0)),
        "softplus": (_BOTTLENECK, (0.225, 0.380, 0.500, 0.610, 0.690, 0.760, 0.835, 0.890, 1.0)),
        "leaky_relu": (_BOTTLENECK, (0.190, 0.350, 0.480, 0.600, 0.685, 0.770, 0.840, 0.900, 1.0)),
        "relu6": (_BOTTLENECK, (0.190, 0.350, 0.480, 0.600, 0.685, 0.770, 0.840, 0.900, 1.0)),
        "relu": (_BOTTLENECK, (0.190, 0.350, 0.480, 0.600, 0.685, 0.770, 0.840, 0.900, 1.0)),
        "linear": (_BOTTLENECK, _BOTTLENECK),
    },
}
PUBLISHED: Mapping[str, Mapping[str, Mapping[float, float]]] = {
    block: {name: dict(zip(*curve, strict=True)) for name, curve in curves.items()} for block, curves in _CURVES.items()
}
"""Rank over output channels by block, activation and ratio. ELU is missing in (c), where it is illegible, and in (d),
where it lies between SiLU and Hardswish."""
PUBLISHED_SPECTRA: Mapping[str, Mapping[float, float]] = {
    "ReXNet x0.9": {0.5: 0.065, 0.85: 0.11, 1.0: 0.3},
    "MobileNetV2": {0.5: 0.0105, 0.75: 0.014, 0.98: 0.1},
}
"""The supplement's figure, read off the image: the value, relative to the largest, that a fraction of the singular
values does not exceed, keyed by that fraction. The paper does not state the features and images."""
