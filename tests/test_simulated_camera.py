"The simulated camera: counts follow the exposure that was achieved, and two hundred bursts leave nothing behind."

import gc
import os
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from debir_nb.cameras.capture import capture
from debir_nb.cameras.files import digital_gains, from_red
from debir_nb.cameras.protocol import Camera, CameraBusy, CameraError, NoCamera, Shot, Steps
from debir_nb.cameras.simulated import (
    FREE,
    SimulatedCamera,
    Swinging,
    clip_radiance,
    counts_of,
    find_cameras,
    open_camera,
    scene_light,
)
from debir_nb.core import FRAME_GAP, FRAME_TIME, PREVIEW_GAP, PREVIEW_TIME, T_MIN, generator
from debir_nb.light.degradation import iso_noise
from debir_nb.light.dng import normalise
from debir_nb.light.raw import random_colour
from debir_nb.light.sensor import EqualBrightness
from debir_nb.light.simulator import Simulator, collect, mean_radiance
from debir_nb.policies.rules import bracket
from debir_nb.scenes.store import StoredLight, StoredScene, block_sums, encode_scene


def silent(gain):
    return 0 * gain, 0 * gain


def scene(ticks=228, side=32, moving=True):
    "Packed radiance that changes from tick to tick, or does not."
    x = torch.rand(1, ticks if moving else 1, 4, side, side, generator=generator(5))
    return collect((0.2 + 0.2 * x).expand(1, ticks, 4, side, side))


COLOUR = random_colour(1, generator(1))


def take(camera, shots):
    with camera:
        return list(camera.burst(shots))


def test_it_is_a_camera():
    assert isinstance(SimulatedCamera(scene(), COLOUR, 1.0), Camera)


def test_pixel_ratios_are_exposure_ratios():
    shots = [Shot(t, g) for t, g in ((T_MIN, 1), (2 * T_MIN, 1), (T_MIN, 4), (3.3 * T_MIN, 2.2))]
    frames = take(SimulatedCamera(scene(moving=False), COLOUR, 50 * T_MIN, noise=silent), shots)
    first = frames[0]
    for frame in frames[1:]:
        ratio = normalise(frame.photo).mean() / normalise(first.photo).mean()
        assert ratio == pytest.approx(frame.achieved.value / first.achieved.value, rel=5e-3)


def test_a_residual_of_a_sixth_of_a_stop_is_corrected_to_a_thousandth():
    value = 500 * PREVIEW_TIME
    asked = [
        Shot(t, value / t * 2**off) for t, off in ((0.005, -1 / 6), (0.0113, 0), (0.021, 0.1), (0.03, 1 / 6))
    ]
    frames = take(
        SimulatedCamera(scene(moving=False), COLOUR, value, replace(FREE, bits=16), noise=silent), asked
    )
    means = torch.tensor([normalise(f.photo).mean() for f in frames])
    corrected = torch.stack([d * m for d, m in zip(digital_gains([f.photo for f in frames]), means)])
    assert means.max() / means.min() > 1.2 and corrected.max() / corrected.min() - 1 < 1e-3


def test_the_camera_takes_the_nearest_step_and_tells_the_truth():
    frames = take(
        SimulatedCamera(
            scene(), COLOUR, 1.0, replace(FREE, exposures=Steps((0.005, 0.01)), gains=Steps((100.0, 200.0)))
        ),
        [Shot(0.0096, 170.0)],
    )
    assert frames[0].achieved == Shot(0.01, 200.0) and frames[0].known_by == "simulated"


def test_gaps_and_latency_are_kept():
    camera = SimulatedCamera(scene(), COLOUR, 1.0, frame_gap=0.004, preview_gap=0.02, latency=0.011)
    with camera:
        a, b = camera.preview(Shot(PREVIEW_TIME)), camera.preview(Shot(PREVIEW_TIME))
        frames = list(camera.burst([Shot(0.005), Shot(0.01), Shot(0.02)]))
    assert b.start - a.start == pytest.approx(PREVIEW_TIME + 0.02) and frames[
        0
    ].start - b.start - PREVIEW_TIME == pytest.approx(0.011)
    for before, after in zip(frames, frames[1:]):
        assert after.start - before.start - before.achieved.exposure == pytest.approx(0.004)


def test_previews_and_burst_lie_as_in_the_simulator():
    "The default gaps are those of the paper, so that camera and simulator see the same light."
    light, gain = scene(), torch.tensor([600.0])
    camera = SimulatedCamera(light, COLOUR, 600 * PREVIEW_TIME, noise=silent, preview_gap=PREVIEW_GAP)
    camera.clock = (79 - 7 - 16 - 39 - 16 - 39) * FRAME_TIME
    shots = [Shot(t, 600 * PREVIEW_TIME / t) for t in bracket(4).exposures.tolist()]
    with camera:
        frames = [camera.preview(Shot(PREVIEW_TIME, 600)) for _ in range(2)] + list(camera.burst(shots))
    simulator = Simulator(EqualBrightness(silent))
    expected = torch.cat(
        [
            *simulator.previews(light, gain, generator(0)),
            simulator.burst(light, bracket(4).exposures[None], gain, generator(0)).frames[0],
        ]
    )
    assert (torch.stack([normalise(f.photo) for f in frames]) - expected).abs().max() < 0.51 / (4095 - 256)
    torch.testing.assert_close(
        camera.truth(frames[2], camera.k), simulator.target(light), atol=1e-4, rtol=1e-4
    )


def test_noise_is_that_of_the_gain_and_counts_below_black_are_kept():
    k = 100 * PREVIEW_TIME
    (frame,) = take(
        SimulatedCamera(collect(torch.full((1, 228, 4, 64, 64), 0.3)), COLOUR, k), [Shot(PREVIEW_TIME, 100.0)]
    )
    shot, read = iso_noise(torch.tensor(100.0))
    assert normalise(frame.photo).std().item() == pytest.approx((read + 0.3 * shot).sqrt().item(), rel=0.03)
    (dark,) = take(
        SimulatedCamera(collect(torch.zeros(1, 228, 4, 64, 64)), COLOUR, k), [Shot(PREVIEW_TIME, 300.0)]
    )
    assert dark.photo.mosaic.min() < dark.photo.black.min() - 100 and abs(dark.photo.mosaic.mean() - 256) < 3


@pytest.mark.parametrize("bits, black", [(8, 0), (10, 64), (14, 512), (16, 1024)])
def test_depth_and_black_level(bits, black):
    light = collect(torch.linspace(0, 1.2, 4 * 16 * 16).reshape(1, 1, 4, 16, 16).expand(1, 228, 4, 16, 16))
    (frame,) = take(
        SimulatedCamera(light, COLOUR, T_MIN, replace(FREE, bits=bits), black, silent), [Shot(T_MIN)]
    )
    photo = frame.photo
    assert (
        photo.mosaic.dtype == np.uint16
        and photo.mosaic.min() == black == photo.black.max()
        and photo.mosaic.max() == photo.white == 2**bits - 1
    )


@pytest.mark.parametrize("pattern", ["RGGB", "GRBG", "GBRG", "BGGR"])
def test_every_tile_is_the_same_sensor_cut_elsewhere(pattern):
    shots = [Shot(T_MIN)]
    whole, cut = (
        take(SimulatedCamera(scene(), COLOUR, T_MIN, replace(FREE, pattern=p), noise=silent), shots)[0].photo
        for p in ("RGGB", pattern)
    )
    y, x = divmod(pattern.index("R"), 2)
    assert (cut.mosaic == whole.mosaic[y : 64 - y, x : 64 - x]).all() and cut.pattern == pattern
    back = from_red(cut)
    assert (
        back.mosaic == whole.mosaic[2 * y : 64 - 2 * y, 2 * x : 64 - 2 * x]
    ).all() and back.pattern == "RGGB"


def test_the_swinging_scene_is_the_scene_there_and_back():
    light, swinging = scene(ticks=20, side=2), Swinging(scene(ticks=20, side=2))

    def over(light, a, b):
        return mean_radiance(light, torch.tensor([[a * FRAME_TIME]]), torch.tensor([[b * FRAME_TIME]]))

    torch.testing.assert_close(over(swinging, 3.0, 11.0), over(light, 3.0, 11.0))
    torch.testing.assert_close(over(swinging, 40 - 11.0, 40 - 3.0), over(light, 3.0, 11.0))  # on the way back
    torch.testing.assert_close(over(swinging, 43.0, 51.0), over(light, 3.0, 11.0))
    # around the turning point
    torch.testing.assert_close(over(swinging, 15.0, 25.0), over(light, 15.0, 20.0))


def test_a_stored_scene_stands_before_the_camera():
    """Scenes of the pipeline are read from disk; bytes on a square-root scale cost at most one part in a
    hundred here.
    """
    x = 0.2 + 0.2 * torch.rand(228, 4, 16, 16, generator=generator(7))
    codes = encode_scene(x)
    stored = StoredLight((StoredScene(codes, block_sums(codes)),), torch.tensor([FRAME_TIME]), 228)
    kept, live = (
        take(SimulatedCamera(light, COLOUR, T_MIN, noise=silent), [Shot(T_MIN)] * 40)[-1]
        for light in (stored, collect(x[None]))
    )
    np.testing.assert_allclose(normalise(kept.photo), normalise(live.photo), rtol=0.01)


def test_one_holds_the_camera_at_a_time_and_only_within_its_block():
    camera = SimulatedCamera(scene(), COLOUR, 1.0)
    with pytest.raises(CameraError, match="not open"):
        camera.preview(Shot(PREVIEW_TIME))
    with camera, pytest.raises(CameraBusy):
        camera.__enter__()
    with pytest.raises(ZeroDivisionError), camera:
        raise ZeroDivisionError
    with camera:
        pass


def test_nothing_is_captured_before_it_is_asked_for_and_an_early_end_leaves_the_camera_usable():
    camera = SimulatedCamera(scene(), COLOUR, 1.0)
    with camera:
        burst = camera.burst([Shot(T_MIN)] * 4)
        assert camera.clock == 0
        next(burst)
        burst.close()
        assert camera.clock == pytest.approx(FRAME_GAP + T_MIN) and camera.preview(Shot(T_MIN))


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_two_hundred_bursts_leak_neither_file_handles_nor_memory(tmp_path):
    "A burst and its previews hold 200 KB of counts alone: kept, two hundred would be 40 MB."
    camera = SimulatedCamera(scene(side=64), COLOUR, 600 * PREVIEW_TIME)

    def shoot(n):
        for i in range(n):
            capture(camera, bracket(4), tmp_path / f"{n}_{i}")
        gc.collect()
        return len(os.listdir("/proc/self/fd")), resident()

    handles, memory = shoot(20)
    after = shoot(200)
    assert after[0] == handles and after[1] - memory < 12e6


def test_clips_and_photographs_stand_before_the_camera(tmp_path):
    y, x = np.mgrid[:80, :100]
    picture = np.stack([120 + 80 * np.sin(x / c + y / 9) for c in (3, 5, 7)], -1).astype(np.uint8)
    cv2.imwrite(str(tmp_path / "photo.png"), picture)
    (tmp_path / "clip_240fps").mkdir()
    for k in range(40):
        cv2.imwrite(str(tmp_path / "clip_240fps" / f"{k:03}.png"), np.roll(picture, k, 1))
    seen = {}
    for name in ("photo.png", "clip_240fps"):
        with open_camera(f"simulated:{tmp_path / name}", size=(64, 64)) as camera:
            seen[name] = camera.preview(Shot(PREVIEW_TIME, 700)).photo.mosaic
        assert seen[name].shape == (64, 64) and seen[name].std() > 50
    assert list(find_cameras()) == ["simulated"]
    with pytest.raises(NoCamera, match="does not exist"):
        open_camera("simulated:nowhere.mp4")
    with pytest.raises(ValueError, match="do not fit in"):
        open_camera(f"simulated:{tmp_path / 'photo.png'}", size=(128, 128))


@pytest.mark.parametrize(
    "settings, words",
    [({"k": 0.0}, "k is 0.0"), ({"black": 4095}, "below white"), ({"frame_gap": -1.0}, "cannot be negative")],
)
def test_impossible_cameras_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        SimulatedCamera(**{"light": scene(), "colour": COLOUR, "k": 1.0} | settings)


def test_a_camera_looks_at_one_scene():
    two = collect(torch.rand(2, 30, 4, 4, 4))
    with pytest.raises(ValueError, match="looks at one"):
        SimulatedCamera(two, COLOUR, 1.0)


def test_counts_refuse_an_unknown_pattern():
    with pytest.raises(ValueError, match="RGBG"):
        counts_of(torch.zeros(4, 2, 2), 0, 255, "RGBG")


def test_a_radiance_that_is_too_short_says_so(tmp_path):
    cv2.imwrite(str(tmp_path / "photo.png"), np.full((40, 40, 3), 90, np.uint8))
    from debir_nb.light.footage import open_clip

    radiance = clip_radiance(open_clip(tmp_path / "photo.png"), (32, 32))
    with pytest.raises(ValueError, match="do not exist"):
        scene_light(radiance, COLOUR, 10_000)
