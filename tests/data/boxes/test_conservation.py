"""No object is lost without a word: objects in the files = objects that reach the loss + those that are named."""

from pathlib import Path

import numpy as np
import pytest
import torch

from rexnet.data.boxes.coco import CocoImages
from rexnet.data.boxes.coco_annotations import FINDINGS, WITH_IMAGE, Finding
from rexnet.data.boxes.coco_json import read_coco
from rexnet.data.boxes.loaders import TrainDetectionBatches
from rexnet.data.boxes.transforms import DetectionTransform
from rexnet.data.checks.images import CheckConfig, check
from rexnet.data.config import DetectionAugmentConfig
from rexnet.detection import create_detector
from tests.boxed_files import convert, voc_image, voc_object, write_image
from tests.coco_files import annotation, image_entry, write_side

KINDS = ("ssdlite", "faster_rcnn", "mask_rcnn")
TRIANGLE = [[4, 5, 14, 5, 14, 17]]
IMAGES = 20
UNCHANGED = DetectionTransform(DetectionAugmentConfig(horizontal_flip=0))


def reach_the_loss(images: CocoImages, kind: str) -> int:
    """Return how many objects the detector's loss gets in an epoch."""
    torch.manual_seed(0)
    size = {"min_size_px": 64, "max_size_px": 64}
    model = create_detector(kind, backbone="rexnet_010", num_classes=len(images.classes), **size)
    count = 0
    name = "compute_loss" if kind == "ssdlite" else "select_training_samples"
    owner = model if kind == "ssdlite" else model.get_submodule("roi_heads")
    plain = getattr(owner, name)

    def counting(*given):
        nonlocal count
        (targets,) = (each for each in given if isinstance(each, list) and isinstance(each[0], dict))
        count += sum(len(target["labels"]) for target in targets)
        return plain(*given)

    vars(owner)[name] = counting
    for batch in TrainDetectionBatches(images, UNCHANGED, batch_size=4, seed=0, masks=kind == "mask_rcnn").epoch(0):
        losses = model(batch.images, batch.targets)
        assert all(torch.isfinite(loss) for loss in losses.values())
    return count


def named_in(annotation_file: Path) -> tuple[CocoImages, int, int]:
    """Return the images of a COCO file, its crowds, and the objects that its findings name as skipped."""
    content, findings = read_coco(annotation_file)
    return CocoImages(content, findings), int(content.iscrowd.sum()), sum(map(is_lost, findings))


def is_lost(finding: Finding) -> bool:
    """Whether a finding names an object as skipped."""
    return FINDINGS[finding.kind] in ("skipped", WITH_IMAGE) and finding.annotation is not None


def is_costly(row: dict) -> bool:
    """Whether an annotation that `odd_annotation` gives costs its image."""
    x, y, width, _ = row["bbox"] if isinstance(row["bbox"], list) else [float("nan")] * 4
    return row["category_id"] == 4 or row["iscrowd"] == "false" or not (width > 0 and x < 40 and y < 30)


def odd_annotation(random: np.random.Generator, number: int) -> object:
    """Return an annotation that is good in one case of two."""
    image, box = int(random.integers(1, IMAGES + 1)), tuple(random.uniform(1, 20, 4).round(2).tolist())
    odd = [
        annotation(number, 99, box=box),
        annotation(number, image, 4, box=box),
        annotation(number, image, box=(3, 3, 0, 5)),
        annotation(number, image, box=(float("nan"), 3, 5, 5)),
        annotation(number, image, box=(90, 90, 5, 5)),
        annotation(number, image, box=(-5, -5, 90, 90)),
        annotation(number, image, box=(1, 1, 5, 5)),
        annotation(number, image, box=box, iscrowd=1),
        annotation(number, image, box=box, iscrowd="false"),
        annotation(number, image, box=box, segmentation=[[1, 1, 5, 5]]),
        annotation(number, image, box=box, segmentation={"size": [9, 9], "counts": [81]}),
        annotation(number, image, box="1 2 3 4"),
        "no annotation",
        None,
    ]
    good = annotation(number, image, int(random.choice([5, 2, 90])), box, segmentation=TRIANGLE)
    return good if random.random() < 0.8 else odd[random.integers(len(odd))]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 1])
def test_coco(tmp_path, kind, seed):
    random = np.random.default_rng(seed)
    images = [image_entry(number, **({"missing": True} if number == 8 else {})) for number in range(1, IMAGES + 2)]
    whole = [annotation(0, IMAGES + 1, segmentation=TRIANGLE), annotation(80, IMAGES + 1, box=(1, 1, 9, 9), iscrowd=1)]
    objects = [*whole, *(odd_annotation(random, number) for number in range(1, 80))]
    found, crowds, skipped = named_in(write_side(tmp_path, "train", images, objects))
    assert skipped > 5 and crowds
    assert int(found.num_objects.sum()) + crowds + skipped == len(objects)
    assert reach_the_loss(found, kind) == len(objects) - crowds - skipped
    used = {int(number) for number in found.image_ids}
    odd = {row["image_id"] for row in objects if isinstance(row, dict) and is_costly(row)}
    assert used == set(range(1, IMAGES + 2)) - odd - {8}, "an image with an object that cannot be used is not used"
    assert {Path(name).stem for name in found.skipped} == {
        str(number) for number in (odd & set(range(IMAGES + 1))) | {8}
    }
    report = check(CheckConfig(data=str(tmp_path), workers=0))
    named = sum(
        FINDINGS[kind] in ("skipped", WITH_IMAGE) and case["annotation"] is not None
        for kind, cases in report.annotations.items()
        for case in cases
    )
    assert sum(report.classes["train"].values()) + report.crowds["train"] + named == len(objects)


def odd_line(random: np.random.Generator) -> str:
    x, y, width, height = random.uniform(0.2, 0.4, 4).round(4).tolist()
    odd = [
        f"7 {x} {y} {width} {height}",
        f"0 {40 * x} {30 * y} 9 9",
        f"0,{x},{y},{width},{height}",
        f"0 {x} nan {width} {height}",
        f"0 {x} {y} {width}",
        f"0 {x} {y} 0 {height}",
        "0 0.5 0.5 1 1",
        "0 0.9 0.9 0.9 0.9",
        "0 0.5 0.5 0.0001 0.5",
        "# 0 0.5 0.5 1 1",
    ]
    good = [f"{random.integers(3)} {x} {y} {width} {height}", "1 0.1 0.2 0.5 0.2 0.5 0.8"]
    return good[random.integers(2)] if random.random() < 0.93 else odd[random.integers(len(odd))]


def write_yolo(root: Path, random: np.random.Generator) -> int:
    total = 0
    for split in ("train", "val", "test"):
        (root / "labels" / split).mkdir(parents=True)
        for number in range(12):
            lines = [odd_line(random) for _ in range(random.integers(0, 5))]
            mark = "\ufeff" if random.random() < 0.3 else ""
            text = mark + random.choice(["\n", "\r\n", "\n\n"]).join(lines)
            (root / "labels" / split / f"{number}.txt").write_text(text, encoding="utf-8", newline="")
            total += len(lines)
            image = root / "images" / split / f"{number}.png"
            if number != 3:  # whose labels have no image
                write_image(image)
            if number == 4:
                image.write_bytes(b"")
            if number == 5:
                image.rename(image.with_suffix(".heic"))
                image.with_suffix(".heic").write_bytes(b"\0\0\0\x18ftypheic")
            if number == 6:  # a second copy of an image that is there
                image.with_suffix(".heic").write_bytes(b"\0\0\0\x18ftypheic")
    (root / "data.yaml").write_text("train: images/train\nval: images/val\ntest: images/test\nnames: [a, b, c]\n")
    return total


def write_voc(root: Path, random: np.random.Generator) -> int:
    total = 0
    odd = [
        voc_object("x", (9, 1, 3, 5)),
        voc_object("", (1, 1, 2, 2)),
        voc_object("y", ("a", 1, 2, 2)),
        voc_object("y", (float("nan"), 1, 2, 2)),
        voc_object("y", (1, 1, 99, 99)),
        voc_object("y", (90, 90, 99, 99)),
        voc_object("y", difficult="perhaps"),
    ]
    for number in range(24):
        objects = []
        for _ in range(random.integers(0, 5)):
            x0, y0, x1, y1 = (*random.integers(1, 15, 2).tolist(), *random.integers(16, 30, 2).tolist())
            good = voc_object(str(random.choice(["dog", "cat"])), (x0, y0, x1, y1), int(random.random() < 0.1))
            objects.append(good if random.random() < 0.9 else odd[random.integers(len(odd))])
        voc_image(root, f"{number}", *objects)
        total += len(objects)
        if number == 3:
            (root / "JPEGImages" / "3.jpg").unlink()
        if number == 4:
            (root / "JPEGImages" / "4.jpg").write_bytes(b"")
        if number == 6:
            image = root / "JPEGImages" / "6.jpg"
            image.rename(image.with_suffix(".heic"))
            image.with_suffix(".heic").write_bytes(b"\0\0\0\x18ftypheic")
        if number == 5:
            file = root / "Annotations" / "5.xml"
            file.write_text(file.read_text().removesuffix("</annotation>"))
    return total


@pytest.mark.parametrize("write", [write_yolo, write_voc])
@pytest.mark.parametrize("seed", [0, 1])
def test_other_layouts(tmp_path, write, seed):
    total = write(tmp_path / "data", np.random.default_rng(seed))
    converted = convert(tmp_path / "data", tmp_path / "coco")
    lost = sum(skipped.objects for skipped in converted.skipped)
    assert any("HEIC format; convert it to JPEG" in skipped.reason for skipped in converted.skipped)
    assert lost and sum(converted.boxes.values()) + lost == total
    named = reached = 0
    for split, boxes in converted.boxes.items():
        images, crowds, skipped = named_in(tmp_path / "coco" / "annotations" / f"instances_{split}.json")
        assert int(images.num_objects.sum()) + crowds + skipped == boxes
        named += crowds + skipped
        reached += int(images.num_objects.sum())
        if split == "train":
            for kind in KINDS if images.has_masks else KINDS[:2]:
                assert reach_the_loss(images, kind) == int(images.num_objects.sum())
    assert reached + named + lost == total
    report = check(CheckConfig(data=str(tmp_path / "data"), workers=0))
    assert sum(row["objects"] for row in report.skipped) == lost
    assert sum(sum(by_class.values()) for by_class in report.classes.values()) == reached
