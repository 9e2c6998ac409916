"""The principles that known networks break, and the cost and remaining violations of their rewriting, at 224 pixels.

Nothing is trained; a row a network, appended to results/rewritten.jsonl.
"""

from dataclasses import asdict

import torch

import records
from rexnet.study.layers import load_network
from rexnet.study.principles import advise, rewrite

REWRITTEN = ("timm/mobilenetv1_100", "timm/mobilenetv2_100", "torchvision/resnet50", "torchvision/vgg16_bn")
ONLY_ADVISED = ("rexnet_100", "rexnet_plain", "timm/mobilenetv3_large_100", "timm/efficientnet_b0")


def main() -> None:
    records.start()
    torch.set_num_threads(1)
    for name in (*REWRITTEN, *ONLY_ADVISED):
        model, preprocess = load_network(name, image_size=224)
        row = {"network": name, "image_size_px": preprocess.image_size_px, "breaks": advise(model).by_rule()}
        if name in REWRITTEN:
            rewritten, report = rewrite(model)
            sizes = {"before": asdict(report.before), "after": asdict(report.after)}
            row |= {**sizes, "breaks_after": advise(rewritten).by_rule()}
        records.append("rewritten", {**row, **records.provenance("cpu")})


if __name__ == "__main__":
    main()
