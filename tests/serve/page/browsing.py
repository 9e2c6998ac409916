"""Actions on the page, and what it shows."""

import io
import re

import pytest
from PIL import Image

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
from playwright.sync_api import Locator, Page, Route

CANVAS = "#stage canvas"


def png(size: tuple[int, int] = (100, 100), *, light: tuple[int, int, int, int] = (50, 50, 100, 100)) -> bytes:
    """Black, and white in the box `light`."""
    image = Image.new("RGB", size)
    image.paste("white", light)
    stream = io.BytesIO()
    image.save(stream, "png")
    return stream.getvalue()


def choose(page: Page, data: bytes, *, name: str = "photo.png", kind: str = "image/png") -> None:
    page.set_input_files("#file", {"name": name, "mimeType": kind, "buffer": data})


def tab(page: Page, name: str) -> Locator:
    return page.get_by_role("tab", name=re.compile(f"^{name}"))


def pixel(page: Page, across: float, down: float) -> list[int]:
    """Red, green, blue at a place of the image, as fractions of its width and height."""
    return page.eval_on_selector(
        CANVAS,
        "(canvas, [x, y]) => [...canvas.getContext('2d').getImageData("
        "Math.floor(x * canvas.width), Math.floor(y * canvas.height), 1, 1).data].slice(0, 3)",
        [across, down],
    )


def files(page: Page, event: str, name: str, kind: str, data: bytes) -> None:
    """Pastes or drops a file onto the page."""
    page.evaluate(
        """([event, name, kind, data]) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([new Uint8Array(data)], name, {type: kind}));
          const options = {bubbles: true, cancelable: true};
          document.body.dispatchEvent(event === "paste"
            ? new ClipboardEvent("paste", {...options, clipboardData: transfer})
            : new DragEvent(event, {...options, dataTransfer: transfer}));
        }""",
        [event, name, kind, list(data)],
    )


DETECTED = {
    "width": 200,
    "height": 100,
    "milliseconds": {"decode": 1, "wait": 0, "compute": 2},
    "objects": [
        {"class": "cat", "score": 0.9, "box": [20, 40, 60, 90], "mask": {"size": [100, 200], "counts": []}},
        {"class": "dog", "score": 0.6, "box": [150, 0, 200, 50], "mask": {"size": [100, 200], "counts": [20000]}},
        {"class": "dog", "score": 0.3, "box": [0, 0, 10, 10], "mask": {"size": [100, 200], "counts": [0, 5, 19995]}},
    ],
}
# Columns 30 to 39, rows 50 to 79: an RLE goes down the columns.
DETECTED["objects"][0]["mask"]["counts"] = [3050, *[30, 70] * 9, 30, 20000 - 3950 - 30]


def with_detector(page: Page, objects: list | None = None, *, score_threshold: float = 0.5) -> None:
    """Make the server seem to have a detector as well, which finds these objects."""
    found = {**DETECTED, "objects": DETECTED["objects"] if objects is None else objects}

    def models(route: Route) -> None:
        answer = route.fetch().json()
        facts = {"kind": "detector", "classes": ["cat", "dog"], "masks": True, "explains": False, "image_size_px": None}
        facts["score_threshold"] = score_threshold
        answer["models"].append({**answer["models"][0], **facts, "name": "pets"})
        route.fulfill(json=answer)

    page.route("**/models", models)
    page.route("**/predict?model=pets*", lambda route: route.fulfill(json={"results": [found]}))
