"""What the hub reads of a card: the YAML at its head."""

from rexnet.card.metrics import Figure, eval_results, hub_data_set
from rexnet.card.trained_file import TrainedFile
from rexnet.models.hub import PREFIX
from rexnet.models.published import PUBLISHED


def front_matter(trained: TrainedFile, figures: list[Figure], *, name: str, licence: str | None) -> str:
    """The block with its two lines of hyphens. Results are in it only where the run says on what they were measured,
    data sets and base models only where the hub has them under that name."""
    from huggingface_hub import ModelCardData

    task = "object-detection" if trained.is_detector else "image-classification"
    known = trained.training is not None
    data_set = hub_data_set(trained)
    card = ModelCardData(
        library_name="rexnet",
        pipeline_tag=task,
        tags=["rexnet", "pytorch", task, *_more_tags(trained)],
        license=licence,
        base_model=base_model(trained),
        datasets=[data_set] if data_set else None,
        metrics=list(dict.fromkeys(figure.metric for figure in figures)) if known and figures else None,
        model_name=name,
        eval_results=eval_results(trained, figures) if known and figures else None,
    )
    return f"---\n{card.to_yaml()}\n---\n"


def starting_weights(trained: TrainedFile) -> str | None:
    """--weights of the run."""
    return trained.training.option("network", "weights") if trained.training else None


def base_model(trained: TrainedFile) -> str | None:
    """The hub's name of what the training started from, where it is from there."""
    weights = starting_weights(trained)
    if weights in PUBLISHED and PUBLISHED[weights].host == "hugging-face":
        return f"timm/{weights}"
    if weights and weights.startswith(PREFIX):
        return weights.removeprefix(PREFIX).partition("@")[0]
    return None


def _more_tags(trained: TrainedFile) -> list[str]:
    if not trained.is_detector:
        return [trained.network]
    kind = trained.content["detector"]["kind"]
    return [kind.replace("_", "-"), *(["instance-segmentation"] if kind == "mask_rcnn" else [])]
