import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serve.hand_made import write_brightness
from tests.serve.servers import config, listening

ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
    *("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"),
)


# Not for the session: Playwright keeps an event loop in this thread, beside which no other test can run one.
@pytest.fixture(scope="module")
def browser() -> Iterator:
    """Chromium, with a camera that is none."""
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs Chromium; on Debian: apt-get install chromium")
    api.expect.set_options(timeout=60_000)  # milliseconds; the machine may be busy
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=program, args=list(ARGUMENTS))
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> list[Path]:
    """Two hand-made classifiers, `light` and `names`, the second with names that look like markup."""
    folder = tmp_path_factory.mktemp("models")
    names = ("<b>bright</b>&amp;", "d" * 70)
    return [write_brightness(folder / "light.pt"), write_brightness(folder / "names.pt", names)]


@pytest.fixture(scope="module")
def address(models) -> Iterator[str]:
    with listening(config(*models, max_megapixels=1)) as found:
        yield f"http://{found}"


@pytest.fixture
def open_page(browser, address) -> Iterator:
    """open_page(**options of a browser context): the page, which must not fail, break its policy or ask elsewhere."""
    contexts, wrong = [], []

    def opened(url: str = address, prepare=lambda page: None, **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        context.set_default_timeout(60_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda line: "Content Security" in line.text and wrong.append(line.text))
        page.on("request", lambda sent: sent.url.startswith((url, "blob:", "data:")) or wrong.append(sent.url))
        prepare(page)
        page.goto(f"{url}/")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert not wrong
