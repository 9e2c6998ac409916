"""The networks that `benchmarks/deployment.py networks` compares, with their accuracy as published."""

from dataclasses import dataclass

from published import FAMILY, LITE


@dataclass(frozen=True, kw_only=True)
class PublishedNetwork:
    """ImageNet-1k accuracy as its source states it, not measured here."""

    name: str
    """As `rexnet bench` takes it."""
    label: str
    family: str
    image_size_px: int
    """That the accuracy belongs to."""
    top1_percent: float
    source: str


_FAMILIES: dict[str, tuple[str, tuple[tuple[str, str, int, float], ...]]] = {
    "ReXNet": (
        "the ReXNet paper, supplement",
        (
            ("rexnet_090", "ReXNet 0.9", 224, float(FAMILY["rexnet_090"][0])),
            ("rexnet_100", "ReXNet 1.0", 224, float(FAMILY["rexnet_100"][0])),
            ("rexnet_130", "ReXNet 1.3", 224, float(FAMILY["rexnet_130"][0])),
            ("rexnet_150", "ReXNet 1.5", 224, float(FAMILY["rexnet_150"][0])),
            ("rexnet_200", "ReXNet 2.0", 224, float(FAMILY["rexnet_200"][0])),
        ),
    ),
    "EfficientNet": (
        "the ReXNet paper, table 5",
        (
            ("timm/efficientnet_b0", "EfficientNet-B0", 224, float(FAMILY["timm/efficientnet_b0"][0])),
            ("timm/efficientnet_b1", "EfficientNet-B1", 240, float(FAMILY["timm/efficientnet_b1"][0])),
            ("timm/efficientnet_b2", "EfficientNet-B2", 260, float(FAMILY["timm/efficientnet_b2"][0])),
            ("timm/efficientnet_b3", "EfficientNet-B3", 300, float(FAMILY["timm/efficientnet_b3"][0])),
        ),
    ),
    "ReXNet-lite": (
        "README of clovaai/rexnet",
        (
            ("rexnet_lite_100", "ReXNet-lite 1.0", 224, float(LITE["rexnet_lite_100"][0])),
            ("rexnet_lite_130", "ReXNet-lite 1.3", 224, float(LITE["rexnet_lite_130"][0])),
            ("rexnet_lite_150", "ReXNet-lite 1.5", 224, float(LITE["rexnet_lite_150"][0])),
            ("rexnet_lite_200", "ReXNet-lite 2.0", 224, float(LITE["rexnet_lite_200"][0])),
        ),
    ),
    "EfficientNet-lite": (
        "README of clovaai/rexnet",
        (
            ("timm/efficientnet_lite0", "EfficientNet-lite0", 224, float(LITE["timm/efficientnet_lite0"][0])),
            ("timm/efficientnet_lite1", "EfficientNet-lite1", 240, float(LITE["timm/efficientnet_lite1"][0])),
            ("timm/efficientnet_lite2", "EfficientNet-lite2", 260, float(LITE["timm/efficientnet_lite2"][0])),
            ("timm/efficientnet_lite3", "EfficientNet-lite3", 280, float(LITE["timm/efficientnet_lite3"][0])),
        ),
    ),
    "MobileNetV3": (
        "arXiv 1905.02244",
        (("timm/mobilenetv3_large_100", "MobileNetV3-L 1.0", 224, 75.2),),
    ),
    "MobileNetV4": (
        "arXiv 2404.10518",
        (
            ("timm/mobilenetv4_conv_small", "MobileNetV4-Conv-S", 224, 73.8),
            ("timm/mobilenetv4_conv_medium", "MobileNetV4-Conv-M", 256, 79.9),
        ),
    ),
}
PUBLISHED_NETWORKS = {
    name: PublishedNetwork(
        name=name, label=label, family=family, image_size_px=size_px, top1_percent=top1, source=source
    )
    for family, (source, rows) in _FAMILIES.items()
    for name, label, size_px, top1 in rows
}
