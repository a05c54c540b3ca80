"""The explorers and a lesson in a real JupyterLab, in Chromium without a window, moved by a mouse and typed into. Deselected by default: make test-browser."""

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

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
SETTINGS = {  # of JupyterLab: it asks nobody for news, writes nothing back, and shows all cells at once
    "@jupyterlab/apputils-extension/notification": '{"fetchNews": "false", "checkForUpdates": false}',
    "@jupyterlab/docmanager-extension/plugin": '{"autosave": false}',
    "@jupyterlab/notebook-extension/tracker": '{"windowingMode": "none"}',
}
PATIENCE = 600  # s that a machine under load may take for a notebook
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser():
    "Debian's Chromium, driven by Playwright."
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "JupyterLab over a copy of the notebooks: (address, token, file with its log)."
    place = tmp_path_factory.mktemp("lab")
    project, log = place / "project", place / "log"
    shutil.copytree(ROOT / "nbs", project / "nbs", ignore=shutil.ignore_patterns(".*"))
    shutil.copy(ROOT / "settings.ini", project)
    if (ROOT / "models").is_dir():
        (project / "models").symlink_to(ROOT / "models")
    for name, text in SETTINGS.items():
        path = place / f"settings/{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    folders = {
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "IPYTHONDIR": "ipython",
    }
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        **{name: str(place / folder) for name, folder in folders.items()},
    }
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address, token = f"http://127.0.0.1:{port}", secrets.token_hex(8)
    options = [
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        f"--ServerApp.root_dir={project}",
        f"--IdentityProvider.token={token}",
        "--allow-root",
        "--no-browser",
    ]
    with open(log, "w") as written:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options],
            cwd=project,
            env=env,
            stdout=written,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(f"{address}/api?token={token}", server, log)
        yield address, token, log
    finally:
        server.terminate()
        server.wait(30)


def wait_for(url, server, log):
    "Until the server answers."
    for _ in range(PATIENCE):
        assert server.poll() is None, f"JupyterLab ended: {log.read_text()[-2000:]}"
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    raise AssertionError(f"JupyterLab does not answer: {log.read_text()[-2000:]}")


@pytest.fixture
def page(browser, lab):
    "A fresh page; afterwards nothing was complained of, by the page or by the kernel."
    address, token, log = lab
    page, complaints = browser.new_page(viewport={"width": 1400, "height": 900}), []
    page.set_default_timeout(1000 * PATIENCE)
    page.on(
        "console",
        lambda message: complaints.append(f"console: {message.text}") if message.type == "error" else None,
    )
    page.on("pageerror", lambda error: complaints.append(f"page: {error}"))

    def heard(frame):
        if re.search(rb'"msg_type": ?"error"', frame if isinstance(frame, bytes) else frame.encode()):
            complaints.append(f"kernel: {frame[-1500:]}")

    page.on("websocket", lambda socket: socket.on("framereceived", heard))
    yield page
    page.close()
    assert not complaints, "\n".join(complaints)
    assert "Traceback" not in log.read_text()


def idle(page):
    "Until the kernel is connected and has nothing to do, as the status bar says."
    page.get_by_text(re.compile(r"\| Idle$")).wait_for()


def run_all(page, lab, name):
    "Open a notebook and run all of its cells, as a reader would, by the menu."
    address, token, _ = lab
    page.goto(f"{address}/doc/tree/nbs/{name}.ipynb?token={token}")
    idle(page)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()


def drag(page, handle, by):
    "Take a slider's handle with the mouse and pull it to the right, px."
    handle.scroll_into_view_if_needed()
    box = handle.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    for part in range(1, 6):
        page.mouse.move(x + by * part / 5, y)
    page.mouse.up()


BUTTONS = {  # what is pressed, and what must then be read
    "explore/20_shutter": ("ask BAENet", "restored"),
    "explore/30_gradient": ("take a gradient step", "L ="),
    "explore/40_beat_baenet": ("shoot", "The oracle"),
    "explore/50_policy_map": (None, None),
}


@pytest.mark.parametrize("name", BUTTONS)
def test_an_explorer_answers_to_the_mouse(page, lab, name, tmp_path):
    run_all(page, lab, name)
    picture, number = page.locator("img.widget-image").last, page.locator(".jupyter-widgets.widget-html").last
    number.wait_for()
    idle(page)

    def seen():
        return (
            picture.get_attribute("src"),
            picture.screenshot(),
            re.sub(r"\(\d+ ms\)", "", number.inner_text()),
        )

    def changes(before, what):
        for _ in range(4 * PATIENCE):
            now = seen()
            if all(a != b for a, b in zip(before, now)):
                return now
            page.wait_for_timeout(250)
        raise AssertionError(f"{name}: {what} did not change picture and number: {before[2]!r}, {now[2]!r}")

    before = seen()
    page.screenshot(path=tmp_path / "opened.png")
    drag(page, page.locator(".noUi-handle").first, 40)
    changes(before, "the slider")
    page.wait_for_timeout(1000)
    idle(page)  # the last of the values that the handle passed has been drawn
    dragged = seen()
    text, read = BUTTONS[name]
    if text:
        page.get_by_role("button", name=text).click()
        page.locator(".jupyter-widgets.widget-html", has_text=read).wait_for()
        changes(dragged, text)
        idle(page)
    page.screenshot(path=tmp_path / "used.png")
    assert (
        page.locator(
            "[data-mime-type='application/vnd.jupyter.error'],"
            " [data-mime-type='application/vnd.jupyter.stderr']"
        ).count()
        == 0
    )


ANSWERS = {  # to the second exercise of the first lesson -> what its check must then say
    "def noise_std(ticks, signal, shot, read): return (shot*signal + read)**.5": (
        "does not depend on the exposure"
    ),
    "def noise_std(ticks, signal, shot, read): return (16/ticks*shot*signal + (16/ticks)**2*read)**.5": (
        "✓ Right"
    ),
}


def test_a_lesson_answers_to_what_is_typed(page, lab, tmp_path):
    run_all(page, lab, "course/01_light_and_noise")
    exercise, check = (
        page.locator(".jp-CodeCell", has_text=text).first
        for text in ("# Exercise 2:", "check_noise_std(noise_std)")
    )
    check.locator(".jp-OutputArea-output").wait_for()
    empty = page.locator(".jp-OutputArea-output", has_text="still empty")
    empty.nth(2).wait_for()
    idle(page)
    for answer, told in ANSWERS.items():
        exercise.locator(".cm-content").click()
        page.keyboard.press("ControlOrMeta+A")
        page.keyboard.insert_text("# Exercise 2:\n" + answer)
        page.keyboard.press("Shift+Enter")
        page.keyboard.press("Shift+Enter")
        check.locator(".jp-OutputArea-output", has_text=told).wait_for()
    page.screenshot(path=tmp_path / "answered.png")
    assert empty.count() == 2
