"""What a card says against its model, by what is known of it."""

from rexnet.card.metrics import Figure
from rexnet.card.trained_file import TrainedFile

_FEW_IMAGES = 1000


def limits(trained: TrainedFile, figures: list[Figure]) -> list[str]:
    """Sentences of Markdown."""
    found = [_closed_world(trained)]
    if trained.training is None:
        return [*found, "On what images it works, and how well, has to be measured before it is used for anything."]
    images = trained.metrics.get("val_images")
    if not figures:
        found.append("Nothing was measured yet: the weights are from inside an epoch.")
    elif trained.content.get("split"):
        found.append(
            "The held-back images were drawn at random from the same source as the training images. Images of another "
            "camera, place or time can be much harder, and near-copies on both sides make the figures too good."
        )
    else:
        found.append("Images of another source than the held-back ones can be much harder; that was not measured.")
    if figures and trained.is_best:
        found.append("The epoch was chosen by the very figures above, which makes them a little too good.")
    if images and images < _FEW_IMAGES:
        found.append(f"{images:,} images are few to measure on: small differences from another model mean nothing.")
    epochs = trained.training.option("schedule", "epochs")
    if not trained.training.summary:
        found.append(f"The training had not ended ({len(trained.training.rows)} of {epochs} epochs).")
    if skipped := len(trained.training.summary.get("skipped", ())):
        found.append(f"{skipped:,} images could not be read and were left out.")
    return [*found, "Whether it treats groups of people alike, and what an attacker can make it say, was not measured."]


def _closed_world(trained: TrainedFile) -> str:
    if trained.is_detector:
        return "It finds nothing but its classes, and objects much smaller or larger than in training badly."
    return (
        "It names one of its classes for every image, also for one that shows none of them. Its probabilities rank the "
        "classes; whether 90 % means right nine times in ten was not measured."
    )
