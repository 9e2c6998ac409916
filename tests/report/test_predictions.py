import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rexnet.data.image_set import ArrayImages, FileImages
from rexnet.data.preprocess import Preprocess
from rexnet.report.predictions import Confusion, Predictions, predict_set
from rexnet.training.evaluation import ClassCounts

COLOURS = ("red", "green", "blue")
PREPROCESS = Preprocess(image_size_px=8, crop_ratio=1.0, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


class ColourNetwork(nn.Module):
    """Logits (B, 3): how red, green and blue the images are on average."""

    def forward(self, images: Tensor) -> Tensor:
        return 10 * images.mean((2, 3))


def coloured(shades: list[tuple[int, int, int]], targets: list[int]) -> ArrayImages:
    pixels = np.broadcast_to(np.array(shades, dtype=np.uint8)[:, None, None], (len(shades), 8, 8, 3)).copy()
    return ArrayImages(pixels, np.array(targets), COLOURS, label="colours", numbers=np.arange(len(shades)))


def predict(images) -> Predictions:
    return predict_set(ColourNetwork(), images, PREPROCESS, device=torch.device("cpu"), batch_size=2)


def test_planted_wrong_labels_come_first():
    shades = [(255, 0, 0), (120, 130, 0), (0, 255, 0), (0, 0, 255), (90, 80, 100), (0, 240, 0), (60, 0, 61)]
    #         right red    slightly wrong  planted      right blue   slightly wrong planted      half right
    found = predict(coloured(shades, [0, 0, 2, 2, 1, 0, 0]))
    assert found.mistakes().tolist() == [2, 5, 1, 6, 4]
    assert found.probabilities[2] > 0.99 > found.probabilities[1]
    assert found.successes(5).tolist() == [0, 3]
    assert found.num_images == 7 and found.top1 == pytest.approx(200 / 7) and found.top5 == 100.0


def test_equally_sure_mistakes_follow_loss_then_order():
    same = {
        "targets": np.array([0, 0, 0]),
        "predicted": np.array([1, 1, 1]),
        "probabilities": np.array([0.5, 0.5, 0.5]),
    }
    found = Predictions(
        classes=COLOURS, indices=np.arange(3), losses=np.array([1.0, 2.0, 1.0]), correct_in_top5=3, **same
    )
    assert found.mistakes().tolist() == [1, 0, 2]


def test_counts_equal_a_direct_count():
    random = np.random.default_rng(0)
    shades = random.integers(0, 255, (60, 3)).tolist()
    targets = random.integers(0, 3, 60).tolist()
    images = coloured([tuple(shade) for shade in shades], targets)
    found = predict(images)
    logits = ColourNetwork()(torch.stack([PREPROCESS(images.load(index)) for index in range(60)])).double()
    losses = nn.functional.cross_entropy(logits, torch.tensor(targets), reduction="none")
    assert found.losses == pytest.approx(losses.numpy(), rel=1e-5)
    assert found.predicted.tolist() == logits.argmax(1).tolist() and found.targets.tolist() == targets

    matrix = found.confusion_matrix([0, 1, 2])
    for row in range(3):
        for column in range(3):
            assert matrix[row, column] == sum(
                target == row and predicted == column
                for target, predicted in zip(targets, found.predicted, strict=True)
            )
    assert matrix.sum() == 60
    for index, row in enumerate(found.by_class()):
        counts = ClassCounts(images=matrix[index].sum(), called=matrix[:, index].sum(), correct=matrix[index, index])
        assert (row.name, row.counts) == (COLOURS[index], counts)
        assert row.top_confusion is not None and row.top_confusion.count == max(
            matrix[index, other] for other in range(3) if other != index
        )
    assert sum(row.count for row in found.confusions()) == len(found.mistakes())
    assert found.confusion_matrix([2, 0]).tolist() == [[matrix[2, 2], matrix[2, 0]], [matrix[0, 2], matrix[0, 0]]]


def test_a_class_without_images_has_no_recall():
    found = predict(coloured([(255, 0, 0), (0, 0, 255)], [0, 0]))
    green, blue = found.by_class()[1:]
    assert green.counts.recall is None and green.counts.precision is None and green.top_confusion is None
    assert blue.counts.recall is None and blue.counts.precision == 0.0
    assert found.confusions() == [Confusion(0, 2, 1)]


def test_the_most_confused_classes_of_many():
    targets = np.repeat(np.arange(1000), 2)
    predicted = targets.copy()
    predicted[[2 * 500, 2 * 500 + 1, 2 * 7]] = (900, 900, 8)
    found = Predictions(
        classes=tuple(map(str, range(1000))),
        indices=np.arange(2000),
        targets=targets,
        predicted=predicted,
        probabilities=np.ones(2000),
        losses=np.zeros(2000),
        correct_in_top5=2000,
    )
    assert found.most_confused_classes(4) == [7, 8, 500, 900]
    assert found.confusions() == [Confusion(500, 900, 2), Confusion(7, 8, 1)]
    assert found.confusion_matrix([7, 8, 500, 900]).tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [0, 0, 0, 2], [0, 0, 0, 2]]


def test_unreadable_images_are_skipped_and_listed(tmp_path):
    names = []
    for colour in COLOURS:
        coloured([(200, 0, 0)], [0]).load(0).save(tmp_path / f"{colour}.png")
        names.append(str(tmp_path / f"{colour}.png"))
    (tmp_path / "green.png").write_bytes(b"")
    found = predict(FileImages(names, [0, 1, 2], COLOURS))
    assert found.indices.tolist() == [0, 2] and found.skipped == (names[1],)
    with pytest.raises(ValueError, match="none of the 1 images can be read"):
        predict(FileImages(names[1:2], [1], COLOURS))
