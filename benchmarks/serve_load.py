"""Measure the requests per second of `rexnet serve` beside a plain FastAPI endpoint with timm's rexnet_100 in PyTorch.

Both servers run all the time; rounds of requests go to one and the other in turns, from 16 clients at once, with the
same JPEG files. Every answer of ours is compared with the prediction for that file alone. A row is appended to
results/serve_load_cpu.jsonl.
"""

import http.client
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median, quantiles
from typing import Annotated

import torch
import tyro
from torch import nn

import records
import rexnet
from rexnet.data.decode import open_image
from rexnet.data.image_files import find_images
from rexnet.data.preprocess import Preprocess
from rexnet.deploy.predictor import Predictor
from rexnet.training import checkpoint

BOUNDARY = "7d9f3c"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Load both servers."""

    images: Annotated[str, tyro.conf.Positional]
    """Folder of JPEG files."""
    requests: int = 20_000
    """Requests to ours, in all rounds together."""
    rounds: int = 10
    plain_fraction: float = 0.2
    """Requests to the plain endpoint, as a fraction of those to ours."""
    clients: int = 16
    count: int = 100
    """Number of files."""
    backend: str = "auto"
    threads: int = 2
    append: bool = True
    """Add the row to results/; otherwise it is printed only."""


def main(options: Options) -> None:
    records.start()
    torch.set_num_threads(options.threads)
    images = [path.read_bytes() for path in find_images([options.images])[: options.count]]
    with tempfile.TemporaryDirectory() as folder:
        model = write_model(Path(folder) / "rexnet_100.pt", images)
        expected = [one.best for one in Predictor(model, backend="torch", threads=options.threads)(images, top_k=1)]
        serve = ["-m", "rexnet", "serve", str(model), "--port", "0", "--backend", options.backend]
        serve += ["--threads", str(options.threads), "--log", str(Path(folder) / "access.log")]
        plain = ["-m", "uvicorn", "--app-dir", "benchmarks", "plain_endpoint:app", "--port", "0", "--no-access-log"]
        with server(serve) as ours, server(plain) as theirs:
            row = measure(options, images, ours, theirs, partial(wrong, expected))
    row |= {"clients": options.clients, "rounds": options.rounds, "pictures": len(images), "backend": options.backend}
    row |= records.provenance("cpu")
    if options.append:
        records.append("serve_load_cpu", row)
    print(json.dumps(row, indent=1))


@dataclass(frozen=True)
class Server:
    port: int
    process_id: int

    def resident_mib(self) -> float:
        status = Path(f"/proc/{self.process_id}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024


def measure(
    options: Options,
    images: list[bytes],
    ours: Server,
    theirs: Server,
    wrong: Callable[[int, bytes], bool],
) -> dict:
    per_round = options.requests // options.rounds
    plain_per_round = max(options.clients, int(per_round * options.plain_fraction))
    load(ours, images, 100, options.clients)
    load(theirs, images, options.clients * 2, options.clients)
    rates: dict[str, list[float]] = {"ours": [], "plain": []}
    seconds: dict[str, list[float]] = {"ours": [], "plain": []}
    memory = [round(ours.resident_mib())]
    failed = mixed = answered = 0
    for _ in range(options.rounds):
        for name, at, number in (("ours", ours, per_round), ("plain", theirs, plain_per_round)):
            started = time.perf_counter()
            answers = load(at, images, number, options.clients)
            rates[name].append(number / (time.perf_counter() - started))
            seconds[name] += [one.seconds for one in answers]
            if name == "ours":
                answered += len(answers)
                failed += sum(one.status != 200 for one in answers)
                mixed += sum(one.status == 200 and wrong(one.image, one.body) for one in answers)
        memory.append(round(ours.resident_mib()))
    metrics = {}
    for name in rates:
        cuts = quantiles(seconds[name], n=100)
        metrics[name] = {"requests_per_s": round(median(rates[name]), 1)}
        metrics[name] |= {"p50_ms": round(cuts[49] * 1e3, 1), "p99_ms": round(cuts[98] * 1e3, 1)}
    ratios = [a / b for a, b in zip(rates["ours"], rates["plain"], strict=True)]
    lost = options.rounds * per_round - answered
    checked = {"requests": options.rounds * per_round, "lost": lost, "failed": failed, "mixed_up": mixed}
    return {**metrics, "ratio": records.quartiles(ratios, 2), **checked, "resident_mib": memory}


@dataclass(frozen=True)
class Answered:
    image: int
    status: int
    body: bytes
    seconds: float


def load(at: Server, images: list[bytes], number: int, clients: int) -> list[Answered]:
    """Send requests as fast as `clients` get them answered one after the other."""
    turns = count()
    forms = [form(image) for image in images]

    def client(_: int) -> list[Answered]:
        connection = http.client.HTTPConnection("127.0.0.1", at.port, timeout=120)
        headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
        found = []
        while (turn := next(turns)) < number:
            image = turn * 7919 % len(images)
            started = time.perf_counter()
            connection.request("POST", "/predict", forms[image], headers)
            answer = connection.getresponse()
            body = answer.read()
            found.append(Answered(image, answer.status, body, time.perf_counter() - started))
        connection.close()
        return found

    with ThreadPoolExecutor(clients) as pool:
        return [one for found in pool.map(client, range(clients)) for one in found]


def wrong(expected: list, image: int, body: bytes) -> bool:
    found = json.loads(body)["results"][0]["predictions"]
    right = expected[image]
    # Rounding may put either of two equally probable classes first.
    near = {one["class"] for one in found if one["probability"] > found[0]["probability"] - 2e-3}
    return abs(found[0]["probability"] - right.probability) > 1e-3 or right.name not in near


def form(image: bytes) -> bytes:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n'
    return head.encode() + image + f"\r\n--{BOUNDARY}--\r\n".encode()


def write_model(path: Path, images: list[bytes]) -> Path:
    """Write rexnet_100 with random weights, and norms with the statistics of images, so that its answers differ from
    image to image."""
    torch.manual_seed(0)
    preprocess = Preprocess()
    model = rexnet.create_model("rexnet_100")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.stack([preprocess(open_image(image)) for image in images[:16]]))
    nn.init.normal_(model.get_parameter("output.1.weight"), std=0.1)
    classes = tuple(map(str, range(1000)))
    checkpoint.save(path, checkpoint.pack(model.eval(), {}, classes=classes, preprocess=preprocess))
    return path


@contextmanager
def server(arguments: list[str]) -> Iterator[Server]:
    process = subprocess.Popen([sys.executable, *arguments], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if found := re.search(r"http://\S+?:(\d+)", line):
                yield Server(int(found.group(1)), process.pid)
                break
        else:
            raise RuntimeError(f"{arguments} did not start")
    finally:
        process.terminate()
        process.communicate()


if __name__ == "__main__":
    main(tyro.cli(Options))
