"""The annotations are true: with every call checked by jaxtyping and beartype, tiny footage goes through the whole library.

The check is switched on when a module is first imported, hence the process of its own.
"""

import importlib
import os
import pkgutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]


def test_annotations_hold():
    # on tiny tensors threads only wait for each other
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    run = subprocess.run([sys.executable, __file__], env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]


def film_clips(folder, draws):
    "Two photographs and a clip of 240 frames/s with hand shake and a moving object."
    import cv2

    from debir_nb.light.radiance import MovingObject, MovingPhotograph, cut_out, film, hand_shake, to_display

    photo = cv2.GaussianBlur(torch.rand(96, 96, 3, generator=draws).numpy(), (0, 0), 2)
    ball = MovingObject(cut_out(photo, 10, 10, 20, 20), (30.0, 30.0), (100.0, 0.0))
    scene = MovingPhotograph(photo, (64, 64), hand_shake(draws, 0.3, 50.0), (ball,), duration=0.3)
    (folder / "hfr240_shake").mkdir(parents=True)
    for i, frame in enumerate(film(scene, 50)):
        cv2.imwrite(str(folder / "hfr240_shake" / f"{i:03}.png"), frame)
    for name, shift in (("leaf", 0), ("stone", 20)):
        cv2.imwrite(str(folder / f"{name}.png"), to_display(np.roll(photo, shift, 0)))


def travel(folder):
    "Footage to scenes, scenes to losses, and a comparison of two policies."
    from debir_nb.core import generator
    from debir_nb.light.footage import find_clips
    from debir_nb.light.sensor import EqualBrightness
    from debir_nb.light.simulator import Simulator
    from debir_nb.policies.baenet import BAENet
    from debir_nb.policies.rules import bracket
    from debir_nb.restorers.burstormer import Burstormer
    from debir_nb.scenes.build import build_scenes
    from debir_nb.scenes.plan import SPLITS, plan_scenes
    from debir_nb.scenes.store import SceneStore
    from debir_nb.scoring.evaluate import evaluate
    from debir_nb.scoring.metrics import paired_difference
    from debir_nb.scoring.search import candidate_errors, candidates
    from debir_nb.training.losses import debir_loss, draw_scenes, pretraining_loss, warm_up_loss

    draws, simulator = generator(0), Simulator(EqualBrightness(jitter=True))
    film_clips(folder / "clips", draws)
    clips = find_clips(folder / "clips").clips
    plan = plan_scenes(
        clips, dict.fromkeys(SPLITS, 2), dict.fromkeys(SPLITS, 32), (0.4, 0.3, 0.3), simulator.ticks(4), 0
    )
    build_scenes(clips, plan, folder / "scenes", simulator.ticks(4))
    store, policy, restorer = (
        SceneStore(folder / "scenes", "restore"),
        BAENet().eval(),
        Burstormer(features=8),
    )
    pretraining_loss(restorer, store, simulator, [4], 2, draws)
    debir_loss(policy, restorer, store, simulator, 2, draws)
    _, light, gain = draw_scenes(store, 2, draws, torch.device("cpu"))
    best = candidate_errors(restorer, simulator, light, gain, candidates(4), (0,)).argmin(1)
    warm_up_loss(bracket(4)(torch.zeros(2, 4, 16, 16), gain, gain), candidates(4)[best])
    test = SceneStore(folder / "scenes", "test")
    ours, theirs = (evaluate(p, restorer, test, Simulator(), 0, border=2) for p in (policy, bracket(4)))
    paired_difference(ours["psnr"], theirs["psnr"], ["one", "two"])


def develop_photo(folder):
    "Linear light to a RAW file and back to display values."
    from debir_nb.core import generator
    from debir_nb.light.degradation import degrade
    from debir_nb.light.dng import dng_colour, normalise, read_raw, to_counts, write_dng
    from debir_nb.light.raw import develop, pack, random_colour

    colour = random_colour(1, generator(0))
    packed = pack(degrade(torch.rand(1, 4, 3, 32, 32), torch.tensor([4.0]), 1 / 120, generator(1)))[0]
    write_dng(
        folder / "x.dng",
        to_counts(packed, 64, 1023),
        exposure=1 / 120,
        iso=400,
        black=64,
        white=1023,
        **dng_colour(colour),
    )
    photo = read_raw(folder / "x.dng")
    assert (normalise(photo) - packed).abs().max() < 1 / 900
    develop(normalise(photo)[None], photo.colour())


def calibrate():
    "Flats and darks to the noise of a simulator."
    from debir_nb.core import generator
    from debir_nb.light.calibration import gain_noise, photon_transfer
    from debir_nb.light.degradation import add_noise
    from debir_nb.light.sensor import EqualBrightness

    draws, noise = generator(0), (torch.full((3,), 1e-3), torch.full((3,), 1e-5))
    flats, darks = (
        [add_noise(torch.full((3, 4, 32, 32), level), *noise, draws) for level in (0.2, 0.5)],
        add_noise(torch.zeros(3, 4, 32, 32), *noise, draws),
    )
    fit = photon_transfer(flats, darks, step=1e-6).pooled
    EqualBrightness(gain_noise(torch.ones(1, dtype=torch.float64), fit.shot[None], fit.read[None])).noise(
        torch.ones(2, 4)
    )


def take_burst(folder):
    "A camera's burst to a restored picture."
    from debir_nb.cameras.capture import capture
    from debir_nb.cameras.files import restore_folder, save_restored
    from debir_nb.cameras.simulated import open_camera
    from debir_nb.policies.baenet import BAENet
    from debir_nb.restorers.burstormer import Burstormer

    taken = capture(open_camera(size=(48, 48)), BAENet().eval(), folder / "burst")
    restored, reference = restore_folder(folder / "burst", Burstormer(features=8).eval())
    save_restored(folder / "restored.png", restored, reference)
    assert len(taken.frames) == 4


def attend_course():
    "Scenes and self-checks of the lessons."
    from debir_nb.course.checks import check_loss, check_photon_transfer, check_take, moving_scenes

    assert len(moving_scenes(("coffee",), 5, 0).motion) == 5
    for check in (check_loss, check_photon_transfer, check_take):
        assert not check(lambda *given: ...)


def main():
    from jaxtyping import TypeCheckError, install_import_hook

    with install_import_hook("debir_nb", "beartype.beartype"):
        import debir_nb

        for module in pkgutil.walk_packages(debir_nb.__path__, "debir_nb."):
            importlib.import_module(module.name)
    with tempfile.TemporaryDirectory() as folder:
        travel(Path(folder))
        develop_photo(Path(folder))
        take_burst(Path(folder))
    calibrate()
    attend_course()
    try:
        debir_nb.light.degradation.burst_gains(torch.ones(2, 2), torch.ones(3))
    except TypeCheckError:
        return
    raise AssertionError("the check is not switched on")


if __name__ == "__main__":
    main()
