import numpy as np
import pytest
import torch
from pycocotools import mask

from rexnet.detection.coco_rows import check_rows, to_coco_rows
from tests.detection.coco_sets import SPARSE_IDS, draw_set, to_outputs


def test_rows_survive_conversion_to_a_detectors_outputs():
    """Boxes turn to corners and back, labels to category ids, masks to run lengths; nothing of low score goes."""
    coco, rows = draw_set(2, category_ids=SPARSE_IDS, masks=True)
    category_ids = sorted(SPARSE_IDS)
    outputs = to_outputs(coco, rows, category_ids)
    assert any(not len(output["boxes"]) for output in outputs)
    found = to_coco_rows(outputs, image_ids=[image["id"] for image in coco["images"]], category_ids=category_ids)
    assert len(found) == len(rows)
    order = {image["id"]: position for position, image in enumerate(coco["images"])}
    for ours, row in zip(found, sorted(rows, key=lambda row: order[row["image_id"]]), strict=True):
        assert ours["bbox"] == pytest.approx(row["bbox"], abs=1e-3)
        assert ours["score"] == pytest.approx(row["score"], abs=1e-6)
        assert {**ours, "bbox": 0, "score": 0} == {**row, "bbox": 0, "score": 0}


def test_masks_count_from_one_half():
    masks = torch.tensor([[[[0.5, 0.51, 0.0], [1.0, 0.49, 0.0]]]])
    output = {"boxes": torch.tensor([[0.0, 0, 2, 2]]), "labels": torch.tensor([1]), "scores": torch.tensor([0.001])}
    row = to_coco_rows([{**output, "masks": masks}], image_ids=[7], category_ids=[0])[0]
    expected = mask.encode(np.array([[0, 1, 0], [1, 0, 0]], dtype=np.uint8, order="F"))
    assert row["segmentation"] == {"size": [2, 3], "counts": expected["counts"].decode()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": float("nan")}, "score nan and box .*must be finite"),
        ({"bbox": [1.0, 2.0, float("inf"), 4.0]}, "box .*inf.*must be finite"),
        ({"score": "0.5"}, "score '0.5' and box .*must be finite numbers"),
        ({"score": True}, "score True"),
        ({"bbox": [1.0, "2", 3.0, 4.0]}, "'2'.*must be finite numbers"),
        ({"segmentation": {"size": [7, 9], "counts": "0"}}, r"RLE of size \[7, 9\], but the image has \["),
        ({"category_id": [5]}, r"category_id \[5\], which"),
        ({"category_id": 5}, "category_id 5, which the categories of the ground truth do not have"),
        ({"image_id": 10**6}, "image_id 1000000, which the images of the ground truth do not have"),
    ],
)
def test_invalid_rows_are_refused_in_one_sentence(change, message):
    coco, rows = draw_set(0, category_ids=SPARSE_IDS)
    rows[len(rows) // 2] |= change
    with pytest.raises(ValueError, match=message):
        check_rows(rows, coco)
