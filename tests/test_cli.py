"The command `debir`: what it prints, what it writes, and how it fails."

import contextlib
import hashlib
import importlib.util
import io
import json
import logging
import re
import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from debir_nb.cameras import cli, demo
from debir_nb.cameras import commands as camera_commands
from debir_nb.cameras import simulated as simulated_camera
from debir_nb.cameras.answers import Answer
from debir_nb.cameras.capture import Capture
from debir_nb.cameras.cli import COMMANDS, SHELLS, main
from debir_nb.cameras.commands import beyond, find_cameras, open_camera, outputs
from debir_nb.cameras.protocol import NoCamera
from debir_nb.closure import package
from debir_nb.core import PREVIEW_TIME
from debir_nb.disk import read_tensors, save_weights
from debir_nb.light.dng import read_raw
from debir_nb.light.sensor import still_burst
from debir_nb.policies.baenet import BAENet, recalibrate_batchnorm
from debir_nb.policies.rules import bracket
from debir_nb.restorers.burstormer import Burstormer
from debir_nb.restorers.by_name import fresh_restorer
from debir_nb.restorers.kernels import Kernels
from debir_nb.weights.pretrained import NETWORKS, load_pretrained, network_files, ship

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    "Networks that are not trained, but whose exposures differ."
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    baenet = BAENet()
    torch.nn.init.normal_(baenet.mobilenet.classifier[1].weight, std=0.05)
    recalibrate_batchnorm(
        baenet,
        lambda: baenet(torch.rand(8, 4, 64, 64), torch.linspace(512, 1024, 8), torch.linspace(0, 10, 8)),
    )
    for net, name in zip((baenet, Burstormer(4, features=8)), NETWORKS):
        save_weights(net, folder / name)
    return folder


@pytest.fixture(scope="module")
def burst(models, tmp_path_factory):
    "A burst of the simulated camera, by the command line."
    folder = tmp_path_factory.mktemp("captures") / "burst"
    main(["capture", "--models", str(models), "--out", str(folder)])
    return folder


def fails(*line):
    "What a command says when it fails."
    with pytest.raises(SystemExit) as caught:
        main([str(word) for word in line])
    return str(caught.value)


# The commands


def test_the_command_is_installed_by_its_name():
    ini = ConfigParser()
    ini.read(ROOT / "settings.ini", encoding="utf-8")
    assert (
        ini["DEFAULT"]["console_scripts"] == "debir=debir_nb.cameras.cli:main"
        and "scripts" in (ROOT / "pyproject.toml").read_text()
    )


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_every_help_has_an_example(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"] if command else ["--help"])
    said = capsys.readouterr().out
    assert caught.value.code == 0 and f"example: debir {command or 'capture'}" in said
    if command is None:
        assert all(name in said for name in COMMANDS)


@pytest.mark.parametrize(
    "line",
    [
        ["--help"],
        ["--version"],
        ["restor"],
        ["pair", "--help"],
        ["restore", "a", "-o"],
        ["capture", "--timeout=0"],
        ["completion", "bash"],
        ["restore", "--memroy=1", "a", "-o", "b.png", "--json"],
    ],
)
def test_help_and_a_slip_of_the_finger_import_nothing_heavy(line):
    heavy = "{'torch', 'numpy', 'PIL', 'scipy', 'cv2', 'matplotlib', 'fastcore'}"
    code = f"""import sys
from debir_nb.cameras.cli import main
try: main({line!r})
except SystemExit: pass
print("heavy:", {heavy} & set(sys.modules))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.endswith("heavy: set()\n")


def test_cameras_are_listed_and_a_backend_without_its_package_says_how_to_get_it(
    capsys, monkeypatch, tmp_path
):
    for missing in ("gphoto2", "linuxpy.video.device"):
        monkeypatch.setitem(sys.modules, missing, None)
    assert list(find_cameras()) == ["simulated", "gphoto2", "v4l2"]
    main(["cameras"])
    simulated, *others = capsys.readouterr().out.splitlines()
    assert simulated.startswith("simulated ")
    for name, line in zip(("gphoto2", "v4l2"), others, strict=True):
        assert (
            line.startswith(f"{name} ")
            and "not available: " in line
            and f"pip install 'debir_nb[{name}]'" in line
        )
        for address in (name, f"{name}:nowhere"):
            assert f"pip install 'debir_nb[{name}]'" in fails(
                "capture", "--policy", "bracket", "--camera", address, "--out", tmp_path / "out"
            )


def test_a_camera_is_opened_by_address_by_backend_or_not_at_all(monkeypatch):
    assert open_camera("simulated").capabilities.name == "simulated camera"
    for wanted, words in (
        ("leica:usb", "leica:usb is not the address of a camera"),
        ("simulated:nowhere.png", "does not exist"),
    ):
        with pytest.raises(NoCamera, match=words):
            open_camera(wanted)
    monkeypatch.setattr(
        simulated_camera, "find_cameras", lambda: {"simulated:a": "one", "simulated:b": "two"}
    )
    with pytest.raises(NoCamera, match="there are 2 cameras: name one of simulated:a"):
        open_camera("simulated")


@pytest.mark.parametrize(
    "gain, policy, words",
    [
        (700, BAENet(), []),
        (1, BAENet(), ["learned ISO 51200 to 102400", "would need ISO 25.*cameras begin near 50"]),
        (100, BAENet(), ["learned ISO 51200"]),
        (1, bracket(4), ["cameras begin near 50"]),
        (100, bracket(4), []),
        (9000, bracket(4), ["would need ISO 1800000, and cameras end near 409600"]),
    ],
)
def test_answers_beyond_what_was_learned_or_can_be_set_are_told(gain, policy, words):
    value = gain * PREVIEW_TIME
    taken = Capture("files", gain=gain, value=value, wanted=[PREVIEW_TIME / 2, 4 * PREVIEW_TIME])
    said = beyond(taken, policy)
    assert len(said) == len(words)
    for sentence, word in zip(said, words):
        assert re.search(word, sentence) and "\n" not in sentence


def test_the_manifest_of_a_capture_and_the_previews_that_expose_takes_agree(models, burst, capsys):
    said = json.loads((burst / "manifest.json").read_text())
    assert said["complete"] and len(said["frames"]) == 4 and len(set(said["wanted_exposures"])) == 4
    main(
        [
            "expose",
            str(burst / "previews" / "preview.dng"),
            "--previous",
            str(burst / "previews" / "previous.dng"),
            "--models",
            str(models),
            "--json",
        ]
    )
    shown = json.loads(capsys.readouterr().out)
    assert [s["exposure"] for s in shown["shots"]] == pytest.approx(said["wanted_exposures"], rel=1e-3)
    assert shown["motion"] == pytest.approx(said["motion"], rel=1e-3)
    for s in shown["shots"]:
        assert s["exposure"] * s["gain"] == pytest.approx(PREVIEW_TIME * shown["preview_gain"], rel=1e-6)
    main(
        [
            "expose",
            str(burst / "previews" / "preview.dng"),
            "--previous",
            str(burst / "previews" / "previous.dng"),
            "--models",
            str(models),
        ]
    )
    table = capsys.readouterr().out.splitlines()
    assert [float(line.split()[1]) for line in table[2:]] == pytest.approx(
        [1e3 * s["exposure"] for s in shown["shots"]], abs=0.006
    )


def test_an_interval_rescales_the_motion(models, burst, capsys):
    found = []
    for interval in (PREVIEW_TIME, 4 * PREVIEW_TIME):
        files = [
            str(burst / "previews" / "preview.dng"),
            "--previous",
            str(burst / "previews" / "previous.dng"),
        ]
        main(["expose", *files, "--models", str(models), "--json", "--interval", str(interval)])
        found.append(json.loads(capsys.readouterr().out)["motion"])
    assert found[0] == pytest.approx(4 * found[1])


def test_a_burst_is_restored_to_dng_and_png(models, burst, tmp_path, capsys, monkeypatch):
    kept = []
    monkeypatch.setattr("debir_nb.cameras.commands.keep_memory", lambda: kept.append(True))
    main(
        [
            "restore",
            str(burst),
            "-o",
            str(tmp_path / "r.dng"),
            "-o",
            str(tmp_path / "r.png"),
            "--models",
            str(models),
        ]
    )
    assert read_raw(tmp_path / "r.dng").mosaic.shape == (256, 256) and np.asarray(
        Image.open(tmp_path / "r.png")
    ).shape == (256, 256, 3)
    assert "4 frames of 256 x 256 px" in capsys.readouterr().out and kept == [True]
    main(["restore", str(burst), "-o", str(tmp_path / "s.dng"), "--models", str(models), "--sensor", "CRVD"])
    assert (read_raw(tmp_path / "s.dng").mosaic != read_raw(tmp_path / "r.dng").mosaic).any()


@pytest.mark.parametrize("word, name", [("kpn", "kpn.pt"), ("flow_kpn", "restorer.pt"), ("merge", None)])
def test_a_burst_is_restored_by_the_restorer_that_is_named(burst, tmp_path, word, name):
    if name:
        save_weights(fresh_restorer(word, 4, 8), tmp_path / name)
    main(
        ["restore", str(burst), "-o", str(tmp_path / "r.dng"), "--models", str(tmp_path), "--restorer", word]
    )
    assert read_raw(tmp_path / "r.dng").mosaic.shape == (256, 256)
    said = fails(
        "restore", burst, "-o", tmp_path / "s.dng", "--models", tmp_path, "--restorer", "noise_burstormer"
    )
    assert "there are no weights of noise_burstormer" in said and not (tmp_path / "s.dng").exists()


def test_a_trial_is_measured_kept_and_not_overwritten(tmp_path, monkeypatch, capsys):
    whole = demo.candlelight
    monkeypatch.setattr(demo, "candlelight", lambda: whole((96, 96)))
    main(["demo", "--out", str(tmp_path)])
    said = capsys.readouterr().out
    alone, _, ours = (float(db) for db in re.findall(r"([0-9.]+) dB", said))
    assert ours > alone + 5 and (tmp_path / "demo.png").stat().st_size > 10_000
    before = sorted((tmp_path / "burst").iterdir())
    assert len([path for path in before if path.suffix == ".dng"]) == 4
    assert "holds a capture" in fails("demo", "--out", tmp_path)
    assert sorted((tmp_path / "burst").iterdir()) == before
    main(["restore", str(tmp_path / "burst"), "-o", str(tmp_path / "again.dng")])


def test_a_photograph_is_simulated_without_trained_networks(tmp_path, capsys):
    Image.effect_noise((300, 280), 90).convert("RGB").save(tmp_path / "photo.png")
    main(["simulate", str(tmp_path / "photo.png"), "--out", str(tmp_path / "burst"), "--policy", "bracket"])
    assert json.loads((tmp_path / "burst" / "manifest.json").read_text())["complete"]
    assert f"debir restore {tmp_path / 'burst'}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "line, words",
    [
        (["restore", "nowhere", "-o", "x.jpg"], "write .dng"),
        (["restore", "nowhere", "-o", "x.png"], "nowhere is not a folder"),
        (["restore", "nowhere", "-o", "x.png", "--sensor", "Leica"], "'Leica': choose one of DEBIR, "),
        (
            ["capture", "--policy", "bracket", "--camera", "leica", "--out", "OUT"],
            "leica is not the address of a camera",
        ),
        (["simulate", "nowhere.mp4", "--policy", "bracket", "--out", "OUT"], "does not exist"),
        (["expose", "a.dng", "--previous", "b.dng", "--policy", "bracket"], "error: b.dng: No such file"),
        (
            ["capture", "--policy", "bracket", "--camera", "v4l2:/dev/video0,dark=1", "--out", "OUT"],
            "such as v4l2:/dev/video0,black=64",
        ),
        (
            ["capture", "--models", "nowhere", "--out", "OUT"],
            "nowhere holds neither baenet.pt nor restorer.pt",
        ),
    ],
)
def test_what_goes_wrong_is_one_line(line, words, tmp_path):
    said = fails(*[str(tmp_path / "out") if word == "OUT" else word for word in line])
    assert (
        said.startswith("error: ") and words in said and "\n" not in said and not (tmp_path / "out").exists()
    )


@pytest.mark.parametrize(
    "line",
    [
        ["expose", "a", "--previous", "b", "--interval"],
        ["capture", "--out", "c", "--timeout"],
        ["restore", "c", "-o", "d.png", "--memory"],
    ],
)
@pytest.mark.parametrize("number", ["0", "-1", "nan", "inf", "soon"])
def test_numbers_that_must_be_above_0(line, number, capsys):
    with pytest.raises(SystemExit) as caught:
        main([*line[:-1], f"{line[-1]}={number}"])
    assert caught.value.code == 2 and f"{number} is not a number above 0" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_found_before_the_work(models, burst, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.png").mkdir()
    monkeypatch.setattr(
        "debir_nb.cameras.commands.restore_photos", lambda *_: pytest.fail("restored in vain")
    )
    for name, words in (("file/r.png", "cannot be written"), ("folder.png", "is a folder")):
        assert words in fails("restore", burst, "-o", tmp_path / name, "--models", models)
    assert "cannot be written" in fails("export", tmp_path / "file" / "baenet.onnx", "--models", models)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.png"]


def test_a_fault_says_what_was_kept(models, tmp_path, monkeypatch):
    from debir_nb.cameras.protocol import CameraLost

    def gone(self, shots, timeout=10.0):
        yield self._take(shots[0], 0)
        raise CameraLost("unplugged")

    monkeypatch.setattr(simulated_camera.SimulatedCamera, "burst", gone)
    said = fails("capture", "--models", models, "--out", tmp_path / "out")
    assert said.splitlines() == [
        "error: unplugged",
        f"1 frames are kept in {tmp_path / 'out'}, with a manifest that says so",
    ]


def test_it_runs_from_a_shell(tmp_path):
    "A process of its own, outside the project: the networks are those of the package."
    done = subprocess.run(
        "debir capture --out burst && debir restore burst -o restored.png".replace(
            "debir", f"'{sys.executable}' -m debir_nb.cameras.cli"
        ),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        shell=True,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert "4 frames of 256 x 256 px" in done.stdout and (tmp_path / "restored.png").exists()


# How it is told


def run(line, capsys):
    "Status, standard output and standard error of a command."
    status = 0
    try:
        main([str(word) for word in line])
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
        print(end.code if status and not isinstance(end.code, int) else "", end="", file=sys.stderr)
    said = capsys.readouterr()
    return status, said.out, said.err


def keys(command):
    "What the help says of the JSON of a command."
    named = {key for row in COMMANDS[command].keys for key in row.split(", ")}
    return named - {"error"} | {"notes"}


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    "(command, its JSON) of every example in every help, in their order, in a folder that was empty."
    folder, whole = tmp_path_factory.mktemp("examples"), demo.candlelight
    found = []
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        patched.setattr(demo, "candlelight", lambda: whole((96, 96)))
        for name, command in COMMANDS.items():
            if name == "export" and not importlib.util.find_spec("onnxscript"):
                continue
            for line in command.example.splitlines():
                words = line.partition(" > ")[0].replace("--quiet", "").split()
                with contextlib.redirect_stdout(io.StringIO()) as said:
                    with contextlib.redirect_stderr(io.StringIO()) as noise:
                        main([*words[1:], "--json"])
                found.append((name, line, json.loads(said.getvalue()), noise.getvalue()))
    return folder, found


def test_examples_name_files_that_other_examples_make(example):
    "Each has run without an error, said one JSON object and nothing else, with the keys that its help names."
    folder, found = example
    assert {name for name, *_ in found} >= {*COMMANDS} - {"export"}
    for name, line, said, noise in found:
        assert noise == "", line
        assert {*said} == keys(name) - (set() if "--pair" in line else {"pair"}), line
    for name in ("demo/demo.png", "burst/manifest.json", "filmed/frame_4.dng", "restored.dng", "out.png"):
        assert (folder / name).stat().st_size > 1000
    assert (folder / "night_burst.png").exists() and (folder / "night_bracket.png").exists()


def test_facts_are_what_the_words_say(example, models, burst, capsys):
    said = {line.strip(): facts for _, line, facts, _ in example[1]}
    facts = said["debir demo"]["decibels"]
    assert len(facts) == 3 and all(10 < db < 60 for db in facts.values())
    taken = said["debir capture --out burst"]
    frames = json.loads((example[0] / "burst" / "manifest.json").read_text())["frames"]
    assert [row["exposure"] for row in taken["frames"]] == [row["exposure"] for row in frames]
    assert all((example[0] / "burst" / row["file"]).is_file() for row in taken["frames"])
    pair = said["debir capture --pair --out pair"]["pair"]
    assert pair | {"out": 0, "notes": 0} == said[
        "debir pair pair/frame_1.dng pair/frame_2.dng -o out.png"
    ] | {
        "out": 0,
        "notes": 0,
    }
    status, out, _ = run(["cameras"], capsys)
    known = said["debir cameras"]
    assert status == 0 and [line.split()[0] for line in out.splitlines()] == [
        *known["cameras"],
        *known["missing"],
    ]


def test_a_caution_stands_beside_words_and_within_json(models, burst, capsys):
    previews = [burst / "previews" / name for name in ("preview.dng", "previous.dng")]
    line = ["expose", previews[0], "--previous", previews[1], "--models", models]
    _, out, err = run([*line, "--json"], capsys)
    (note,) = json.loads(out)["notes"]
    assert "learned ISO 51200" in note and err == ""
    for how in ([], ["--quiet"]):
        _, out, err = run([*line, *how], capsys)
        assert f"note: {note}" in err.splitlines() and note not in out


@pytest.mark.parametrize(
    "line, status, words",
    [
        (["restore", "nowhere", "-o", "x.png"], 1, "nowhere is not a folder"),
        (["restore", "nowhere", "-o", "x.jpg"], 1, "write .dng"),
        (["capture", "--policy", "bracket", "--camera", "leica", "--out", "x"], 1, "is not the address"),
        (["expose", "a.dng", "--previous", "b.dng"], 1, "b.dng: No such file or directory"),
        (["restore", "a", "-o", "b.png", "--memory", "0"], 2, "0 is not a number above 0"),
        (["restore", "a"], 2, "arguments are required: -o/--out"),
        (["pair", "a"], 2, "arguments are required: long"),
    ],
)
def test_an_error_is_one_json_object_of_the_same_status(line, status, words, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    code, out, err = run([*line, "--json"], capsys)
    assert code == status and err == "" and {*json.loads(out)} == {"error"}
    assert words in json.loads(out)["error"]
    code, out, err = run(line, capsys)
    assert code == status and out == "" and words in err
    assert not [*tmp_path.iterdir()]


def test_quiet_says_the_answer_and_verbose_everything(models, burst, tmp_path, capsys, monkeypatch):
    whole = camera_commands.restore_photos

    def with_a_bar(*args):
        print("a progress bar", file=sys.stderr)
        print("what a library says")
        return whole(*args)

    monkeypatch.setattr(camera_commands, "restore_photos", with_a_bar)
    line = ["restore", burst, "-o", tmp_path / "r.png", "--models", models]
    (_, plain, normal), (_, out, quiet), (_, same, loud) = (
        run([*line, *how], capsys) for how in ([], ["--quiet"], ["--verbose"])
    )
    assert plain == out == same and plain.startswith("4 frames") and plain.count("\n") == 1 and quiet == ""
    assert "a progress bar" in normal and "a progress bar" in loud
    first, *_ = normal.splitlines()
    assert first == "the restorer is read ..." and "SHA-256" not in normal
    code = hashlib.sha256((models / "restorer.pt").read_bytes()).hexdigest()
    assert f"weights: {models / 'restorer.pt'}, SHA-256 {code}" in loud
    assert "frames: frame_1.dng, frame_2.dng, frame_3.dng, frame_4.dng" in loud
    assert re.search(r"4 frames of 256 x 256 px are restored: \d+\.\d s\n", loud)
    assert not logging.getLogger("debir_nb").handlers


def test_every_command_takes_the_same_words(capsys):
    for name in COMMANDS:
        with pytest.raises(SystemExit):
            main([name, "--help"])
        said = capsys.readouterr().out
        assert all(flag in said for flag in ("--json", "--quiet", "--verbose"))
        assert all(key in said for key in keys(name))
    status, _, err = run(["cameras", "--quiet", "--verbose"], capsys)
    assert status == 2 and "not allowed with" in err


def test_arguments_are_checked_before_any_network_is_read(burst, tmp_path, capsys, monkeypatch):
    for name in ("load_pretrained", "load_by_word"):
        monkeypatch.setattr(camera_commands, name, lambda *_: pytest.fail("a network was read"))
    monkeypatch.setattr(demo, "load_pretrained", lambda *_: pytest.fail("a network was read"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("no RAW file")
    shutil.copytree(burst, tmp_path / "demo" / "bracket")
    for line, words in (
        (["capture", "--camera", "foo", "--out", "x"], "foo is not the address of a camera"),
        (["capture", "--out", burst], "holds a capture already"),
        (["simulate", "nowhere.mp4", "--out", "x"], "does not exist"),
        (["expose", "file", "--previous", "file"], "file"),
        (["restore", "nowhere", "-o", "x.png"], "not a folder"),
        (["restore", burst, "-o", "file/x.png"], "cannot be written"),
        (["restore", "a", "b", "-o", "x.png"], "2 of 2 folders were not restored: a, b"),
        (["export", "file/baenet.onnx"], "cannot be written"),
        (["demo"], "demo/bracket holds a capture already"),
    ):
        status, out, err = run(line, capsys)
        assert status == 1 and out == "" and words in err.splitlines()[-1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo", "file"]


# Settings


@pytest.fixture
def home(tmp_path, monkeypatch):
    "An empty working folder, and an XDG folder beside it."
    (work := tmp_path / "work").mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("DEBIR_MODELS", raising=False)
    return tmp_path


@pytest.fixture
def heard(monkeypatch):
    "What a command is given, without running it."
    found = []
    take = lambda args: found.append(args) or Answer("", {})
    for entry in {command.action for command in COMMANDS.values()}:
        module, _, name = entry.partition(":")
        monkeypatch.setattr(importlib.import_module(module), name, take)
    return lambda *line: (main([*line]), found[-1])[1]


def test_the_command_line_wins_over_the_file_and_the_file_over_what_is_built_in(home, heard):
    Path("debir.toml").write_text(
        'models = "nets"\ncamera = "gphoto2"\nverbose = true\nmemory = 4\n'
        '[restore]\nmemory = 6\nout = ["a.dng", "a.png"]\nrestorer = "kpn"\n[capture]\naccept = true\nout = "c"'
    )
    restored = heard("restore", "burst")
    assert (restored.models, restored.memory, restored.restorer) == ("nets", 6.0, "kpn")
    assert restored.out == [Path("a.dng"), Path("a.png")] and restored.voice == "verbose"
    said = heard(*"restore burst -o b.png -o c.png --memory 1 --models other --quiet".split())
    assert (said.models, said.memory, said.voice) == ("other", 1.0, "quiet")
    assert said.out == [Path("b.png"), Path("c.png")] and said.restorer == "kpn"
    taken = heard("capture")
    assert (taken.camera, taken.out, taken.accept, taken.timeout) == ("gphoto2", "c", True, 10.0)
    assert heard("export", "x.onnx").models == "nets" and heard("demo").out == "demo"


def test_the_working_folder_is_nearer_than_the_home_and_the_environment_than_both(
    home, heard, monkeypatch, capsys
):
    places = home / "xdg" / "debir.toml", home / "xdg" / "debir" / "debir.toml", Path("debir.toml")
    for k, place in enumerate(places):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f'models = "~/nets{k}"\nmemory = {k + 1}')
        said = heard("restore", "burst", "-o", "a.png", "--verbose")
        assert said.models == str(Path(f"~/nets{k}").expanduser()) and said.memory == k + 1
        assert f"settings: {place}" in capsys.readouterr().err
    monkeypatch.setenv("DEBIR_MODELS", "other")
    assert heard("restore", "burst", "-o", "a.png").models is None


@pytest.mark.parametrize(
    "text, words",
    [
        ("memroy = 4", "debir.toml: memroy is no option of any command: did you mean memory?"),
        ("[restor]\nmemory = 4", "debir.toml: restor is no command: did you mean restore?"),
        ("[restore]\ncamera = 'x'", "debir.toml: restore.camera is no option of `debir restore`"),
        ("[restore]\nrestorr = 'x'", "did you mean restorer?"),
        ("memory = 0", "debir.toml: memory: 0 is not a number above 0"),
        ("memory = nan", "nan is not a number above 0"),
        ("memory = '4'", "debir.toml: memory is '4': write a number"),
        ("memory = true", "debir.toml: memory is True: write a number"),
        ("models = 4", "debir.toml: models is 4: write text in quotes"),
        ("policy = 'brackets'", "debir.toml: policy is 'brackets': did you mean bracket?"),
        ("accept = 1", "debir.toml: accept is 1: write true or false"),
        ("[restore]\nout = []", "debir.toml: out is empty"),
        ("[restore]\nout = [1]", "debir.toml: out is 1: write text in quotes"),
        ("help = true", "debir.toml: help is no option"),
        ("memory =", "debir.toml is no TOML"),
        ("x = '\u00ff'", "debir.toml is no TOML"),
    ],
)
def test_a_slip_in_the_file_is_found_whatever_the_command(home, text, words, heard, capsys):
    Path("debir.toml").write_text(text, encoding="latin-1")
    for line in (["cameras"], ["restore", "burst", "-o", "x.png"]):
        status, out, err = run(line, capsys)
        assert status == 1 and out == "" and err.startswith("error: ") and words in err
        status, out, err = run([*line, "--json"], capsys)
        assert status == 1 and err == "" and words in json.loads(out)["error"]
    status, out, _ = run(["restore", "--help"], capsys)
    assert status == 0 and "example: " in out


# Slips, and words that a shell completes


@pytest.mark.parametrize(
    "line, words",
    [
        ("restor a", "did you mean restore?"),
        ("restore a -o x.png --memroy 4", "did you mean --memory?"),
        ("capture --out x --policy brackets", "did you mean bracket?"),
        ("cameras now", "unrecognized arguments: now"),
    ],
)
def test_a_slip_of_the_finger_is_told_what_was_meant(line, words, capsys):
    status, out, err = run(line.split(), capsys)
    assert status == 2 and words in err and out == ""
    for order in (["--json", *line.split()], [*line.split(), "--json"]):
        status, out, err = run(order, capsys)
        assert status == 2 and words in json.loads(out)["error"] and err == ""


def test_how_it_is_told_may_stand_before_the_command(heard):
    assert heard("--json", "--quiet", "cameras").json and heard("--quiet", "cameras").voice == "quiet"


@pytest.mark.parametrize(
    "line, words",
    [
        ("debir rest", ["restore"]),
        ("debir capture --po", ["--policy"]),
        ("debir capture --policy b", ["baenet", "bracket"]),
        ("debir restore nig", ["night"]),
    ],
)
def test_bash_completes_commands_options_and_folders(line, words, tmp_path, capsys):
    main(["completion", "bash"])
    (tmp_path / "debir.bash").write_text(capsys.readouterr().out)
    (tmp_path / "night").mkdir()
    (tmp_path / "nights.txt").write_text("")
    typed = line.split()
    ask = (
        f"source debir.bash; COMP_WORDS=({line}); COMP_CWORD={len(typed) - 1}; _shtab_debir debir"
        f" {typed[-1]} {typed[-2]}; printf '%s\\n' ${{COMPREPLY[@]}}"
    )
    done = subprocess.run(["bash", "-c", ask], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert sorted(done.stdout.split()) == words


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_has_every_command_and_option(shell, capsys):
    main(["completion", shell])
    said = capsys.readouterr().out
    _, commands = cli._parser()
    for name, parser in commands.items():
        assert name in said
        for option in cli.options_of(parser):
            assert (f"-l {option}" if shell == "fish" else f"--{option}") in said
    assert shutil.which(shell) is None or not subprocess.run([shell, "-n"], input=said, text=True).returncode


# Several folders


@pytest.fixture
def nights(burst, tmp_path, monkeypatch):
    "A working folder with two bursts without manifests, one of them of two frames, and a folder of none."
    for name, n in (("a", 4), ("b", 2)):
        (tmp_path / name).mkdir()
        for k in range(n):
            shutil.copy(burst / f"frame_{k + 1}.dng", tmp_path / name)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder):
    "Every file below a folder, by its path there."
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")}


def test_one_refusal_does_not_stop_the_others(nights, capsys):
    "What `-o` names lies in one of the inputs: it is not taken for a frame, and a second run gives the same."
    line = ["restore", "a", "empty", "b", "-o", "a/r.dng", "-o", "r.png", "--restorer", "merge"]
    before = contents(nights)
    status, out, err = run(line, capsys)
    assert status == 1 and "error: empty holds no frames" in err
    assert err.splitlines()[-1] == "error: 1 of 3 folders were not restored: empty"
    first, second = out.splitlines()
    assert first.startswith("a: 4 frames") and first.endswith(": a/r_a.dng, r_a.png")
    assert second.startswith("b: 2 frames") and second.endswith(": a/r_b.dng, r_b.png")
    made = contents(nights)
    assert {*made} - {*before} == {"a/r_a.dng", "a/r_b.dng", "r_a.png", "r_b.png"}
    assert before.items() <= made.items()
    status, out, err = run([*line, "--json"], capsys)
    said = json.loads(out)
    assert status == 1 and err == "" and said["error"] == "1 of 3 folders were not restored: empty"
    assert [row["folder"] for row in said["restored"]] == ["a", "empty", "b"]
    assert [row.get("frames") for row in said["restored"]] == [4, None, 2]
    assert said["restored"][1]["error"].startswith("empty holds no frames")
    assert said["restored"][2]["out"] == ["a/r_b.dng", "r_b.png"]
    assert contents(nights) == made


def test_what_is_passed_over_is_a_caution(nights, capsys):
    Path("b/lost.dng").symlink_to("nowhere.dng")
    line = ["restore", "b", "-o", "r.png", "--restorer", "merge"]
    note = "b: lost.dng is a link to no file and is passed over"
    assert json.loads(run([*line, "--json"], capsys)[1])["notes"] == [note]
    assert run([*line, "--quiet"], capsys)[2] == f"note: {note}\n"


def test_a_folder_restored_with_others_is_restored_as_alone(nights):
    line = ["restore", "-o", "r.dng", "--restorer", "merge", "--quiet"]
    main([*line, "b", "a"])
    main(["restore", "a", *line[1:]])
    assert Path("r.dng").read_bytes() == Path("r_a.dng").read_bytes() != Path("r_b.dng").read_bytes()


def test_no_result_takes_the_place_of_a_frame_of_any_folder(nights, capsys):
    shutil.move("b/frame_2.dng", "b/new_a.dng")
    before = contents(nights)
    status, out, err = run(["restore", "a", "b", "-o", "b/new.dng", "--restorer", "merge"], capsys)
    assert status == 1 and "error: a: b/new_a.dng is a frame of the burst itself" in err
    after = contents(nights)
    assert out.startswith("b: 2 frames") and {*after} - {*before} == {"b/new_b.dng"}
    assert before.items() <= after.items()


def test_folders_of_one_name_are_told_apart_and_one_given_twice_is_refused(nights):
    place = lambda *names: [
        [str(p) for p in out] for out in outputs([*map(Path, names)], [Path("r.png")]).values()
    ]
    assert place("a") == [["r.png"]]
    assert place("x/burst", "y/burst", "z") == [
        ["r_x_burst.png"],
        ["r_y_burst.png"],
        [f"r_{nights.name}_z.png"],
    ]
    assert place(".", "a") == [[f"r_{nights.name}.png"], ["r_a.png"]]
    for twice in (("a", "a"), ("a", "b/../a")):
        assert "is given 2 times" in fails("restore", *twice, "-o", "r.png")


# Trained networks


def test_networks_are_found_by_name_by_environment_and_in_the_package(models, tmp_path, monkeypatch):
    ours, shipped = [models / name for name in NETWORKS], [package() / "weights" / name for name in NETWORKS]
    assert network_files(models) == ours
    monkeypatch.setenv("DEBIR_MODELS", str(models))
    assert network_files() == ours and network_files(tmp_path.parent / models.name) == network_files(models)
    monkeypatch.delenv("DEBIR_MODELS")
    monkeypatch.chdir(tmp_path)
    assert network_files() == network_files("") == shipped and all(file.is_file() for file in shipped)


def test_a_folder_may_hold_one_of_the_two(models, tmp_path, monkeypatch):
    with pytest.raises(
        ValueError, match=f"{tmp_path} holds neither baenet.pt nor restorer.pt: name a folder"
    ):
        load_pretrained(tmp_path)
    shipped = load_pretrained()
    for k, name in enumerate(NETWORKS):
        (folder := tmp_path / name[:-3]).mkdir()
        (folder / name).write_bytes((models / name).read_bytes())
        monkeypatch.setenv("DEBIR_MODELS", str(folder))
        for found in (load_pretrained(), load_pretrained(folder)):
            assert type(found[k]) is type(load_pretrained(models)[k])
            theirs, others = found[1 - k].state_dict(), shipped[1 - k].state_dict()
            assert all(torch.equal(value, theirs[name]) for name, value in others.items())


def test_the_shipped_networks_need_no_project(tmp_path, monkeypatch):
    "In an empty folder, without DVC; BAENet answers and the restorer restores any number of frames."
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DEBIR_MODELS", raising=False)
    monkeypatch.setitem(sys.modules, "dvc", None)
    baenet, restorer = load_pretrained()
    assert not baenet.training and not restorer.training and not list(tmp_path.iterdir())
    assert {p.dtype for net in (baenet, restorer) for p in net.parameters()} == {torch.float32}
    with torch.no_grad():
        times = baenet(torch.rand(2, 4, 64, 64), torch.full((2,), 700.0), torch.tensor([0.0, 10.0]))
        for n in (1, 3, 9):
            picture = restorer(still_burst(0.5 + 0.01 * torch.randn(1, n, 4, 32, 32), 0.01))
            assert (picture - 0.5).abs().max() < 0.05
    assert times.shape == (2, 4) and (times[0] != times[1]).all()


@pytest.mark.parametrize("k", [0, 1])
def test_shipped_files_have_half_the_size_and_lose_rounding_only(tmp_path, k):
    "Kernels and matrices in half precision, the rest as it was; loaded into single precision."
    torch.manual_seed(0)
    network = (BAENet(), Kernels(16))[k].eval()
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.05)
    (ship(network, tmp_path / "small" / NETWORKS[k]), save_weights(network, tmp_path / "whole.pt"))
    assert (tmp_path / "small" / NETWORKS[k]).stat().st_size < 0.6 * (tmp_path / "whole.pt").stat().st_size
    for file in (tmp_path / "small" / NETWORKS[k], package() / "weights" / NETWORKS[k]):
        for name, value in read_tensors(file).items():
            exact = value.dtype.is_floating_point and value.ndim > 1
            assert (value.dtype == torch.float16) == exact, name
    loaded = load_pretrained(tmp_path / "small")[k]
    for name, value in network.state_dict().items():
        found = loaded.state_dict()[name]
        wanted = value.half().to(value) if value.dtype.is_floating_point and value.ndim > 1 else value
        assert found.dtype == value.dtype and torch.equal(found, wanted), name


def test_weights_that_half_precision_cannot_hold_are_not_shipped(tmp_path):
    network = torch.nn.Linear(2, 2)
    torch.nn.init.constant_(network.weight, 1e5)
    with pytest.raises(ValueError, match="weight has weights above 65504"):
        ship(network, tmp_path / "x.pt")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("n, features, channels", [(2, 8, 4), (4, 16, 3), (6, 8, 4)])
def test_sizes_follow_from_the_weights(tmp_path, n, features, channels):
    nets = BAENet(n, channels), Burstormer(n, features=features)
    for net, name in zip(nets, NETWORKS):
        save_weights(net, tmp_path / name)
    for saved, loaded in zip(nets, load_pretrained(tmp_path)):
        assert not loaded.training and all(
            torch.equal(v, loaded.state_dict()[k]) for k, v in saved.state_dict().items()
        )


def test_networks_that_do_not_fit_or_are_damaged_are_named(models, tmp_path):
    for name in NETWORKS:
        (tmp_path / name).write_bytes((models / name).read_bytes())
    save_weights(Burstormer(6, features=8), tmp_path / NETWORKS[1])
    with pytest.raises(ValueError, match="predicts 4 exposures.*takes 6 frames"):
        load_pretrained(tmp_path)
    save_weights(BAENet(), tmp_path / NETWORKS[1])
    with pytest.raises(ValueError, match="these weights lack conv1.0.weight"):
        load_pretrained(tmp_path)
    (tmp_path / NETWORKS[1]).write_bytes(b"PK" + bytes(300))
    with pytest.raises(ValueError, match="restorer.pt cannot be read"):
        load_pretrained(tmp_path)
    torch.save(
        {"conv1.0.weight": torch.zeros(8, 4, 3, 3), "rec_conv1.0.weight": torch.zeros(16, 32, 1, 1)},
        tmp_path / NETWORKS[1],
    )
    with pytest.raises(ValueError, match="these weights lack"):
        load_pretrained(tmp_path)


def test_export_is_the_trained_network_at_every_gain_motion_and_batch(models, tmp_path, capsys):
    pytest.importorskip("onnx"), pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    main(["export", str(tmp_path / "baenet.onnx"), "--models", str(models)])
    assert "preview (b, 4, h, w)" in capsys.readouterr().out
    session, net = runtime.InferenceSession(tmp_path / "baenet.onnx"), load_pretrained(models)[0]
    for b, gain, motion in ((1, 100.0, 0.0), (2, 512.0, 3.0), (5, 1024.0, 10.0), (3, 5000.0, 60.0)):
        preview, numbers = torch.rand(b, 4, 32, 32), torch.ones(b)
        (found,) = session.run(
            None,
            {
                "preview": preview.numpy(),
                "gain": (gain * numbers).numpy(),
                "motion": (motion * numbers).numpy(),
            },
        )
        with torch.no_grad():
            want = net(preview, gain * numbers, motion * numbers)
        np.testing.assert_allclose(found, want.numpy(), rtol=1e-4)


def test_export_without_its_package_or_to_another_format(models, tmp_path, monkeypatch):
    assert "write .onnx" in fails("export", tmp_path / "baenet.tflite", "--models", models)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert "debir_nb[onnx]" in fails("export", tmp_path / "baenet.onnx", "--models", models)
    assert not list(tmp_path.iterdir())
