"""Sections of a report that show what a network does: confusions, classes, mistakes, where the time went."""

from collections.abc import Sequence
from pathlib import PurePath

from rexnet.training.evidence import Evidence, Specimen
from rexnet.training.markup import Markup, join, tag
from rexnet.training.predictions import ClassFigures, Predictions
from rexnet.training.report_pictures import THUMBNAIL_PX, Picture
from rexnet.training.run_record import RunRecord

MAX_MATRIX_CLASSES = 30
_MAX_PAIRS = 15
_OPEN_CLASSES = 30
"""A table of more classes is folded."""


def table(
    heads: Sequence[object], rows: Sequence[Sequence[object]], *, caption: str, figures: bool = True
) -> Markup:
    """A table whose first column heads its rows; `figures` sets the others to the right. It scrolls by itself where
    the page is too narrow."""
    head = tag("tr", *(tag("th", text, scope="col") for text in heads))
    body = [tag("tr", tag("th", row[0], scope="row"), *(tag("td", cell) for cell in row[1:])) for row in rows]
    whole = tag("table", tag("caption", caption), tag("thead", head), tag("tbody", *body))
    kind = "scroll figures" if figures else "scroll"
    return tag("div", whole, class_=kind, role="region", aria_label=caption, tabindex=0)


def duration(seconds: float) -> str:
    """In the unit that suits."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def evidence_sections(evidence: Evidence) -> list[Markup]:
    """None of them where there are no predictions."""
    predictions = evidence.predictions
    if predictions is None:
        return []
    return [
        _mistakes(evidence, predictions),
        _successes(evidence),
        _confusions(predictions),
        _classes(predictions),
    ]


def _mistakes(evidence: Evidence, predictions: Predictions) -> Markup:
    count = len(predictions.mistakes())
    after = f" after epoch {evidence.epoch}" if evidence.epoch is not None else ""
    text = (
        f"The best network{after} names {predictions.num_images - count:,} of {predictions.num_images:,} images rightly "
        f"(top-1 {predictions.top1:.2f} %, top-5 {predictions.top5:.2f} %) of {evidence.data}. "
    )
    if count:
        shown = "its" if count == len(evidence.mistakes) else f"the {len(evidence.mistakes)} of its {count:,}"
        text += (
            f"These are {shown} mistakes it was most sure of, the surest first: wrong labels are found here. The heat "
            "maps show where it sees a class (Grad-CAM)."
        )
    cards = [_card(specimen) for specimen in evidence.mistakes]
    gallery = tag("ol", *cards, class_="gallery") if cards else None
    return tag("section", tag("h2", "Most confident mistakes"), tag("p", text), gallery)


def _successes(evidence: Evidence) -> Markup:
    if not evidence.successes:
        return Markup("")
    text = "Of each class the image it is surest of, and where it sees the class."
    cards = [_card(specimen) for specimen in evidence.successes]
    return tag(
        "section", tag("h2", "Where it looks when it is right"), tag("p", text), tag("ol", *cards, class_="gallery")
    )


def _card(specimen: Specimen) -> Markup:
    wrong = specimen.target != specimen.predicted
    pictures = [_image(specimen.picture, f"a picture of {specimen.target}", "the picture")]
    if specimen.heat is not None:
        pictures.append(_image(specimen.heat, f"heat map of {specimen.predicted}", f"sees {specimen.predicted}"))
    if specimen.heat_target is not None:
        pictures.append(_image(specimen.heat_target, f"heat map of {specimen.target}", f"sees {specimen.target}"))
    said = tag("b", specimen.predicted, class_="wrong" if wrong else "right")
    sure = f"{100 * specimen.probability:.1f} %"
    caption = join("is ", tag("b", specimen.target), ", called ", said, f" ({sure})") if wrong else join(said, f" {sure}")
    name = tag("small", "/".join(PurePath(specimen.name).parts[-2:]), title=specimen.name)
    figure = tag("figure", tag("div", *pictures, class_="pictures"), tag("figcaption", caption, name))
    return tag("li", figure, class_=f"wide{len(pictures)}")


def _image(picture: Picture, alt: str, below: str) -> Markup:
    # The longer side fills the frame, whatever the picture's own size.
    scale = THUMBNAIL_PX / max(picture.width_px, picture.height_px)
    width, height = (max(1, round(scale * side)) for side in (picture.width_px, picture.height_px))
    pixelated = "pixelated" if picture.is_small else None
    shown = tag("img", src=picture.uri, alt=alt, width=width, height=height, class_=pixelated)
    return tag("span", tag("span", shown, class_="frame"), tag("span", below, class_="below"))


def _confusions(predictions: Predictions) -> Markup:
    chosen = predictions.most_confused_classes(MAX_MATRIX_CLASSES)
    counts = predictions.confusion_matrix(chosen)
    names = [predictions.classes[index] for index in chosen]
    totals = [max(int((predictions.targets == index).sum()), 1) for index in chosen]
    which = (
        f"The {len(chosen)} of {len(predictions.classes):,} classes with most mistakes. "
        if len(chosen) < len(predictions.classes)
        else ""
    )
    head = tag("tr", tag("td"), *(tag("th", tag("span", name), scope="col") for name in names))
    body = [
        tag("tr", tag("th", name, scope="row"), *(_cell(int(n), total, row == column) for column, n in enumerate(line)))
        for row, (name, line, total) in enumerate(zip(names, counts, totals, strict=True))
    ]
    caption = f"{which}Rows: what the images are. Columns: what they were called."
    matrix = tag("table", tag("caption", caption), tag("thead", head), tag("tbody", *body), class_="matrix")
    frame = tag("div", matrix, class_="scroll", role="region", aria_label="Confusion matrix", tabindex=0)
    pairs = [
        [predictions.classes[row.target], predictions.classes[row.predicted], f"{row.count:,}"]
        for row in predictions.confusions()[:_MAX_PAIRS]
    ]
    often = table(["is", "called", "images"], pairs, caption="Most frequent confusions") if pairs else None
    return tag("section", tag("h2", "Confusion matrix"), frame, often)


def _cell(count: int, total: int, right: bool) -> Markup:
    if not count:
        return tag("td")
    share = count / total
    kind = ("right" if right else "wrong") + (" strong" if share > 0.55 else "")
    return tag("td", f"{count:,}", class_=kind, style=f"--share:{share:.2f}")


def _classes(predictions: Predictions) -> Markup:
    figures = sorted(predictions.by_class(), key=lambda row: (row.recall is None, row.recall, row.name))
    rows = [_class_row(row, predictions.classes) for row in figures]
    heads = ["class", "images", "named rightly", "share", "of what was called so", "most often taken for"]
    caption = "Every class, the least recognised first"
    content = table(heads, rows, caption=caption)
    if len(rows) > _OPEN_CLASSES:
        content = tag("details", tag("summary", f"All {len(rows):,} classes"), content)
    return tag("section", tag("h2", "Classes"), content)


def _class_row(row: ClassFigures, classes: Sequence[str]) -> list[object]:
    taken_for = f"{classes[row.taken_for.predicted]} ({row.taken_for.count:,})" if row.taken_for else "–"
    recall = "–" if row.recall is None else f"{row.recall:.0%}"
    meter = None if row.recall is None else tag("span", class_="meter", style=f"--share:{row.recall:.2f}")
    precision = "–" if row.precision is None else f"{row.precision:.0%}"
    return [row.name, f"{row.images:,}", f"{row.correct:,}", join(recall, meter), precision, taken_for]


def time_section(record: RunRecord) -> Markup:
    """Where the time of the whole epochs went."""
    if not record.rows:
        return Markup("")
    spent = record.time_spent()
    whole = max(spent.total, 1e-9)
    together = "computing, training" if spent.validating is not None else "computing, training and validation"
    parts = {"waiting for images": spent.waiting, together: spent.computing, "validation": spent.validating or 0.0}
    bar = tag(
        "div",
        *(tag("span", class_=f"colour{n}", style=f"width:{100 * s / whole:.1f}%") for n, s in enumerate(parts.values())),
        class_="bar",
        aria_hidden="true",
    )
    legend = tag(
        "p",
        *(
            tag("span", tag("span", class_=f"swatch colour{number}"), f"{name} {seconds / whole:.0%}")
            for number, (name, seconds) in enumerate(parts.items())
        ),
        class_="legend",
    )
    epochs = f"{len(record.rows)} epochs" if len(record.rows) > 1 else "One epoch"
    sentence = f"{epochs} took {duration(spent.total)}. {spent.bottleneck(record.options()['run']['workers'])}"
    return tag("section", tag("h2", "Where the time went"), tag("p", sentence), bar, legend)
