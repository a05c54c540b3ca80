"""BAENet, libgphoto2's real driver and a camera made of software: previews, exposure times, burst, files, restored image."""

import json
import math

import pytest
import torch
from ptpip_camera import Emulator
from skimage.data import astronaut

from debir_nb.cameras import gphoto2
from debir_nb.cameras.capture import capture
from debir_nb.cameras.files import digital_gains, read_burst, restore_photos
from debir_nb.cameras.protocol import CameraLost, Shot, auto_exposure, departure
from debir_nb.core import generator
from debir_nb.light.dng import normalise, read_raw
from debir_nb.light.raw import random_colour, sample_cfa, unprocess
from debir_nb.policies.baenet import BAENet
from debir_nb.policies.rules import bracket
from debir_nb.weights.pretrained import load_pretrained

FULL = 2.1  # s of ISO 100 that saturate: about gain 256 at 1/120 s


@pytest.fixture
def emulator(tmp_path, monkeypatch):
    "A camera before a photograph, with the noise of the published ISO model."
    monkeypatch.setenv("HOME", str(tmp_path))
    photo = torch.from_numpy(astronaut()[:256, 96:352]).float().permute(2, 0, 1)[None] / 255
    scene = sample_cfa(unprocess(photo, random_colour(1, generator(0))))[0]
    torch.save(scene, tmp_path / "scene.pt")
    with Emulator() as running:
        running.options = dict(scene=str(tmp_path / "scene.pt"), full=FULL, noise=True)
        running.reset(**running.options)
        running.truth = scene
        yield running


def psnr(picture, truth):
    return -10 * math.log10(((picture - truth)[..., 8:-8, 8:-8] ** 2).mean().item())


def clean(emulator, frame):
    "What the frame would be without noise."
    return (emulator.truth * frame.achieved.value / FULL).clamp(0, 1)


def test_a_burst_from_preview_to_files(emulator, tmp_path):
    torch.manual_seed(0)
    taken = capture(gphoto2.open_camera(f"gphoto2:{emulator.port}"), BAENet().eval(), tmp_path / "burst")
    assert emulator.released()
    real = [Shot(t, iso / 100) for t, iso in emulator.log()["shots"]][-4:]
    files = [
        read_raw(tmp_path / "burst" / row["file"])
        for row in json.loads((tmp_path / "burst/manifest.json").read_text())["frames"]
    ]
    # the camera's log, the dials, EXIF and our files agree
    for shot, asked, frame, file in zip(real, taken.shots, taken.frames, files, strict=True):
        assert all(
            departure(shot, other) < 1e-6
            for other in (asked, frame.achieved, Shot(float(file.exposure), file.iso / 100))
        )
        assert read_raw(frame.file).exposure == frame.photo.exposure and frame.known_by == "EXIF"
    light, expected = (
        [f(frame).mean().item() for frame in taken.frames]
        for f in (lambda frame: normalise(frame.photo), lambda frame: clean(emulator, frame))
    )
    assert [one / light[0] for one in light] == pytest.approx(
        [one / expected[0] for one in expected], rel=0.02
    )


def test_the_restored_image_beats_the_best_frame(emulator, tmp_path):
    policy, restorer = load_pretrained()
    taken = capture(gphoto2.open_camera(f"gphoto2:{emulator.port}"), policy, tmp_path / "burst")
    photos = read_burst(sorted((tmp_path / "burst").glob("frame_*.dng")))
    truth = clean(emulator, taken.frames[0])
    single = [
        psnr((gain * normalise(photo)).clamp(0, 1), truth)
        for photo, gain in zip(photos, digital_gains(photos))
    ]
    restored = psnr(restore_photos(photos, restorer)[0], truth)
    print(f"best single frame {max(single):.2f} dB, restored {restored:.2f} dB")
    assert restored > max(single)


def break_burst(emulator, frame, fault):
    "Let something go wrong at a frame of the burst, counted from 0."
    with gphoto2.open_camera(f"gphoto2:{emulator.port}") as camera:  # how many previews does metering take?
        auto_exposure(camera)
    previews = len(emulator.log()["shots"]) + 2
    emulator.reset(faults={previews + frame: fault}, **emulator.options)


def test_a_cable_pulled_in_the_middle_leaves_the_frames_on_disk(emulator, tmp_path):
    policy = BAENet().eval()
    break_burst(emulator, 2, "unplug")
    with pytest.raises(CameraLost):
        capture(gphoto2.open_camera(f"gphoto2:{emulator.port}"), policy, tmp_path / "burst")
    written = json.loads((tmp_path / "burst/manifest.json").read_text())
    assert (
        not written["complete"]
        and "CameraLost" in written["error"]
        and len(written["frames"]) == len(list((tmp_path / "burst").glob("frame_*.dng"))) == 2
    )
    assert emulator.released()


@pytest.mark.parametrize(
    "fault, words", [("other_size", "frame 3 has the size"), ("other_cfa", "frame 3 has the Bayer pattern")]
)
def test_frames_of_two_kinds_in_one_burst_are_refused_and_kept(emulator, tmp_path, fault, words):
    break_burst(emulator, 2, fault)
    with pytest.raises(ValueError, match=words):
        capture(gphoto2.open_camera(f"gphoto2:{emulator.port}"), bracket(4), tmp_path / "burst")
    written = json.loads((tmp_path / "burst/manifest.json").read_text())
    assert (
        not written["complete"]
        and words in written["error"]
        and len(written["frames"]) == len(list((tmp_path / "burst").glob("frame_*.dng"))) == 3
    )
    assert emulator.released()
