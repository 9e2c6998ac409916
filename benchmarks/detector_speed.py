"""Seconds of a detector's training step beside torchvision's Faster R-CNN on timm's network, and of detecting in one
image beside torchvision's own detectors.

All contenders have random weights and take turns within every round, so that a drift of the machine hits all; every
ratio is within a round. Training: the stock loop (float32, batch axis first, the C library's memory as it is) in a
process of its own beside ours as `rexnet detect train` runs it.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import tyro
from torch import Tensor, nn

import records
from rexnet.detection import create_detector
from rexnet.detection.native_body import with_native_body
from rexnet.training.session import keep_freed_memory

NAME = "detector_speed_cpu"
Trainer = Literal["torchvision", "ours", "ours, bf16"]
TRAINERS: tuple[Trainer, ...] = ("torchvision", "ours", "ours, bf16")


@dataclass(frozen=True, kw_only=True)
class Options:
    """`python benchmarks/detector_speed.py training` and `... inference`"""

    what: Annotated[Literal["training", "inference"], tyro.conf.Positional]
    rounds: int = 5
    steps: int = 3
    """Measured training steps of a process, after one that is not."""
    batch: int = 2
    size_px: int = 480
    """Shorter side of an image in the detector; of ssdlite 320, whatever this is."""
    threads: int = 2
    bf16: bool = True
    """Measure training with mixed precision too; processors that only imitate it need minutes for a step."""
    only: Trainer | None = None
    """Measure this one here and print it; what the script starts itself with."""


def stock_detector(size_px: int) -> nn.Module:
    """torchvision's Faster R-CNN and pyramid on timm's rexnet_100, put together as torchvision's documentation says."""
    import timm
    from torchvision.models.detection import FasterRCNN
    from torchvision.ops import FeaturePyramidNetwork
    from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

    class Backbone(nn.Module):
        out_channels = 256

        def __init__(self) -> None:
            super().__init__()
            self.body: Any = timm.create_model("rexnet_100", features_only=True, out_indices=(1, 2, 3, 4))
            self.fpn = FeaturePyramidNetwork(self.body.feature_info.channels(), 256, extra_blocks=LastLevelMaxPool())

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return self.fpn({str(index): features for index, features in enumerate(self.body(x))})

    return FasterRCNN(Backbone(), num_classes=81, min_size=size_px, max_size=2 * size_px)


def our_detector(kind: Any, size_px: int) -> nn.Module:
    sizes: dict[str, Any] = {} if kind == "ssdlite" else {"min_size_px": size_px, "max_size_px": 2 * size_px}
    model: Any = create_detector(kind, num_classes=80, **sizes)
    return model.to(memory_format=torch.channels_last)


def draw_batch(options: Options) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    height, width = options.size_px, options.size_px * 4 // 3
    images = [torch.rand(3, height, width) for _ in range(options.batch)]
    corners = torch.rand(options.batch, 8, 2) * torch.tensor([width / 2, height / 2])
    sides = 24 + torch.rand(options.batch, 8, 2) * torch.tensor([width / 3, height / 3])
    boxes = torch.cat([corners, corners + sides], dim=2)
    return images, [{"boxes": boxes[i], "labels": torch.randint(1, 81, (8,))} for i in range(options.batch)]


def seconds_of_a_step(trainer: Trainer, options: Options) -> float:
    """Return the median over the steps of this process."""
    torch.manual_seed(0)
    if trainer == "torchvision":
        model = stock_detector(options.size_px)
    else:
        keep_freed_memory()
        model = our_detector("faster_rcnn", options.size_px)
    optimizer = torch.optim.SGD(model.train().parameters(), lr=1e-5, momentum=0.9, weight_decay=1e-4)
    images, targets = draw_batch(options)

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=trainer.endswith("bf16")):
            losses = model(images, targets)
        torch.stack([loss.float() for loss in losses.values()]).sum().backward()
        optimizer.step()

    step()
    return statistics.median(seconds(step) for _ in range(options.steps))


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_a_process(trainer: Trainer, options: Options) -> float:
    words = ["training", "--only", trainer, "--steps", options.steps, "--batch", options.batch]
    words += ["--size-px", options.size_px, "--threads", options.threads]
    done = subprocess.run([sys.executable, __file__, *map(str, words)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure_training(options: Options) -> list[dict[str, float]]:
    trainers = TRAINERS if options.bf16 else TRAINERS[:2]
    return [{trainer: in_a_process(trainer, options) for trainer in trainers} for _ in range(options.rounds)]


def measure_inference(options: Options) -> list[dict[str, float]]:
    """Measure the detection in one image, from pixels to boxes."""
    from torchvision.models import detection

    sizes: dict[str, Any] = {"min_size": options.size_px, "max_size": 2 * options.size_px}
    fresh: dict[str, Any] = {"weights": None, "weights_backbone": None, "num_classes": 81}
    faster_rcnn = our_detector("faster_rcnn", options.size_px).eval()
    native = with_native_body(faster_rcnn, threads=options.threads)
    models = {
        "ours, ssdlite": our_detector("ssdlite", options.size_px),
        "ours, faster_rcnn": faster_rcnn,
        **({"ours, faster_rcnn, native backbone": native} if native is not None else {}),
        "ours, mask_rcnn": our_detector("mask_rcnn", options.size_px),
        "torchvision, ssdlite320_mobilenet_v3_large": detection.ssdlite320_mobilenet_v3_large(**fresh),
        "torchvision, fasterrcnn_mobilenet_v3_large_fpn": detection.fasterrcnn_mobilenet_v3_large_fpn(**fresh, **sizes),
        "torchvision, fasterrcnn_resnet50_fpn": detection.fasterrcnn_resnet50_fpn(**fresh, **sizes),
    }
    image = draw_batch(options)[0][:1]
    rows = []
    with torch.inference_mode():
        for model in models.values():
            model.eval()(image)
        for number in range(options.rounds):
            order = list(models) if number % 2 else list(reversed(models))
            rows.append({name: seconds(lambda name=name: models[name](image)) for name in order})
    return rows


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    records.start()
    torch.set_num_threads(options.threads)
    if options.only:
        print(json.dumps(seconds_of_a_step(options.only, options)))
        return
    training = options.what == "training"
    rounds = measure_training(options) if training else measure_inference(options)
    baseline = "torchvision" if training else "torchvision, fasterrcnn_resnet50_fpn"
    for name in rounds[0]:
        row = {
            "what": options.what,
            "detector": name,
            "backbone": "rexnet_100" if training or name.startswith("ours") else "",
            "size_px": options.size_px,
            "batch": options.batch if training else 1,
            "rounds": options.rounds,
            "seconds": records.quartiles([times[name] for times in rounds], 4),
            "times_faster": records.quartiles([times[baseline] / times[name] for times in rounds], 4),
        }
        records.append(NAME, {**row, **records.provenance("cpu")})
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
