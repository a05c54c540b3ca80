"The pages of `make docs`: built without a warning, no link that leads nowhere, outputs and pictures of the released run, and, in a browser, everything in its place on a phone and on a screen."

import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from hashlib import md5
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlsplit

import pytest
from PIL import Image
from test_house import MODULES, NOTEBOOKS, RUN_BY_DVC, WINGS

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "docs"))

import pictures  # noqa: E402
import sources  # noqa: E402

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


def page_of(path):
    "The page of a notebook or module, without its suffix."
    if path in MODULES:
        return f"api/{path.relative_to(ROOT / 'debir_nb').with_suffix('').as_posix()}"
    name = path.relative_to(ROOT / "nbs").with_suffix("").as_posix()
    return "story" if name == "index" else name


def article(site, page):
    "What a page says, without the navigation around it."
    text = (site / f"{page}.html").read_text(encoding="utf-8")
    return text.split("<article")[1].split("</article")[0]


def test_every_notebook_and_module_has_a_page(site):
    wanted = {page_of(path) for path in [*NOTEBOOKS, *MODULES]}
    there = {path.relative_to(site).with_suffix("").as_posix() for path in pages(site)}
    menu = {urldefrag(link)[0].removesuffix(".html") for link in Page(site / "index.html").links}
    assert wanted <= there and wanted <= menu, "the navigation leaves some out"
    assert [wing for wing in sources.WINGS if wing and "/" not in wing] == WINGS


def test_the_gallery_shows_every_notebook_that_has_a_picture(site):
    shown = re.findall(
        r'href="([^"]+)\.html"><img alt="([^"]+)" src="(_images/[^"]+)"', article(site, "index")
    )
    notebooks = {page_of(path): json.loads(path.read_text(encoding="utf-8")) for path in NOTEBOOKS}
    committed = {page for page, notebook in notebooks.items() if sources.pictures(notebook)} - {"story"}
    assert committed <= {page for page, *_ in shown} and len(shown) == len({*shown})
    for page, title, picture in shown:
        with Image.open(site / picture) as image:
            assert image.size == (360, 240) and title == sources.heading(notebooks[page])


def test_pages_of_stages_and_results_show_what_was_run_or_say_that_nothing_was(site):
    copies = sources.executed()
    run = {page_of(path) for path in RUN_BY_DVC if sources.copy_of(path, copies)}
    assert {"results/10_results", "results/20_tables", "stages/20_pretrain"} <= run or not copies
    for path in RUN_BY_DVC:
        text = article(site, page_of(path))
        assert ("cell_output" in text) == (page_of(path) in run) != ("This page shows no outputs" in text)


def test_outputs_find_their_cells():
    cell = {"cell_type": "code", "metadata": {}, "outputs": [], "source": ""}
    notebook = {"cells": [cell | {"id": "a", "metadata": {"tags": ["parameters"]}}, cell | {"id": "b"}]}
    given = cell | {"id": "x", "metadata": {"tags": ["injected-parameters"]}, "source": "steps = 2"}
    old = cell | {"id": "gone", "outputs": [{"text": "no longer there"}]}
    copy = {"cells": [cell | {"id": "b", "outputs": [{"text": "two"}]}, old, given]}
    shown = sources.with_outputs(notebook, copy)["cells"]
    assert [(c["id"], c["outputs"]) for c in shown] == [("a", []), ("x", []), ("b", [{"text": "two"}])]


def test_the_pictures_are_those_of_the_released_run():
    "Each says in its comment of which one it was made; all of them together are small."
    released = dict(pictures.found(sources.executed()))
    for file, picture in released.items():
        with Image.open(ROOT / "results" / file) as image:
            assert image.info["comment"].decode() == md5(picture).hexdigest(), "python docs/pictures.py"
    sizes = [path.stat().st_size for path in (ROOT / "results").glob("*.jpg")]
    assert len(sizes) == len(released) + 1 and sum(sizes) < 500_000  # and the README's


def test_pictures_say_what_there_is_to_see(site):
    "Where a caption stands below them; a hash is no description."
    words = [
        re.search(r'alt="([^"]*)"', image)[1]
        for image in re.findall("<img[^>]+>", article(site, "results/10_results"))
    ]
    assert len(words) >= 3 and all(len(each.split()) > 5 for each in words)


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
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", article(site, "api/policies/protocol")))
    assert "motion (Float[Tensor, 'b']) – m_p, px" in text and "Returns: t_i, s" in text
    assert "FRAME_TIME" in article(site, "api/core")


def test_a_comment_on_the_line_above_is_read_too():
    "Long ones stand there; without it, the pages and the house would not agree about what is documented."
    from fastcore.docments import docments

    from debir_nb.cameras.files import restore_folder

    assert "[0, 1]" in docments(restore_folder)["return"]


def test_names_in_the_text_are_links(site):
    "policies/20_rules names other notebooks, cameras/20_simulated names a class, and lessons name their neighbours."
    text = article(site, "policies/20_rules")
    assert 'href="25_metering.html"' in text and 'href="20_rules.html"' not in text
    store = "../api/scenes/store.html#debir_nb.scenes.store.SceneStore"
    assert store in Page(site / "cameras/20_simulated.html").links
    assert 'href="02_differentiating_through_a_shutter.html"' in article(site, "course/01_light_and_noise")
    assert 'href="story.html"' in article(site, "readme") and 'href="readme.html"' in article(site, "story")


def test_every_name_of_a_notebook_is_a_link(site):
    known = {page_of(path) for path in NOTEBOOKS}
    for page in known:
        for text in re.findall(
            r'(?<!">)<code[^>]*><span class="pre">([\w/.]+)</span></code>(?!</a>)', article(site, page)
        ):
            name = text.removeprefix("nbs/").removesuffix(".ipynb")
            assert name not in known - {page}, f"{page} names {name}"


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
    page.goto(f"{address}/policies/20_rules.html")
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
