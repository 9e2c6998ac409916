import copy
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rexnet.detection.coco_rows import to_coco_rows
from rexnet.detection.evaluation import evaluate_detector, score
from rexnet.training.distributed import World
from rexnet.training.interruption import Stopped
from tests.detection.coco_sets import SPARSE_IDS, draw_set, oracle, to_outputs

WORLD = World(device=torch.device("cpu"))


class Batch(NamedTuple):
    images: list[Tensor]
    indices: Tensor


@dataclass
class Images:
    """The part of a set of COCO images that an evaluation reads."""

    coco: dict[str, Any]
    has_masks: bool = True

    def __post_init__(self):
        categories = sorted(self.coco["categories"], key=lambda category: category["id"])
        self.classes = [category["name"] for category in categories]
        self.category_ids = np.array([category["id"] for category in categories])
        self.image_ids = np.array([image["id"] for image in self.coco["images"]])

    def to_coco(self) -> dict[str, Any]:
        return self.coco


class Answers(nn.Module):
    """Gives the output that stands in an image's first pixel."""

    def __init__(self, outputs: list[dict[str, Tensor]]):
        super().__init__()
        self.outputs = outputs

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        assert not self.training
        return [self.outputs[int(image[0, 0, 0])] for image in images]


def batches(indices: list[int], size: int = 4) -> list[Batch]:
    parts = [indices[start : start + size] for start in range(0, len(indices), size)]
    return [Batch([torch.full((3, 2, 2), float(index)) for index in part], torch.tensor(part)) for part in parts]


def truth_as_outputs(images: Images) -> list[dict[str, Tensor]]:
    rows = [{**row, "score": 1.0} for row in images.coco["annotations"] if not row["iscrowd"]]
    return to_outputs(images.coco, rows, images.category_ids.tolist())


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("kind", ["box", "mask"])
def test_all_numbers_equal_pycocotools(kind, seed):
    """Sets with crowds, ties, more than 100 detections an image, images without objects or detections, and a class
    without objects."""
    coco, rows = draw_set(seed, category_ids=SPARSE_IDS, masks=kind == "mask")
    expected, expected_by_class = oracle(coco, rows, kind)
    before = copy.deepcopy((coco, rows))
    found = score(coco, rows, kinds=(kind,))
    assert (coco, rows) == before
    assert set(found.metrics) == {*(f"{kind}_{name}" for name, value in expected.items() if value != -1), "images"}
    for name, value in expected.items():
        assert found.metrics.get(f"{kind}_{name}", -100) == pytest.approx(100 * value, abs=1e-9, rel=0)
    for name, value in expected_by_class.items():
        ours = found.by_class[name][f"{kind}_ap"]
        assert (-100 if ours is None else ours) == pytest.approx(100 * value, abs=1e-9, rel=0)
    assert any(row[f"{kind}_ap"] is None for row in found.by_class.values()), "a class without objects was meant"
    curve = found.curves[kind]
    assert len(curve.recall) == len(curve.mean) == 101
    assert 100 * np.mean(curve.mean) == pytest.approx(found.metrics[f"{kind}_ap50"])
    for name, values in curve.by_class.items():
        assert 100 * np.mean(values) == pytest.approx(found.by_class[name][f"{kind}_ap50"])
        assert values == sorted(values, reverse=True)


def test_the_random_sets_have_the_stated_properties():
    drawn = [draw_set(seed, category_ids=SPARSE_IDS) for seed in range(12)]
    per_image = [[row["image_id"] for row in rows] for _, rows in drawn]
    assert any(ids.count(image_id) > 100 for ids in per_image for image_id in ids)
    assert any(row["iscrowd"] for coco, _ in drawn for row in coco["annotations"])
    assert any(len({row["score"] for row in rows}) < len(rows) / 4 for _, rows in drawn), "ties"
    for column in ("annotations", "rows"):
        filled = [
            ({image["id"] for image in coco["images"]}, {row["image_id"] for row in {**coco, "rows": rows}[column]})
            for coco, rows in drawn
        ]
        assert any(images - ids for images, ids in filled)


@pytest.mark.parametrize("ids", [SPARSE_IDS, [0, 1, 2, 3], [1, 2, 3, 4]], ids=["sparse", "from 0", "from 1"])
def test_the_truth_itself_is_perfect_and_labels_moved_by_one_are_worthless(ids):
    coco, _ = draw_set(5, category_ids=ids, masks=True, every_class=True)
    images = Images(coco)
    outputs = truth_as_outputs(images)
    found = evaluate_detector(Answers(outputs), batches(list(range(len(outputs)))), images, world=WORLD)
    perfect = {name: value for name, value in found.metrics.items() if not name.endswith("ar1") and name != "images"}
    names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ar100")
    assert perfect.keys() >= {f"{kind}_{name}" for kind in ("box", "mask") for name in names}
    assert list(perfect.values()) == pytest.approx([100.0] * len(perfect))
    assert found.metrics["images"] == len(coco["images"])
    # Moved by one: each class is called by the name of the next.
    for output in outputs:
        output["labels"] = output["labels"] % len(ids) + 1
    moved = evaluate_detector(Answers(outputs), batches(list(range(len(outputs)))), images, world=WORLD)
    assert moved.metrics["box_ap"] < 5 and moved.metrics["mask_ap"] < 5
    # Counted from 0: the first class falls on the background.
    for output in outputs:
        output["labels"] = output["labels"] - 1
    with pytest.raises(ValueError, match="has label 0; labels are 1 to 4"):
        evaluate_detector(Answers(outputs), batches(list(range(len(outputs)))), images, world=WORLD)


def test_without_detections_everything_is_zero():
    coco, _ = draw_set(1, category_ids=SPARSE_IDS, masks=True)
    images = Images(coco)
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "scores": torch.zeros(0)}
    model = Answers([{**nothing, "masks": torch.zeros(0, 1, 9, 9)}] * len(coco["images"]))
    found = evaluate_detector(model, batches(list(range(len(coco["images"])))), images, world=WORLD)
    assert found.metrics.keys() >= {f"{kind}_{name}" for kind in ("box", "mask") for name in ("ap", "ap50", "ar100")}
    assert {value for name, value in found.metrics.items() if name != "images"} == {0.0}
    assert score(coco, []).metrics["box_ap"] == 0.0


def test_a_repeated_image_counts_once_and_a_missing_one_not_at_all():
    coco, rows = draw_set(3, category_ids=SPARSE_IDS)
    images = Images(coco, has_masks=False)
    outputs = to_outputs(coco, rows, images.category_ids.tolist())
    some = [4, 2, 7, 0, 9]
    once = evaluate_detector(Answers(outputs), batches(some), images, world=WORLD)
    twice = evaluate_detector(Answers(outputs), batches([*some, 4, 0, 2]), images, world=WORLD)
    assert once == twice and once.metrics["images"] == 5
    kept = {int(images.image_ids[index]) for index in some}
    part = {name: [row for row in coco[name] if row["image_id"] in kept] for name in ("annotations",)}
    part = {**coco, **part, "images": [image for image in coco["images"] if image["id"] in kept]}
    all_rows = to_coco_rows(outputs, image_ids=images.image_ids.tolist(), category_ids=images.category_ids)
    rows_of_some = sorted((row for row in all_rows if row["image_id"] in kept), key=lambda row: row["image_id"])
    assert score(part, rows_of_some) == once
    assert not [name for name in once.metrics if name.startswith("mask")], "a set without masks has no scores of them"


def test_ids_of_objects_do_not_matter():
    """pycocotools takes an object with id 0 for none, and two of one id for one."""
    coco, rows = draw_set(4, category_ids=SPARSE_IDS)
    expected = score(coco, rows)
    for number, row in enumerate(coco["annotations"]):
        row["id"] = number // 2
    assert score(coco, rows) == expected


def test_a_file_of_boxes_alone_needs_neither_areas_nor_crowds():
    coco, rows = draw_set(4, category_ids=SPARSE_IDS)
    coco["annotations"] = [
        {**row, "iscrowd": 0, "area": row["bbox"][2] * row["bbox"][3]} for row in coco["annotations"]
    ]
    expected = score(coco, rows)
    for row in coco["annotations"]:
        del row["iscrowd"], row["area"]
    assert score(coco, rows) == expected


def test_ground_truth_and_rows_without_required_fields():
    coco, rows = draw_set(0, category_ids=SPARSE_IDS)
    with pytest.raises(ValueError, match="lacks score, which"):
        score(coco, [{name: value for name, value in row.items() if name != "score"} for row in rows])
    coco["annotations"][3]["segmentation"] = {"size": [7, 9], "counts": [63]}
    with pytest.raises(ValueError, match=r"RLE of size \[7, 9\]"):
        score(coco, rows)


def test_a_detector_with_nan_scores_is_refused():
    coco, rows = draw_set(0, category_ids=SPARSE_IDS)
    images = Images(coco, has_masks=False)
    outputs = to_outputs(coco, rows, images.category_ids.tolist())
    filled = next(output for output in outputs if len(output["scores"]))
    filled["scores"][0] = float("nan")
    with pytest.raises(ValueError, match="score nan"):
        evaluate_detector(Answers(outputs), batches(list(range(len(outputs)))), images, world=WORLD)


def test_unscorable_sets_are_refused_before_the_network_runs():
    coco, rows = draw_set(0, category_ids=SPARSE_IDS)
    crowds = {**coco, "annotations": [{**row, "iscrowd": 1} for row in coco["annotations"]]}
    same_names = {**coco, "categories": [{**category, "name": "cat"} for category in coco["categories"]]}
    for broken, message in (
        ({**coco, "annotations": []}, "no objects in the 20 images"),
        (crowds, "no objects in the"),
        (same_names, "4 categories have the name 'cat'"),
    ):
        with pytest.raises(ValueError, match=message):
            score(broken, rows)
        with pytest.raises(ValueError, match=message):
            evaluate_detector(Answers([]), batches([0]), Images(broken), world=WORLD)
    with pytest.raises(ValueError, match="no images to evaluate"):
        evaluate_detector(Answers([]), [], Images(coco), world=WORLD)
    with pytest.raises(ValueError, match="has no segmentation"):
        score(coco, rows, kinds=("mask",))


def test_evaluation_stops_after_the_current_batch_on_request():
    coco, rows = draw_set(0, category_ids=SPARSE_IDS)
    images = Images(coco, has_masks=False)
    model, given = Answers(to_outputs(coco, rows, images.category_ids.tolist())), []

    class Asked(list):
        def __iter__(self):
            for batch in super().__iter__():
                given.append(batch)
                os.kill(os.getpid(), signal.SIGTERM)
                yield batch

    world = World(device=torch.device("cpu"))
    with world.stop.listening(), world.stop.deferred(), pytest.raises(Stopped):
        evaluate_detector(model, Asked(batches(list(range(20)))), images, world=world)
    assert len(given) == 1


def test_a_missing_package_is_reported_in_one_sentence_before_the_network_runs(monkeypatch):
    coco, rows = draw_set(0, category_ids=SPARSE_IDS)
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    for call in (
        lambda: score(coco, rows),
        lambda: evaluate_detector(Answers([]), batches([0]), Images(coco), world=WORLD),
    ):
        with pytest.raises(ValueError, match=r"pip install 'rexnet\[detect\]'"):
            call()


PROGRAM = """
import json, sys, warnings
from dataclasses import asdict
from pathlib import Path
warnings.simplefilter("error")
import torch
from rexnet.detection.evaluation import evaluate_detector
from rexnet.training.distributed import joined
from tests.detection.coco_sets import SPARSE_IDS, draw_set, to_outputs
from tests.detection.test_evaluation import Answers, Images, batches

torch.set_num_threads(1)
coco, rows = draw_set(8, category_ids=SPARSE_IDS, images=19, masks=True)
images = Images(coco)
outputs = to_outputs(coco, rows, images.category_ids.tolist())
every = list(range(len(outputs)))
silent = [index for index in every if not len(outputs[index]["scores"])]
results = []
with joined("cpu") as world:
    shares = {
        "even": every[world.rank :: world.size],
        "an image twice": every[world.rank :: world.size] + every[:2],
        "the second has no image": every if world.is_main else [],
        "the first has no image": [] if world.is_main else every,
        "one finds nothing": [index for index in every if (index in silent) == (world.rank == 1)],
    }
    if world.size == 1:
        shares = dict.fromkeys(shares, every)
    for share in shares.values():
        results.append(asdict(evaluate_detector(Answers(outputs), batches(share), images, world=world)))
    outputs[0]["scores"].fill_(float("nan"))
    try:
        evaluate_detector(Answers(outputs), batches(shares["even"]), images, world=world)
    except ValueError as error:
        results.append(str(error))
Path(sys.argv[1], f"{world.size}-{world.rank}.json").write_text(json.dumps(results))
"""


@pytest.mark.slow
def test_two_and_three_processes_give_the_scores_of_one(tmp_path, request):
    """Also where one has no image, or finds nothing; and an error reaches all. A prime number of images."""
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    for count in (1, 2, 3):
        start = [
            sys.executable,
            *(["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"] * (count > 1)),
        ]
        environment = {"PYTHONPATH": os.pathsep.join([str(request.config.rootpath), *sys.path]), "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*start, str(program), str(tmp_path)],
            capture_output=True,
            text=True,
            timeout=300,
            env={**os.environ, **environment},
        )
        assert done.returncode == 0, done.stderr[-3000:]
    names = ("1-0", "2-0", "2-1", "3-0", "3-1", "3-2")
    one, *others = (json.loads((tmp_path / f"{name}.json").read_text()) for name in names)
    assert all(other == one for other in others)
    assert len(one) == 6 and "score nan" in one[5] and "mask_ap" in one[0]["metrics"]


def test_perfect_detections_of_partly_outlined_objects_score_100():
    def outline(x, y):
        return [[x, y, x + 20, y, x + 20, y + 20, x, y + 20]]

    boxes = [[4, 4, 20, 20], [40, 4, 20, 20], [4, 40, 20, 20], [40, 40, 20, 20]]
    objects = [
        {"id": n, "image_id": 1, "category_id": 1, "bbox": box, "area": 400, "iscrowd": 0, "segmentation": shape}
        for n, (box, shape) in enumerate(zip(boxes, [outline(4, 4), [], outline(4, 40), None], strict=True), start=1)
    ]
    truth = {
        "images": [{"id": 1, "file_name": "a", "width": 64, "height": 64}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": objects,
    }
    rows = [
        {"image_id": 1, "category_id": 1, "bbox": box, "score": 0.9, "segmentation": outline(*box[:2])} for box in boxes
    ]
    found = score(truth, rows, kinds=("box", "mask")).metrics
    assert found["box_ap"] == pytest.approx(100) and found["mask_ap"] == pytest.approx(100)
    missed = score(truth, [rows[0], rows[1]], kinds=("box", "mask")).metrics
    assert missed["mask_ar100"] == pytest.approx(50) and missed["box_ar100"] == pytest.approx(50)
