"""What a detector found, in pixels of the upright picture."""

from typing import Any

from torch import Tensor

from rexnet.detection.predict import DetectPredictConfig
from rexnet.serve.model_registry import Answer
from rexnet.serve.rle import run_lengths

MIN_SCORE = DetectPredictConfig.min_score


def upright_boxes(answer: Answer) -> Tensor:
    """(N, 4): left, top, right, bottom. The detector may have seen a smaller copy of the picture."""
    seen = answer.result.picture
    across, down = answer.width / seen.width, answer.height / seen.height
    boxes: Tensor = answer.result.output["boxes"]
    return boxes * boxes.new_tensor([across, down, across, down])


def described_objects(answer: Answer, min_score: float) -> list[dict[str, Any]]:
    """As /predict names them, the surest first."""
    found = []
    output, boxes = answer.result.output, upright_boxes(answer).tolist()
    for index, (name, score) in enumerate(zip(answer.result.names, output["scores"].tolist(), strict=True)):
        if score < min_score:
            continue
        one = {"class": name, "score": round(score, 6), "box": [round(value, 2) for value in boxes[index]]}
        if "masks" in output:
            one["mask"] = run_lengths(output["masks"][index, 0], width=answer.width, height=answer.height)
        found.append(one)
    return found
