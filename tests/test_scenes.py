"Scenes: no leaks between splits, faithful storage, and clear answers to bad footage."
import cv2
import numpy as np
import pytest
import torch

from debir_nb import scenes
from debir_nb.core import FRAME_TIME, T_MIN, generator
from debir_nb.footage import find_clips
from debir_nb.raw import random_colour, sample_cfa, unprocess
from debir_nb.scenes import (FIRST_TICK, LEVELS, SPLITS, SceneStore, build_scenes, check_space, cut_scene, frames_needed, observe, plan_scenes, random_gains,
                             split_sources)
from debir_nb.simulator import Simulator

COUNTS, SIZES, SHARES = {"restore": 3, "baenet": 2, "test": 2}, {"restore": 32, "baenet": 32, "test": 48}, (.4, .3, .3)


def texture(height, width, shift=0.):
    y, x = np.mgrid[:height, :width].astype(np.float32)
    x = x - shift
    return np.stack([110 + 60*np.sin(x/5 + y/9), 110 + 60*np.sin(y/6 - x/11), 110 + 60*np.sin((x + y)/8)], -1).round().astype(np.uint8)


@pytest.fixture(scope="module")
def footage(tmp_path_factory):
    "Three recordings at 240 frames/s, moving by 0, 1 and 2 px a frame, and one photograph."
    folder = tmp_path_factory.mktemp("footage")
    for name, speed in (("still", 0), ("walk", 1), ("run", 2)):
        (folder/f"{name}_240fps").mkdir()
        for k in range(34): cv2.imwrite(str(folder/f"{name}_240fps"/f"{k:03d}.png"), texture(80, 100, speed*k)[..., ::-1])
    cv2.imwrite(str(folder/"photo.png"), texture(80, 100)[..., ::-1])
    return folder


@pytest.fixture(scope="module")
def built(footage, tmp_path_factory):
    folder, clips = tmp_path_factory.mktemp("scenes"), find_clips(footage)
    plan = plan_scenes(clips, COUNTS, SIZES, SHARES, 228, seed=1)
    build_scenes(clips, plan, folder, 228)
    return folder, clips, plan


@pytest.mark.parametrize("n, shares", [(3, (.8, .1, .1)), (7, (.1, .1, .8)), (40, (.5, .2, .3))])
def test_no_split_is_empty_and_no_source_in_two(n, shares):
    dealt = split_sources([f"s{i}" for i in range(n)]*2, shares)
    assert len(dealt) == n and set(dealt.values()) == set(SPLITS)
    if n == 40: assert [list(dealt.values()).count(s) for s in SPLITS] == [20, 8, 12]


def test_splits_do_not_depend_on_the_order_of_sources_but_on_the_seed():
    names = [f"s{i}" for i in range(20)]
    assert split_sources(names, (.5, .2, .3)) == split_sources(names[::-1], (.5, .2, .3)) != split_sources(names, (.5, .2, .3), seed=1)


def test_sources_are_disjoint_and_sizes_right(built):
    folder, _, _ = built
    stores = {split: SceneStore(folder, split) for split in SPLITS}
    sources = [set(store.column("source")) for store in stores.values()]
    assert not sources[0] & sources[1] and not sources[0] & sources[2] and not sources[1] & sources[2]
    for split, store in stores.items(): assert len(store) == COUNTS[split] and store.raw.shape == (COUNTS[split], 228, 4, SIZES[split]//2, SIZES[split]//2)


def test_the_ground_truth_is_a_filmed_frame(built):
    "At 240 frames/s tick 79 of a scene is frame 10 of its footage, untouched by interpolation."
    folder, clips, plan = built
    by_name = {clip.name: clip for clip in clips}
    for scene in plan:
        clip = by_name[scene["clip"]]
        frame = scene["start_frame"] + (FIRST_TICK + 79)//8 if clip.n_frames > 1 else 0
        crop = clip.frames(frame, frame + 1)[:, :, scene["y"]:scene["y"] + scene["size"], scene["x"]:scene["x"] + scene["size"]]
        want = sample_cfa(unprocess(crop[None]/255, random_colour(1, generator(scene["seed"])))[0])[0]
        store = SceneStore(folder, scene["split"])
        got = Simulator().target(store.light(torch.tensor([scene["row"]])))[0]
        assert (got - want.clamp(0, 65535/LEVELS)).abs().max() < 1/LEVELS + 3e-5  # storage, and float32's running sum


def test_a_photograph_stands_still(footage):
    photo = next(clip for clip in find_clips(footage) if clip.n_frames == 1)
    frames = cut_scene(photo, photo.frames().permute(0, 2, 3, 1).numpy(), {"start_frame": 0, "y": 3, "x": 5, "size": 32}, 50)
    assert frames.shape == (50, 3, 32, 32) and (frames == frames[:1]).all() and frames_needed(photo, 228) == 1


def test_stored_motion_follows_true_motion(built):
    _, _, plan = built
    by_clip = {scene["clip"]: scene["motion"] for scene in plan}
    assert by_clip.get("still_240fps", 0) < .5
    if "walk_240fps" in by_clip and "run_240fps" in by_clip: assert by_clip["run_240fps"] > by_clip["walk_240fps"] > .5


def test_a_rebuild_gives_the_same_scenes(built, tmp_path):
    folder, clips, plan = built
    build_scenes(clips, plan_scenes(clips, COUNTS, SIZES, SHARES, 228, seed=1), tmp_path, 228)
    for split in SPLITS: assert (tmp_path/f"{split}.npy").read_bytes() == (folder/f"{split}.npy").read_bytes()
    assert (tmp_path/"scenes.csv").read_text() == (folder/"scenes.csv").read_text()


def test_light_holds_what_a_frame_of_footage_holds(built):
    store = SceneStore(built[0], "restore")
    held = store.light(torch.arange(len(store))).frame_exposure
    assert [round(h/FRAME_TIME) for h in held.tolist()] == [1 if row["fps"] == "inf" else 8 for row in store.table] and held.max() <= T_MIN


def test_a_policy_is_shown_preview_gain_and_motion(built):
    store, some = SceneStore(built[0], "test"), torch.tensor([0, 1])
    preview, gain, motion = observe(Simulator(), store.light(some), random_gains(2, generator(0)), store.colour(some), generator(1))
    assert preview.shape == (2, 4, 24, 24) and ((gain >= 512) & (gain <= 1024)).all() and motion.shape == (2,) and preview.std() > 0


@pytest.mark.parametrize("change, words", [
    ({"counts": {**COUNTS, "test": 1}, "sizes": {**SIZES, "test": 31}}, "is 31: a Bayer crop needs an even side"),
    ({"sizes": {**SIZES, "test": 128}}, "needs 128 px"), ({"n_ticks": 400}, "has 34 frames, a scene of 400 ticks needs"),
    ({"shares": (.5, .5, .5)}, "shares are"), ({"clips": 2}, "three are needed")])
def test_plans_that_cannot_be(footage, change, words):
    arguments = {"clips": find_clips(footage), "counts": COUNTS, "sizes": SIZES, "shares": SHARES, "n_ticks": 228, "seed": 0} | change
    if arguments["clips"] == 2: arguments["clips"] = find_clips(footage)[:2]
    with pytest.raises(ValueError, match=words): plan_scenes(**arguments)


def test_too_small_a_disk_leaves_nothing_behind(built, tmp_path, monkeypatch):
    _, clips, plan = built
    monkeypatch.setattr(scenes.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 10**5})())
    with pytest.raises(ValueError, match="make room or lower the scene counts"): build_scenes(clips, plan, tmp_path, 228)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="free"): check_space(tmp_path, plan, 228)


def test_a_clip_that_ends_while_scenes_are_built_leaves_no_store(built, tmp_path, monkeypatch):
    _, clips, plan = built
    monkeypatch.setattr(scenes, "cut_scene", lambda *_: (_ for _ in ()).throw(ValueError("clip ends before frame 3")))
    with pytest.raises(ValueError, match="clip ends"): build_scenes(clips, plan, tmp_path, 228)
    assert not list(tmp_path.iterdir())


def test_stores_that_are_not_there(built, tmp_path):
    with pytest.raises(ValueError, match="run the stage scenes first"): SceneStore(tmp_path, "test")
    with pytest.raises(ValueError, match="split is 'validate'"): SceneStore(built[0], "validate")
