"The pages of `make docs`: built without a warning, no link that leads nowhere and, in a browser, everything in its place on a phone and on a screen."

import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
LOOK = """() => ({
    title: document.title,
    wide: document.documentElement.scrollWidth - window.innerWidth,
    images: [...document.images].filter(image => image.complete && !image.naturalWidth).map(image => image.src),
    formulas: document.querySelectorAll(".math").length,
    rendered: document.querySelectorAll(".math mjx-container").length,
    wrong: [...document.querySelectorAll("mjx-merror, [data-mjx-error]")].map(node => node.textContent),
})"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    "The folder of the pages, built as `make docs` builds them."
    folder = tmp_path_factory.mktemp("site")
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    built = subprocess.run(
        ["make", "--no-print-directory", "-s", "-o", ".venv/.stamp", "docs", f"SITE={folder}"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    return folder / "html"


@pytest.fixture(scope="module")
def address(site):
    "Where a small server shows the pages."

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=site)
    ) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def browser():
    "Headless Chromium; skips with the reason where there is none."
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("Chromium is not installed (Debian, Ubuntu: apt install chromium)")
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed (pip install 'debir_nb[dev]')"
    )
    with playwright.sync_playwright() as drives:
        opened = drives.chromium.launch(executable_path=chromium, args=FLAGS)
        yield opened
        opened.close()


class Page(HTMLParser):
    "What a page leads to, and the places in it that can be led to."

    def __init__(self, path):
        super().__init__()
        self.links, self.places = set(), {""}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.places |= {attributes[name] for name in ("id", "name") if attributes.get(name)}
        self.links |= {attributes[name] for name in ("href", "src") if attributes.get(name)}


def pages(site):
    return {path: Page(path) for path in sorted(site.rglob("*.html")) if "_static" not in path.parts}


def test_every_notebook_and_module_has_a_page(site):
    notebooks = {
        path.relative_to(ROOT / "nbs").with_suffix("").as_posix()
        for path in (ROOT / "nbs").rglob("[!_.]*.ipynb")
        if ".ipynb_checkpoints" not in path.parts
    }
    modules = {f"api/{path.stem}" for path in (ROOT / "debir_nb").glob("[!_]*.py")}
    there = {path.relative_to(site).with_suffix("").as_posix() for path in pages(site)}
    assert notebooks | modules <= there
    menu = {urldefrag(link)[0].removesuffix(".html") for link in Page(site / "index.html").links}
    assert notebooks | modules <= menu | {"index"}, "the navigation leaves some out"


def test_no_link_leads_nowhere(site):
    known, broken = pages(site), []
    for path, page in known.items():
        for link in page.links:
            if urlsplit(link).scheme or link.startswith("//"):
                continue
            there, place = urldefrag(link)
            target = (path.parent / unquote(urlsplit(there).path)).resolve() if there else path
            if not target.is_file() or target in known and unquote(place) not in known[target].places:
                broken.append(f"{path.relative_to(site)}: {link}")
    assert not broken, "\n".join(broken)


def test_a_definition_has_types_shapes_and_units(site):
    text = re.sub(
        r"\s+", " ", re.sub(r"<[^>]+>", "", (site / "api" / "policies.html").read_text(encoding="utf-8"))
    )
    assert "motion (Float[Tensor, 'b']) – m_p, px" in text and "Returns: t_i, s" in text
    assert "FRAME_TIME" in (site / "api" / "core.html").read_text(encoding="utf-8")


def test_names_in_the_text_are_links(site):
    "policies/20_rules names other notebooks, and cameras/20_simulated names a class."
    article = (
        (site / "policies/20_rules.html")
        .read_text(encoding="utf-8")
        .split("<article")[1]
        .split("</article")[0]
    )
    assert 'href="policies/25_metering.html"' in article and 'href="policies/20_rules.html"' not in article
    assert (
        "api/scenes/store.html#debir_nb.scenes.store.SceneStore"
        in Page(site / "cameras/20_simulated.html").links
    )


@pytest.mark.browser
def test_every_page_is_complete_and_readable(site, address, browser):
    """No error, nothing from another host, every picture there, every formula set, and nothing wider than the
    window.
    """
    page, faults, formulas = browser.new_page(), [], 0
    page.on(
        "console", lambda message: message.type == "error" and faults.append(f"{page.url}: {message.text}")
    )
    page.on("pageerror", lambda error: faults.append(f"{page.url}: {error}"))
    page.on(
        "request",
        lambda request: (
            request.url.startswith((address, "data:")) or faults.append(f"{page.url} asks for {request.url}")
        ),
    )
    page.on(
        "response",
        lambda response: (
            response.status < 400 or faults.append(f"{page.url}: {response.url} answers {response.status}")
        ),
    )
    for path in pages(site):
        page.set_viewport_size({"width": 1400, "height": 900})
        page.goto(f"{address}/{path.relative_to(site).as_posix()}")
        page.evaluate("() => window.MathJax && MathJax.startup.promise")
        for width in (1400, 400):
            page.set_viewport_size({"width": width, "height": 900})
            seen = page.evaluate(LOOK)
            if seen["wide"] > 0:
                faults.append(f"{page.url}: {seen['wide']} px too wide at {width} px")
        formulas += seen["formulas"]
        if not seen["title"] or seen["images"] or seen["wrong"] or seen["formulas"] != seen["rendered"]:
            faults.append(f"{page.url}: {seen}")
    page.close()
    assert not faults, "\n".join(faults)
    assert formulas > 100


@pytest.mark.browser
def test_a_formula_is_drawn_with_fonts_that_are_there(address, browser):
    page = browser.new_page()
    page.goto(f"{address}/13_policies.html")
    page.evaluate("() => MathJax.startup.promise")
    page.evaluate("() => document.fonts.ready")
    assert (
        page.evaluate(
            "() => [...document.fonts].filter(font => font.family.startsWith('MJX') && font.status ==="
            " 'loaded').length"
        )
        > 0
    )
    assert page.locator("mjx-container").first.bounding_box()["width"] > 3
    page.close()


@pytest.mark.browser
def test_the_search_finds(address, browser):
    page = browser.new_page()
    page.goto(f"{address}/search.html?q=bracketing")
    page.wait_for_selector("#search-results li a")
    assert "policies/20_rules" in " ".join(
        link.get_attribute("href") for link in page.locator("#search-results li a").all()
    )
    page.close()
