"""Access without a mouse, without seeing, on a phone and with an API key."""

import re
from itertools import pairwise

import pytest

pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
from playwright.sync_api import expect

from tests.serve.page.browsing import choose, png, tab, with_detector
from tests.serve.servers import config, listening

KEY = "correct-horse"

# The least contrast of all visible text, with the background that is painted behind it.
CONTRAST = """() => {
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const luminance = (colour) => {
    const [r, g, b] = colour.map((value) => {
      const fraction = value / 255;
      return fraction <= 0.04045 ? fraction / 12.92 : ((fraction + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const [r, g, b, alpha = 1] = channels(getComputedStyle(at).backgroundColor);
      if (alpha > 0.8) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
    const lights = [channels(getComputedStyle(element).color).slice(0, 3), behind(element)].map(luminance);
    found.push([(Math.max(...lights) + 0.05) / (Math.min(...lights) + 0.05), walker.currentNode.data]);
  }
  return found.sort(([a], [b]) => a - b);
}"""

FULL = {"width": 360, "height": 740}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_contrast(open_page, scheme):
    page = open_page(prepare=with_detector, color_scheme=scheme)
    choose(page, b"broken", name="broken.png")
    expect(page.locator("#panel [role=alert]")).to_be_visible()
    choose(page, b"", name="notes.txt", kind="text/plain")
    expect(page.locator("#trouble")).to_be_visible()
    texts = page.evaluate(CONTRAST)
    choose(page, png())
    page.get_by_role("button", name="Why bright?").click()
    expect(page.locator(".why").first).to_contain_text("support")
    page.get_by_text("Details").click()
    texts += page.evaluate(CONTRAST)
    tab(page, "pets").click()
    page.locator(".objects button").first.click()
    texts += page.evaluate(CONTRAST)
    assert len(texts) > 70
    for ratio, text in texts:
        assert ratio >= 4.5, text
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(18, 22, 28)")


def test_a_phone_needs_no_scrolling_sideways(open_page):
    page = open_page(prepare=with_detector, viewport=FULL)
    choose(page, png((200, 100)), name="a" * 200 + ".png")
    page.get_by_role("button", name="Why bright?").click()
    expect(page.locator(".why").first).to_contain_text("support")
    shown = "main *:not(#status, #status *)"
    for name in ("light", "names", "pets"):
        tab(page, name).click()
        page.get_by_text("Details").click()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        widest = page.eval_on_selector_all(shown, "all => Math.max(...all.map((e) => e.getBoundingClientRect().right))")
        assert widest <= 360
    page.click("#camera-open")
    expect(page.locator("#camera-shoot")).to_be_enabled()
    box = page.locator("#camera").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 360
    heights = page.eval_on_selector_all(
        "button:not([hidden])", "all => all.map((e) => e.getBoundingClientRect().height)"
    )
    assert min(height for height in heights if height) >= 24, "large enough to be touched"


def test_the_keyboard_reaches_everything_in_order(open_page):
    page = open_page(prepare=with_detector)
    choose(page, png())
    expect(page.get_by_role("button", name="Why bright?")).to_be_visible()
    reached = walk(page)
    names = [name.split("\n")[0] for name, _ in reached]
    assert names == [
        *("Choose an image", "Camera", "Try an example", "light", "bright", "dark", "Why bright?", "Details", "Clear"),
        "photo.png",
    ]
    tab(page, "light").focus()
    for key, selected in (("ArrowRight", "names"), ("ArrowLeft", "light"), ("ArrowLeft", "pets")):
        page.keyboard.press(key)
        expect(tab(page, selected)).to_be_focused()
        expect(tab(page, selected)).to_have_attribute("aria-selected", "true")
    expect(page.locator(".objects button")).to_have_count(2)
    reached += walk(page)
    names = [name.split("\n")[0] for name, _ in reached[len(names) :]]
    assert names[3] == "pets" and names[4].startswith("Score threshold")
    assert names[5:] == ["Masks", "cat", "dog", "Details", "Clear", "photo.png"]
    assert all(seen for _, seen in reached), "the focus is visible"


def walk(page) -> list[list]:
    """Press Tab from the beginning to the end: the name of each element, and whether its focus is visible."""
    page.locator(".skip").focus()
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        focused = page.evaluate(
            """() => {
              const element = document.activeElement;
              const style = getComputedStyle(element);
              const seen = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
              const label = element.getAttribute("aria-label") ?? element.closest("label")?.innerText;
              return [label ?? element.innerText, seen];
            }"""
        )
        if "the API of this server" in focused[0]:
            break
        reached.append(focused)
    return reached


def test_the_keyboard_suffices(open_page):
    page = open_page()
    choose(page, png())
    page.get_by_role("button", name="Why bright?").focus()
    page.keyboard.press("Enter")
    slider = page.get_by_label("Strength of the overlay")
    expect(slider).to_be_visible()
    slider.focus()
    page.keyboard.press("Home")
    expect(slider).to_have_value("0")
    page.keyboard.press("End")
    expect(slider).to_have_value("100")
    with page.expect_file_chooser():
        page.locator("#choose").focus()
        page.keyboard.press("Space")


def test_a_screen_reader_gets_names_and_updates(open_page):
    page = open_page(prepare=with_detector)
    choose(page, png())
    expect(page.get_by_role("tablist", name="Models").get_by_role("tab")).to_have_count(3)
    expect(page.get_by_role("status")).to_contain_text("light: bright")
    expect(page.get_by_role("status")).to_contain_text("pets: 2 objects: cat, dog.")
    panel = page.get_by_role("tabpanel", name=re.compile("^light"))
    expect(panel.get_by_role("list", name="Classes, most probable first").get_by_role("listitem")).to_have_count(2)
    expect(page.get_by_role("img", name=re.compile("photo.png: bright"))).to_have_count(1)
    tab(page, "pets").click()
    expect(page.get_by_role("img", name="photo.png: 2 objects: cat, dog.")).to_have_count(1)
    expect(page.get_by_role("slider", name="Score threshold")).to_have_attribute("aria-valuetext", "50\u00a0%")
    assert page.evaluate("document.documentElement.lang") == "en" and page.title()
    nameless = page.eval_on_selector_all(
        "button:not([hidden]), input:not([hidden])",
        """all => all.filter((e) => !(e.getAttribute("aria-label") || e.textContent.trim()
                                      || [...(e.labels ?? [])].some((l) => l.textContent.trim()))).length""",
    )
    assert nameless == 0
    levels = page.eval_on_selector_all("h1, h2, h3", "all => all.map((e) => Number(e.tagName[1]))")
    assert levels[0] == 1 and all(after - before <= 1 for before, after in pairwise(levels))


@pytest.mark.parametrize(("motion", "animation"), [("reduce", "none"), ("no-preference", "grow")])
def test_bars_are_animated_unless_reduced_motion_is_preferred(open_page, motion, animation):
    page = open_page(reduced_motion=motion)
    choose(page, png())
    bar = page.locator(".bar").first
    expect(bar).to_be_visible()
    assert bar.evaluate("bar => getComputedStyle(bar, '::before').animationName") == animation


def test_the_page_sends_the_key_to_a_server_that_needs_one(open_page, models):
    with listening(config(models[0]), api_key=KEY) as address:
        page = open_page(f"http://{address}")
        field = page.get_by_label("This server needs an API key")
        expect(field).to_be_focused()
        expect(page.locator("#models [role=alert]")).to_contain_text("API key")
        field.fill("wrong")
        field.press("Enter")
        expect(page.locator("#models [role=alert]")).to_contain_text("API key")
        expect(field).to_be_visible()
        field.fill(KEY)
        field.press("Enter")
        expect(page.locator("#models")).to_contain_text("light")
        expect(field).to_be_hidden()
        choose(page, png())
        expect(page.locator(".classes").first).to_contain_text("bright")
        page.get_by_role("button", name="Why bright?").click()
        expect(page.locator(".why").first).to_contain_text("support bright")
        assert page.evaluate("localStorage.length + sessionStorage.length + document.cookie.length") == 0
        page.context.close()


def test_touch_devices_show_no_hint_to_drop_files(open_page):
    page = open_page(viewport=FULL, has_touch=True, is_mobile=True)
    expect(page.locator("#models")).to_contain_text("light")
    assert "drop" not in page.inner_text("body").lower()
    assert "drop" in open_page().inner_text("#drop").lower()


def test_without_a_key_the_page_does_not_ask_for_one(open_page):
    page = open_page()
    expect(page.locator("#models")).to_contain_text("light")
    expect(page.locator("#key-form")).to_be_hidden()
