"""Images a second over a folder of JPEG files, decoding included: the Predictor beside timm's transforms in PyTorch's
loader with ONNX Runtime; rounds in which all take turns, and the ratio within a round.

The network has random weights; its predictions do not affect the time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import tyro
from PIL import Image
from torch import Tensor

import records
import rexnet
from rexnet.data.image_files import find_images
from rexnet.data.preprocess import Preprocess
from rexnet.deploy.predictor import Predictor
from rexnet.engines.backends import open_graph, trace_network
from rexnet.engines.config import Engine, Precision
from rexnet.engines.measuring import engine_versions, interleaved_ms

NAME = "image_folder_cpu"


@dataclass(frozen=True, kw_only=True)
class Options:
    """`python benchmarks/image_folder.py FOLDER`"""

    folder: Annotated[str, tyro.conf.Positional]
    images: int = 200
    """Of the folder, spread evenly."""
    model: str = "rexnet_100"
    """A name that this package and timm share."""
    batch: int = 16
    rounds: int = 5
    """Two or more, after one that is not counted."""
    threads: int = 2


class TimmImages(torch.utils.data.Dataset):
    """Images as a script with timm reads them: Pillow, then its evaluation transform."""

    def __init__(self, files: list[str], model: torch.nn.Module):
        from timm.data.config import resolve_model_data_config
        from timm.data.transforms_factory import create_transform

        self.files = files
        self.transform: Any = create_transform(**resolve_model_data_config(model))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(self.files[index]) as image:
            return self.transform(image.convert("RGB"))


def ours(files: list[str], options: Options, precision: Precision = "fp32") -> Callable[[], int]:
    model = rexnet.create_model(options.model)
    classes = tuple(map(str, range(model.num_classes)))
    predictor = Predictor(model, classes=classes, preprocess=Preprocess(), precision=precision, threads=options.threads)
    return lambda: sum(1 for _ in predictor.stream(files, top_k=1))


def timms(files: list[str], options: Options, *, workers: int) -> Callable[[], int]:
    import timm

    model = timm.create_model(options.model).eval()
    network = open_graph(trace_network(model), Engine(backend="onnxruntime", threads=options.threads))
    images = TimmImages(files, model)

    def run() -> int:
        loader = torch.utils.data.DataLoader(images, batch_size=options.batch, num_workers=workers)
        return sum(len(network(batch).softmax(dim=1).argmax(dim=1)) for batch in loader)

    return run


def measure(options: Options) -> dict[str, object]:
    found = find_images((options.folder,))
    step = max(len(found) // options.images, 1)
    files = [str(path) for path in found[::step][: options.images]]
    contenders = {
        "ours": ours(files, options),
        "ours in bf16": ours(files, options, "bf16"),
        "timm, 2 loader processes": timms(files, options, workers=2),
        "timm, no loader process": timms(files, options, workers=0),
    }
    times_ms = interleaved_ms(contenders, rounds=options.rounds, warm_up=1)
    rates = {name: [1e3 * len(files) / ms for ms in times] for name, times in times_ms.items()}
    peers = [max(each) for each in zip(*(rates[name] for name in contenders if "timm" in name), strict=True)]
    ratios = {
        name: records.quartiles([mine / best for mine, best in zip(rates[name], peers, strict=True)])
        for name in contenders
        if "ours" in name
    }
    return {
        "model": options.model,
        "images": len(files),
        "batch": options.batch,
        "rounds": options.rounds,
        "images_per_s": {name: records.quartiles(each) for name, each in rates.items()},
        "ratio_to_best_peer": ratios,
    }


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    records.start()
    torch.set_num_threads(options.threads)
    row = measure(options)
    print(row)
    print(f"appended to {records.append(NAME, {**row, **records.provenance('cpu'), **engine_versions()})}")


if __name__ == "__main__":
    main()
