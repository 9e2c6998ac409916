"""The page in a real browser, in front of a real server of hand-made networks."""

import io
import re

import pytest
from PIL import Image

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
from playwright.sync_api import expect

from tests.serve.page.browsing import CANVAS, DETECTED, choose, files, pixel, png, tab, with_detector


def test_classes_have_bars_and_collapsed_times(open_page):
    page = open_page()
    choose(page, png())
    rows = page.locator(".classes li")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text("bright")
    value = float(rows.first.locator(".value").text_content().removesuffix("\u00a0%"))
    bar = rows.first.locator(".bar")
    assert 50 < value < 100
    fraction = bar.evaluate("bar => Number(bar.style.getPropertyValue('--fraction'))")
    assert fraction == pytest.approx(value / 100, abs=1e-3)
    expect(page.locator(".details dl")).to_be_hidden()
    page.get_by_text("Details").click()
    expect(page.locator(".details dl")).to_contain_text(re.compile(r"Network\s*[\d.]+ ms.*Decoding.*Waiting.*Total"))
    expect(page.locator("#status")).to_contain_text("light: bright")
    expect(page.locator(CANVAS)).to_have_attribute("aria-label", re.compile(r"photo\.png: bright, [\d.]+\s%"))


@pytest.mark.parametrize("event", ["paste", "drop"])
def test_images_can_be_pasted_and_dropped(open_page, event):
    page = open_page()
    files(page, event, "sent.png", "image/png", png())
    expect(page.locator(".classes").first).to_contain_text("bright")
    expect(page.locator("#entries button")).to_contain_text("sent.png")
    files(page, event, "notes.pdf", "application/pdf", b"%PDF")
    expect(page.get_by_role("alert")).to_have_text(re.compile("notes.pdf is not an image but application/pdf"))
    files(page, event, "next.png", "image/png", png())
    expect(page.locator("#trouble")).to_be_hidden()
    expect(page.locator("#entries button")).to_have_count(2)


def test_the_zone_shows_that_a_file_would_be_taken(open_page):
    page = open_page()
    files(page, "dragenter", "a.png", "image/png", b"")
    expect(page.locator("#drop")).to_have_class(re.compile("over"))
    files(page, "dragleave", "a.png", "image/png", b"")
    expect(page.locator("#drop")).not_to_have_class(re.compile("over"))


def test_the_example_is_an_image_like_any_other(open_page):
    page = open_page()
    page.get_by_role("button", name="Try an example").click()
    expect(page.locator(".classes").first).to_contain_text("bright")
    expect(page.locator("#entries button")).to_contain_text("example.jpg")
    assert page.eval_on_selector(CANVAS, "canvas => canvas.width / canvas.height") == pytest.approx(4 / 3)


def test_the_camera_takes_a_photo_and_is_released(open_page):
    page = open_page()
    page.click("#camera-open")
    page.click("#camera-shoot")
    expect(page.locator("#camera")).to_be_hidden()
    expect(page.locator(".classes").first).to_be_visible()
    expect(page.locator("#entries button")).to_contain_text("camera")
    assert page.evaluate("document.querySelector('video').srcObject") is None


def test_a_denied_camera_is_explained(open_page):
    refuse = "navigator.mediaDevices.getUserMedia = () => Promise.reject(new DOMException('', 'NotAllowedError'))"
    page = open_page(prepare=lambda page: page.add_init_script(refuse))
    page.click("#camera-open")
    expect(page.locator("#camera [role=alert]")).to_have_text("The browser was not allowed to use the camera.")
    expect(page.locator("#camera-shoot")).to_be_disabled()
    page.keyboard.press("Escape")
    expect(page.locator("#camera")).to_be_hidden()


def test_the_explanation_highlights_the_decisive_quarter(open_page):
    page = open_page()
    choose(page, png())
    why = page.get_by_role("button", name="Why bright?")
    why.click()
    expect(why).to_have_attribute("aria-pressed", "true")
    expect(page.locator(".why p").first).to_contain_text("support bright")
    slider = page.get_by_label("Strength of the overlay")
    slider.fill("100")
    red, green, blue = pixel(page, 0.75, 0.75)
    assert red > 240 and green > 200 and blue < 220, "much heat on white is a light yellow"
    dark = pixel(page, 0.25, 0.25)
    assert max(dark) < 60 and dark[2] > dark[1], "little heat on black is a dark violet"
    slider.fill("0")
    assert pixel(page, 0.75, 0.75) == [255, 255, 255] and pixel(page, 0.25, 0.25) == [0, 0, 0]
    slider.fill("100")
    why.click()
    assert pixel(page, 0.75, 0.75) == [255, 255, 255]
    expect(page.locator(".why p").first).to_be_hidden()


def test_the_explanation_of_any_class_and_its_margin(open_page):
    page = open_page()
    choose(page, png((200, 100), light=(100, 50, 150, 100)))
    page.get_by_role("button", name="Why bright?").click()
    words = page.locator(".why p").first
    expect(words).to_contain_text(
        re.compile(r"support bright \([\d.]+\s%\)\. The network does not see the dark margin")
    )
    page.locator(".class", has_text="dark").click()
    expect(words).to_contain_text(re.compile(r"Nothing in the image supports dark \([\d.]+\s%\)"))
    expect(page.get_by_role("button", name="Why dark?")).to_have_attribute("aria-pressed", "true")
    expect(page.locator(".class[aria-pressed=true]")).to_have_count(1)
    expect(page.get_by_role("button", name="Why ")).to_have_count(1)


def test_a_failed_explanation_shows_the_servers_error(open_page):
    page = open_page()
    choose(page, png())
    page.route("**/explain?*", lambda route: route.fulfill(status=429, json={"error": "light is busy"}))
    page.get_by_role("button", name="Why bright?").click()
    expect(page.locator(".why .error")).to_have_text("Light is busy.")
    expect(page.get_by_role("button", name="Why bright?")).to_have_attribute("aria-pressed", "false")
    page.unroute("**/explain?*")
    page.get_by_role("button", name="Why bright?").click()
    expect(page.locator(".why")).to_contain_text("support bright")


def test_boxes_and_masks_are_where_the_detector_found_them(open_page):
    page = open_page(prepare=with_detector)
    choose(page, png((200, 100), light=(0, 0, 0, 0)))
    tab(page, "pets").click()
    boxes = page.locator(".box")
    expect(boxes).to_have_count(2)
    canvas = page.locator(CANVAS).bounding_box()
    cat = page.locator(".box", has_text="cat 90 %").bounding_box()
    assert cat["x"] - canvas["x"] == pytest.approx(0.1 * canvas["width"], abs=1)
    assert cat["y"] - canvas["y"] == pytest.approx(0.4 * canvas["height"], abs=1)
    assert cat["width"] == pytest.approx(0.2 * canvas["width"], abs=1)
    assert cat["height"] == pytest.approx(0.5 * canvas["height"], abs=1)
    assert max(pixel(page, 35 / 200, 65 / 100)) > 40, "inside the mask"
    for across, down in ((28, 65), (42, 65), (35, 47), (35, 83), (65, 35)):
        assert pixel(page, across / 200, down / 100) == [0, 0, 0], "outside"
    page.get_by_label("Masks").uncheck()
    assert pixel(page, 35 / 200, 65 / 100) == [0, 0, 0]


def test_masks_have_the_colour_of_their_object_and_not_of_their_class(open_page):
    page = open_page(prepare=with_detector)
    choose(page, png((200, 100)))
    tab(page, "pets").click()
    page.get_by_label("Score threshold").fill("0.2")
    expect(page.locator(".box")).to_have_count(3)
    colours = page.eval_on_selector_all(".box", "all => all.map((box) => getComputedStyle(box).borderTopColor)")
    swatches = page.eval_on_selector_all(".swatch", "all => all.map((e) => getComputedStyle(e).backgroundColor)")
    assert len(set(colours)) == 3 and colours[::-1] == swatches


def test_labels_cover_neither_small_objects_nor_other_labels(open_page):
    small = [
        {"class": "cat", "score": 0.9 - place / 100, "box": [x, y, x + 8, y + 8], "mask": None}
        for place, (x, y) in enumerate((x, y) for x in (0, 40, 60, 90, 192) for y in (0, 30, 41, 92))
    ]
    whole = {"class": "dog", "score": 0.95, "box": [0, 0, 200, 100], "mask": None}
    page = open_page(prepare=lambda page: with_detector(page, [whole, *small]))
    choose(page, png((200, 100)))
    tab(page, "pets").click()
    expect(page.locator(".box")).to_have_count(21)
    for width in (1280, 700):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(300)
        boxes, labels = (
            [box for one in page.locator(selector).all() if (box := one.bounding_box()) is not None]
            for selector in (".box", ".box span")
        )
        assert len(labels) >= 6
        objects = [box for box in boxes if box["width"] < 100]
        for place, label in enumerate(labels):
            for other in (*objects, *labels[:place]):
                apart = (
                    label["x"] + label["width"] <= other["x"] + 1.5
                    or other["x"] + other["width"] <= label["x"] + 1.5
                    or label["y"] + label["height"] <= other["y"] + 1.5
                    or other["y"] + other["height"] <= label["y"] + 1.5
                )
                assert apart


def test_the_best_object_below_the_threshold_is_offered_without_changing_it(open_page):
    page = open_page(prepare=lambda page: with_detector(page, [{**DETECTED["objects"][0], "score": 0.404}]))
    choose(page, png((200, 100)), name="one.png")
    tab(page, "pets").click()
    expect(page.locator("#panel p").first).to_have_text("No object above 50 %; best: cat, 40 %.")
    expect(tab(page, "pets")).to_contain_text("No object above 50 %; best: cat, 40 %.")
    page.get_by_role("button", name="Show the best: cat, 40 %").click()
    expect(page.locator(".box")).to_have_count(1)
    expect(page.get_by_label("Score threshold")).to_have_value("0.4")
    choose(page, png((200, 100)), name="two.png")
    expect(page.locator(".box")).to_have_count(1)
    expect(page.get_by_label("Score threshold")).to_have_value("0.4")


def test_the_score_threshold_starts_at_that_of_the_model(open_page):
    weak = [{**DETECTED["objects"][0], "score": score} for score in (0.404, 0.02)]
    page = open_page(prepare=lambda page: with_detector(page, weak, score_threshold=0.03))
    with page.expect_request("**/predict?model=pets*") as requested:
        choose(page, png((200, 100)), name="one.png")
    assert "min_score=0.03" in requested.value.url
    tab(page, "pets").click()
    expect(page.get_by_label("Score threshold")).to_have_value("0.03")
    expect(page.locator(".box")).to_have_count(1)


def test_the_score_threshold_and_a_single_object(open_page):
    page = open_page(prepare=with_detector)
    choose(page, png((200, 100)))
    tab(page, "pets").click()
    words = page.locator("#panel p").first
    expect(words).to_have_text("2 objects: cat, dog. 1 below 50 %.")
    page.get_by_label("Score threshold").fill("0.2")
    expect(words).to_have_text("3 objects: cat, dog (2).")
    expect(tab(page, "pets")).to_contain_text("3 objects: cat, dog (2).")
    expect(page.locator(".box")).to_have_count(3)
    one = page.locator(".objects button", has_text="60.0 %")
    one.click()
    expect(page.locator(".box")).to_have_count(1)
    expect(one).to_have_attribute("aria-pressed", "true")
    expect(one).to_be_focused()
    one.click()
    expect(page.locator(".box")).to_have_count(3)
    page.get_by_label("Score threshold").fill("1")
    expect(words).to_have_text("No object above 100 %; best: cat, 90 %.")


def test_models_answer_in_tabs_for_the_same_image(open_page):
    page = open_page(prepare=with_detector)
    choose(page, png())
    expect(page.get_by_role("tab")).to_have_count(3)
    widths = page.eval_on_selector_all("[role=tab]", "tabs => tabs.map(tab => tab.offsetWidth)")
    assert max(widths) - min(widths) <= 1, "the last one alone in its row is not stretched"
    expect(tab(page, "light")).to_contain_text(re.compile(r"bright, [\d.]+\s%"))
    expect(tab(page, "pets")).to_contain_text("2 objects: cat, dog.")
    expect(page.locator("#answers canvas")).to_have_count(1)
    page.get_by_role("button", name="Why bright?").click()
    expect(page.locator(".why")).to_contain_text("support bright")
    tab(page, "pets").click()
    expect(page.locator(".box")).to_have_count(2)
    assert pixel(page, 0.25, 0.9) == [0, 0, 0], "no heat of the other model"
    tab(page, "light").click()
    expect(page.locator(".why")).to_contain_text("support bright")
    expect(page.locator(".box")).to_have_count(0)
    assert pixel(page, 0.25, 0.9) != [0, 0, 0]


def test_the_history_shows_answers_again_without_asking(open_page):
    page = open_page()
    asked = []
    page.on("request", lambda request: "/predict" in request.url and asked.append(request.url))
    for name in ("one.png", "two.png"):
        choose(page, png(), name=name)
        expect(page.locator(CANVAS)).to_have_attribute("aria-label", re.compile(name))
        expect(page.locator(".classes")).to_be_visible()
    entries = page.locator("#entries button")
    expect(entries).to_have_count(2)
    entries.filter(has_text="one.png").click()
    expect(page.locator(CANVAS)).to_have_attribute("aria-label", re.compile(r"one\.png: bright"))
    expect(entries.filter(has_text="one.png")).to_have_attribute("aria-current", "true")
    expect(entries.filter(has_text="one.png")).to_be_focused()
    assert len(asked) == 4, "each of the two models once per image"
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#history")).to_be_hidden()
    expect(page.locator("#answers")).to_be_hidden()


def test_errors_of_the_server_are_shown(open_page):
    page = open_page()
    choose(page, png()[:20], name="broken.png")
    expect(page.locator("#panel [role=alert]")).to_contain_text("cannot be read")
    expect(page.get_by_role("button", name="Try again")).to_have_count(0)
    choose(page, png((1100, 1000)), name="large.png")
    expect(page.locator("#panel [role=alert]")).to_contain_text("1,100 x 1,000 pixels")
    expect(page.locator("#entries")).to_contain_text("no preview")


def test_a_request_to_an_unreachable_server_can_be_repeated(open_page):
    page = open_page()
    page.route("**/predict?*", lambda route: route.abort())
    choose(page, png())
    expect(page.locator("#panel [role=alert]")).to_contain_text("cannot be reached")
    page.unroute("**/predict?*")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".classes")).to_contain_text("bright")


def test_names_are_text_and_never_markup(open_page):
    page = open_page()
    choose(page, png(), name="<img src=x onerror=alert(1)>.png")
    tab(page, "names").click()
    expect(page.locator(".classes .name").first).to_have_text("<b>bright</b>&amp;")
    expect(page.locator("#entries .name")).to_have_text("<img src=x onerror=alert(1)>.png")
    page.get_by_role("button", name="Why <b>bright</b>&amp;?").click()
    expect(page.locator(".why")).to_contain_text("support <b>bright</b>&amp;")
    assert page.locator("#answers b, #entries img").count() == 0


@pytest.mark.parametrize("orientation", range(1, 9))
def test_rotated_photos_are_shown_as_the_server_reads_them(open_page, orientation):
    image = Image.new("RGB", (160, 96))
    image.paste("white", (0, 0, 40, 24))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    image.save(stream, "jpeg", exif=exif)
    page = open_page()
    with page.expect_response("**/predict?*") as answer:
        choose(page, stream.getvalue(), name="turned.jpg", kind="image/jpeg")
    expect(page.locator(".classes")).to_be_visible()
    [result] = answer.value.json()["results"]
    shown = page.eval_on_selector(CANVAS, "canvas => canvas.width / canvas.height")
    assert shown == pytest.approx(result["width"] / result["height"])
    # A mark at the stored top left goes where EXIF's table says.
    right, bottom = orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8)
    assert min(pixel(page, 0.95 if right else 0.05, 0.95 if bottom else 0.05)) > 200
