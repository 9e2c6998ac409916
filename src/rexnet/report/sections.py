"""Sections of a report that show what a network does: confusions, classes, mistakes, where the time went."""

from collections.abc import Collection, Sequence
from pathlib import PurePath

from rexnet.report.evidence import Evidence, Specimen
from rexnet.report.images import Picture
from rexnet.report.markup import Markup, join, tag
from rexnet.report.predictions import ClassFigures, Predictions
from rexnet.training.run_record import RunRecord, percent

MAX_MATRIX_CLASSES = 30
MAX_CLASS_ROWS = 1000
_MAX_PAIRS = 15
_OPEN_CLASSES = 30
"""A table of more classes is folded."""


def table(
    heads: Sequence[object], rows: Sequence[Sequence[object]], *, caption: str, words: Collection[int] = ()
) -> Markup:
    """A table whose first column heads its rows. The columns numbered in `words` are set to the left, other figures to
    the right. It scrolls by itself where the page is too narrow."""
    kinds = ["words" if number in words else None for number in range(len(heads))]
    head = tag("tr", *(tag("th", text, scope="col", class_=kind) for text, kind in zip(heads, kinds, strict=True)))
    body = [
        tag(
            "tr",
            tag("th", row[0], scope="row"),
            *(tag("td", cell, class_=kind) for cell, kind in zip(row[1:], kinds[1:], strict=True)),
        )
        for row in rows
    ]
    whole = tag("table", tag("caption", caption), tag("thead", head), tag("tbody", *body))
    return tag("div", whole, class_="scroll", role="region", aria_label=caption, tabindex=0)


def duration(seconds: float) -> str:
    """In the unit that suits."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def evidence_sections(evidence: Evidence, heading: str) -> list[Markup]:
    """None of them where there are no predictions. `heading` is their element, such as "h2"."""
    predictions = evidence.predictions
    if predictions is None:
        return []
    return [
        _mistakes(evidence, predictions, heading),
        _successes(evidence, heading),
        _confusions(predictions, heading),
        _classes(predictions, heading),
    ]


def _mistakes(evidence: Evidence, predictions: Predictions, heading: str) -> Markup:
    count = len(predictions.mistakes())
    after = f" after epoch {evidence.epoch}" if evidence.epoch is not None else ""
    text = (
        f"The best network{after} names {predictions.num_images - count:,} of {predictions.num_images:,} "
        f"{evidence.data} rightly (top-1 {predictions.top1:.2f} %, top-5 {predictions.top5:.2f} %). "
    )
    if evidence.mistakes:
        shown = "its" if count == len(evidence.mistakes) else f"the {len(evidence.mistakes)} of its {count:,}"
        text += (
            f"These are {shown} mistakes it was most sure of, the surest first: wrong labels are found here. The heat "
            f"maps show where it sees a class (Grad-CAM, {evidence.heat_cells} x {evidence.heat_cells} cells)."
        )
    cards = [_card(specimen) for specimen in evidence.mistakes]
    gallery = tag("ol", *cards, class_="gallery") if cards else None
    return tag("section", tag(heading, "Most confident mistakes"), tag("p", text), gallery)


def _successes(evidence: Evidence, heading: str) -> Markup:
    if not evidence.successes:
        return Markup("")
    text = "The images it is surest of, one of a class, and where it sees the class."
    cards = [_card(specimen) for specimen in evidence.successes]
    return tag(
        "section", tag(heading, "Where it looks when it is right"), tag("p", text), tag("ol", *cards, class_="gallery")
    )


def _card(specimen: Specimen) -> Markup:
    wrong = specimen.target != specimen.predicted
    pictures = [_image(specimen.picture, f"a picture of {specimen.target}", "the picture" if specimen.heat else None)]
    if specimen.heat is not None:
        pictures.append(_image(specimen.heat, f"heat map of {specimen.predicted}", f"sees {specimen.predicted}"))
    if specimen.heat_target is not None:
        pictures.append(_image(specimen.heat_target, f"heat map of {specimen.target}", f"sees {specimen.target}"))
    said = tag("b", specimen.predicted, class_="wrong" if wrong else "right")
    sure = tag("span", f"{100 * specimen.probability:.1f} %", class_="whole")
    is_called = ("is ", tag("b", specimen.target), ", called ") if wrong else ()
    caption = join(*is_called, said, " ", sure)
    path = PurePath(specimen.name)
    name = tag("small", path.parent.name, "/", tag("wbr"), path.name, title=specimen.name)
    figure = tag("figure", tag("div", *pictures, class_="pictures"), tag("figcaption", caption, name))
    return tag("li", figure, class_=f"wide{len(pictures)}")


def _image(picture: Picture, alt: str, below: str | None) -> Markup:
    shown = tag("img", src=picture.uri, alt=alt, class_="pixelated" if picture.is_small else None)
    return tag("span", shown, below and tag("span", below, class_="below"))


def _confusions(predictions: Predictions, heading: str) -> Markup:
    chosen = predictions.most_confused_classes(MAX_MATRIX_CLASSES)
    counts = predictions.confusion_matrix(chosen)
    names = [predictions.classes[index] for index in chosen]
    totals = [max(int((predictions.targets == index).sum()), 1) for index in chosen]
    which = (
        f"The {len(chosen)} of {len(predictions.classes):,} classes with most mistakes. "
        if len(chosen) < len(predictions.classes)
        else ""
    )
    head = tag("tr", tag("td"), *(tag("th", tag("span", name, title=name), scope="col") for name in names))
    body = [
        tag(
            "tr",
            tag("th", tag("span", name, title=name), scope="row"),
            *(_cell(int(count), total, row == column) for column, count in enumerate(line)),
        )
        for row, (name, line, total) in enumerate(zip(names, counts, totals, strict=True))
    ]
    caption = f"{which}Rows: what the images are. Columns: what they were called."
    matrix = tag("table", tag("caption", caption), tag("thead", head), tag("tbody", *body), class_="matrix")
    frame = tag("div", matrix, class_="scroll", role="region", aria_label="Confusion matrix", tabindex=0)
    pairs = [
        [predictions.classes[row.target], predictions.classes[row.predicted], f"{row.count:,}"]
        for row in predictions.confusions()[:_MAX_PAIRS]
    ]
    often = table(["is", "called", "images"], pairs, caption="Most frequent confusions", words=[1]) if pairs else None
    return tag("section", tag(heading, "Confusion matrix"), tag("div", frame, often, class_="beside"))


def _cell(count: int, total: int, right: bool) -> Markup:
    if not count:
        return tag("td")
    share = count / total
    kind = ("right" if right else "wrong") + (" strong" if share > 0.9 else "")
    return tag("td", f"{count:,}", class_=kind, style=f"--share:{share:.2f}")


def _classes(predictions: Predictions, heading: str) -> Markup:
    figures = sorted(predictions.by_class(), key=lambda row: (row.counts.recall is None, row.counts.recall, row.name))
    rows = [_class_row(row, predictions.classes) for row in figures[:MAX_CLASS_ROWS]]
    heads = ["class", "images", "right", "recall", "precision", "most often taken for"]
    caption = (
        "The least recognised class first. Recall: share of its images that were named so; precision: share of what "
        "was named so that is it."
    )
    content = table(heads, rows, caption=caption, words=[5])
    if len(rows) > _OPEN_CLASSES:
        which = "All" if len(rows) == len(figures) else f"{len(rows):,} of"
        content = tag("details", tag("summary", f"{which} {len(figures):,} classes"), content)
    return tag("section", tag(heading, "Classes"), content)


def _class_row(row: ClassFigures, classes: Sequence[str]) -> list[object]:
    taken_for = f"{classes[row.taken_for.predicted]} ({row.taken_for.count:,})" if row.taken_for else "-"
    counts = row.counts
    recall = "-" if counts.recall is None else percent(counts.recall)
    meter = None if counts.recall is None else tag("span", class_="meter", style=f"--share:{counts.recall:.2f}")
    precision = "-" if counts.precision is None else percent(counts.precision)
    return [row.name, f"{counts.images:,}", f"{counts.correct:,}", join(recall, meter), precision, taken_for]


def time_section(record: RunRecord, heading: str) -> Markup:
    """Where the time of the whole epochs went."""
    if not record.rows:
        return Markup("")
    spent = record.time_spent()
    whole = max(spent.total, 1e-9)
    together = "computing, training" if spent.validating is not None else "computing, training and validation"
    parts = {"waiting for images": spent.waiting, together: spent.computing, "validation": spent.validating or 0.0}
    bar = tag(
        "div",
        *(
            tag("span", class_=f"colour{n}", style=f"width:{100 * s / whole:.1f}%")
            for n, s in enumerate(parts.values())
        ),
        class_="bar",
        aria_hidden="true",
    )
    legend = tag(
        "p",
        *(
            tag("span", tag("span", class_=f"swatch colour{number}"), f"{name} {percent(seconds / whole)}")
            for number, (name, seconds) in enumerate(parts.items())
        ),
        class_="legend",
    )
    epochs = f"{len(record.rows)} epochs" if len(record.rows) > 1 else "One epoch"
    sentence = f"{epochs} took {duration(spent.total)}. {spent.bottleneck(record.options()['run']['workers'])}"
    return tag("section", tag(heading, "Where the time went"), tag("p", sentence), bar, legend)
