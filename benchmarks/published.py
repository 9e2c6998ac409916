"""Tables of the paper (arXiv 2007.00992v3), its supplement, version 1 and the official README that the package lacks.

Read off the published tables, none from memory. Values keep their printed form. Tables 2 and 3 and Fig. 1 are in
`rexnet.study.factors`, `rexnet.search.recipes` and `rexnet.study.rank_table`; parameters and MACs of the detectors in
`detector_cost`.
"""

Rows = tuple[tuple[str, ...], ...]

TABLE_1_HEADER = ("network", "stem / channels x blocks", "top-1, %", "parameters, M", "MACs, G")
TABLE_1: Rows = (
    ("MobileNetV2", "32 / 16x1-24x2-32x3-64x4-96x3-160x3-320x1", "72.0", "3.4", "0.30"),
    ("FBNet-C", "16 / 16x1-24x4-32x4-64x4-112x4-184x4-352x1", "74.9", "5.5", "0.38"),
    ("ProxylessNAS-R", "32 / 16-32x2-40x4-80x4-96x4-192x4-320", "74.6", "4.1", "0.32"),
    ("MnasNet-A1", "32 / 16-24x2-40x3-80x4-112x2-160x3-320", "75.2", "3.9", "0.31"),
    ("MixNet-M", "24 / 24-32x2-40x4-80x4-120x4-200x4", "77.0", "5.0", "0.36"),
    ("EfficientNet-B0", "32 / 16-24x2-40x2-80x3-112x3-192x4-320", "77.3", "4.8", "0.39"),
    ("AtomNAS-C", "32 / 16-24x4-40x4-80x4-96x4-192x4-320", "77.6", "5.9", "0.36"),
    ("FairNAS-A", "32 / 16-32x2-40x4-80x4-96x4-192x4-320", "77.5", "5.9", "0.39"),
    ("FairDARTS-C", "32 / 16-32x2-40x4-80x5-96x3-192x4-320", "77.2", "5.3", "0.39"),
    ("SE-DARTS+", "32 / 16-24x4-40x4-80x4-96x4-192x4-320", "77.5", "6.1", "0.59"),
)

TABLE_4_HEADER = ("network", "top-1 / top-5, %")
TABLE_4: Rows = (
    ("ReXNet x1.0, SE and SiLU, without extra augmentation", "77.3 / 93.4"),
    ("ReXNet x1.0, with it", "77.9 / 93.9"),
    ("EfficientNet-B0 (with AutoAugment)", "76.7 (77.3)"),
    ("AtomNAS-C+", "77.6"),
    ("MixNet-M", "77.0"),
    ("MnasNet-A3", "76.7"),
    ("FairNAS-A", "77.5"),
    ("SE-DARTS+", "77.5"),
)

FAMILY: dict[str, tuple[str, str, str, str, str, str]] = {
    "rexnet_090": ("77.2", "93.5", "4.1", "0.35", "46", "20"),
    "rexnet_100": ("77.9", "93.9", "4.8", "0.40", "47", "21"),
    "rexnet_110": ("78.6", "94.1", "5.6", "0.48", "51", "24"),
    "rexnet_120": ("79.0", "94.3", "6.6", "0.57", "53", "26"),
    "rexnet_130": ("79.5", "94.7", "7.6", "0.66", "55", "28"),
    "rexnet_140": ("79.8", "94.9", "8.6", "0.76", "57", "30"),
    "rexnet_150": ("80.3", "95.2", "9.7", "0.86", "59", "31"),
    "rexnet_200": ("81.6", "95.7", "16", "1.5", "69", "40"),
    "rexnet_220": ("81.7", "95.8", "19", "1.8", "73", "46"),
    "rexnet_300": ("82.8", "96.3", "34", "3.4", "96", "61"),
    "timm/efficientnet_b0": ("77.3", "93.5", "5.3", "0.39", "47", "23"),
    "timm/efficientnet_b1": ("79.2", "94.5", "7.8", "0.70", "70", "37"),
    "timm/efficientnet_b2": ("80.3", "95.0", "9.2", "1.0", "77", "48"),
    "timm/efficientnet_b3": ("81.7", "95.6", "12", "1.8", "100", "78"),
    "rexnet_plain": ("74.8", "91.9", "3.4", "0.56", "22", "10"),
}
"""Table 5 and the supplement: top-1 and top-5 in percent, parameters in M, MACs in G, milliseconds of an image on a
Xeon E5-2630v4 and of a batch of 64 on a V100. Of ReXNet x1.5, Table 5 prints 0.9 G and the README 0.88;
of x0.9, Table 5 prints 45 ms."""

LITE: dict[str, tuple[str, str, str, str, str, str]] = {
    "rexnet_lite_100": ("76.2", "92.8", "4.7", "0.41", "31", "49"),
    "rexnet_lite_130": ("77.8", "93.8", "6.8", "0.65", "36", "61"),
    "rexnet_lite_150": ("78.6", "94.2", "8.3", "0.84", "39", "68"),
    "rexnet_lite_200": ("80.2", "95.0", "13", "1.5", "49", "90"),
    "timm/efficientnet_lite0": ("75.1", "", "4.7", "0.41", "30", "49"),
    "timm/efficientnet_lite1": ("76.7", "", "5.4", "0.63", "44", "73"),
    "timm/efficientnet_lite2": ("77.6", "", "6.1", "0.90", "48", "93"),
    "timm/efficientnet_lite3": ("79.8", "", "8.2", "1.4", "60", "131"),
}
"""The README's table, in the columns of `FAMILY`; the GPU is two M40."""

NONLINEARITIES_HEADER = ("activation in ReXNet x1.0", "top-1 / top-5, %")
NONLINEARITIES: Rows = (
    ("ReLU6", "77.3 / 93.5"),
    ("LeakyReLU", "77.4 / 93.6"),
    ("Softplus", "77.6 / 93.8"),
    ("ELU", "77.6 / 93.7"),
    ("SiLU", "77.9 / 93.9"),
)

DETECTORS: dict[tuple[str, str], tuple[str, str]] = {
    ("ssdlite", "timm/efficientnet_b0"): ("23.5 / 39.5 / 23.8", ""),
    ("ssdlite", "rexnet_090"): ("24.7 / 41.4 / 24.9", ""),
    ("ssdlite", "rexnet_100"): ("25.3 / 42.3 / 25.6", ""),
    ("ssdlite", "timm/efficientnet_b1"): ("25.8 / 42.5 / 26.2", ""),
    ("ssdlite", "timm/efficientnet_b2"): ("26.6 / 43.6 / 27.2", ""),
    ("ssdlite", "rexnet_130"): ("27.3 / 45.2 / 27.8", ""),
    ("faster_rcnn", "timm/fbnetc_100"): ("35.1 / 57.4 / 37.2", ""),
    ("faster_rcnn", "timm/efficientnet_b0"): ("38.0 / 60.1 / 40.4", ""),
    ("faster_rcnn", "rexnet_090"): ("38.0 / 60.6 / 40.8", ""),
    ("faster_rcnn", "rexnet_100"): ("38.5 / 60.6 / 41.5", ""),
    ("faster_rcnn", "timm/resnet50"): ("37.6 / 58.2 / 40.9", ""),
    ("faster_rcnn", "timm/resnext101_32x4d"): ("40.3 / 62.1 / 44.1", ""),
    ("faster_rcnn", "rexnet_220"): ("41.5 / 64.0 / 44.9", ""),
    ("mask_rcnn", "timm/efficientnet_b0"): ("38.4 / 60.2 / 40.8", "34.8 / 56.8 / 36.6"),
    ("mask_rcnn", "rexnet_090"): ("38.7 / 60.8 / 41.6", "35.2 / 57.4 / 37.1"),
    ("mask_rcnn", "rexnet_100"): ("38.9 / 61.1 / 42.1", "35.4 / 57.7 / 37.4"),
    ("mask_rcnn", "timm/resnet50"): ("38.5 / 59.0 / 41.6", "34.6 / 55.9 / 36.8"),
    ("mask_rcnn", "rexnet_220"): ("42.0 / 64.5 / 45.6", "37.8 / 61.0 / 40.2"),
}
"""Tables 6 (SSDLite, test-dev2017), 7 and 9 (val2017) and the README's rows (FBNet-C, ResNeXt-101, and x1.0 of the
two-stage detectors): AP / AP50 / AP75 of boxes and of masks."""

SSDLITE_OTHERS_HEADER = ("SSDLite with", "AP", "parameters, M", "MACs, G")
SSDLITE_OTHERS: Rows = (
    ("MobileNetV1", "22.2", "5.1", "1.31"),
    ("MobileNetV2", "22.1", "4.3", "0.79"),
    ("MobileNetV3", "22.0", "5.0", "0.62"),
    ("MnasNet-A1", "23.0", "4.9", "0.84"),
)

TABLE_8_HEADER = ("top-1, % (fine-tuned)", "ResNet50", "EfficientNet-B0", "ReXNet x1.0")
TABLE_8: Rows = (
    ("Food-101", "87.0", "87.5", "88.4"),
    ("Stanford Cars", "92.6", "90.7", "91.5"),
    ("FGVC Aircraft", "89.4", "87.1", "89.5"),
    ("Oxford Flowers-102", "97.7", "97.3", "97.8"),
)

SPECTRUM_MEDIANS = {"rexnet": 0.065, "mobilenetv2": 0.0105}
"""Supplement: half of the singular values lie below this, relative to the largest; read off the figure."""

REWRITTEN_GAINS = {"MobileNetV1": "about 4", "MobileNetV2": "about 4", "ResNet50": "0.8", "VGG16": "0.2"}
"""Gain in ImageNet top-1 of v1's Table 7, as its author sums it up (clovaai/rexnet, issue 1)."""
