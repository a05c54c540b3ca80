"Scenes: no leaks between splits, faithful storage, and clear answers to bad footage."

import itertools
import math
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from debir_nb.core import FRAME_TIME, T_MIN, generator
from debir_nb.light.dng import write_dng
from debir_nb.light.footage import Shake, find_clips, raw_light
from debir_nb.light.radiance import to_display
from debir_nb.light.raw import random_colour, sample_cfa, srgb_to_linear, to_camera, unprocess
from debir_nb.light.simulator import Simulator, mean_radiance
from debir_nb.policies.protocol import observe, random_gains
from debir_nb.scenes import build as scenes
from debir_nb.scenes.build import build_scenes, check_space, cut_scene, turned
from debir_nb.scenes.plan import (
    FIRST_TICK,
    SPLITS,
    PlannedScene,
    check_near_duplicates,
    frames_needed,
    plan_scenes,
    split_clips,
    split_sources,
)
from debir_nb.scenes.store import LEVELS, SceneStore, StoredScene, block_sums, levels

COUNTS, SIZES, SHARES = (
    {"restore": 3, "baenet": 2, "test": 2},
    {"restore": 32, "baenet": 32, "test": 48},
    (0.4, 0.3, 0.3),
)


# a scene at the beginning and in the corner of a clip
REST = PlannedScene(
    split="test",
    row=0,
    clip="photo",
    source="photo",
    fps=math.inf,
    slowed=1.0,
    licence="",
    start_frame=0,
    y=0,
    x=0,
    size=32,
    symmetry=0,
    speed=0.0,
    seed=7,
)


def texture(height, width, shift=0.0, scale=1.0):
    y, x = scale * np.mgrid[:height, :width].astype(np.float32)
    x = x - scale * shift
    return (
        np.stack(
            [
                110 + 60 * np.sin(x / 5 + y / 9),
                110 + 60 * np.sin(y / 6 - x / 11),
                110 + 60 * np.sin((x + y) / 8),
            ],
            -1,
        )
        .round()
        .astype(np.uint8)
    )


@pytest.fixture(scope="module")
def footage(tmp_path_factory):
    """Three recordings at 240 frames/s, moving by 0, 1 and 2 px a frame, one photograph and one RAW
    photograph.
    """
    folder = tmp_path_factory.mktemp("footage")
    for scale, name, speed in ((1, "still", 0), (0.7, "walk", 1), (0.5, "run", 2)):
        (folder / f"{name}_240fps").mkdir()
        for k in range(34):
            cv2.imwrite(
                str(folder / f"{name}_240fps" / f"{k:03d}.png"), texture(80, 100, speed * k, scale)[..., ::-1]
            )
    cv2.imwrite(str(folder / "photo.png"), texture(80, 100, 0, 1.4)[..., ::-1])
    counts = (
        cv2.resize(
            np.random.default_rng(0).uniform(300, 12000, (10, 13)), (200, 160), interpolation=cv2.INTER_CUBIC
        )
        .clip(256, 16000)
        .astype(np.uint16)
    )
    write_dng(
        folder / "camera.dng",
        counts,
        exposure=1 / 60,
        iso=100,
        black=256,
        white=16383,
        as_shot_neutral=(0.5, 1.0, 0.7),
    )
    return folder


@pytest.fixture(scope="module")
def built(footage, tmp_path_factory):
    folder, clips = tmp_path_factory.mktemp("scenes"), find_clips(footage).clips
    plan = plan_scenes(clips, COUNTS, SIZES, SHARES, 228, seed=1)
    build_scenes(clips, plan, folder, 228)
    return folder, clips, plan


@pytest.mark.parametrize("n, shares", [(3, (0.8, 0.1, 0.1)), (7, (0.1, 0.1, 0.8)), (40, (0.5, 0.2, 0.3))])
def test_no_split_is_empty_and_no_source_in_two(n, shares):
    dealt = split_sources([f"s{i}" for i in range(n)] * 2, shares)
    assert len(dealt) == n and set(dealt.values()) == set(SPLITS)
    if n == 40:
        assert [list(dealt.values()).count(s) for s in SPLITS] == [20, 8, 12]


def test_splits_do_not_depend_on_the_order_of_sources_but_on_the_seed():
    names = [f"s{i}" for i in range(20)]
    assert (
        split_sources(names, (0.5, 0.2, 0.3))
        == split_sources(names[::-1], (0.5, 0.2, 0.3))
        != split_sources(names, (0.5, 0.2, 0.3), seed=1)
    )


def test_declared_splits_are_kept_and_the_rest_is_dealt(footage):
    clips = find_clips(footage).clips
    names = sorted({clip.source for clip in clips})
    held = split_clips(
        [replace(clip, split="test") if clip.source == names[0] else clip for clip in clips], SHARES, 0
    )
    assert held[names[0]] == "test" and {source: held[source] for source in names[1:]} == split_sources(
        names[1:], SHARES, 0
    )
    every = dict(zip(names, itertools.cycle(SPLITS)))
    assert split_clips([replace(clip, split=every[clip.source]) for clip in clips], SHARES, 0) == every


@pytest.mark.parametrize(
    "splits, words",
    [
        (["validation", "", "", ""], "declares the split 'validation': write one of restore, baenet, test"),
        (["test"] * 4, "no source is left for restore, baenet"),
        (["test", "restore"], "declare different splits"),
    ],
)
def test_declared_splits_that_cannot_be(footage, splits, words):
    clip = find_clips(footage).clips[0]
    same = len(splits) == 2
    clips = [
        replace(clip, split=split, source=clip.source if same else f"s{i}") for i, split in enumerate(splits)
    ]
    with pytest.raises(ValueError, match=words):
        split_clips(clips, SHARES)


def test_sources_are_disjoint_and_sizes_right(built):
    folder, _, _ = built
    stores = {split: SceneStore(folder, split) for split in SPLITS}
    sources = [set(store.column("source")) for store in stores.values()]
    assert not sources[0] & sources[1] and not sources[0] & sources[2] and not sources[1] & sources[2]
    for split, store in stores.items():
        assert len(store) == COUNTS[split]
        for i, row in enumerate(store.table):
            assert store.scene(i).codes.shape == (
                1 if row["fps"] == "inf" else 228,
                4,
                SIZES[split] // 2,
                SIZES[split] // 2,
            )


def test_the_ground_truth_is_a_filmed_frame(built):
    "At 240 frames/s tick 79 of a scene is frame 10 of its footage, untouched by interpolation."
    folder, clips, plan = built
    by_name = {clip.name: clip for clip in clips}
    for scene in plan:
        clip = by_name[scene.clip]
        if clip.is_raw:
            continue
        frame = scene.start_frame + (FIRST_TICK + 79) // 8 if clip.n_frames > 1 else 0
        y, x, size = scene.y, scene.x, scene.size
        crop = turned(clip.frames(frame, frame + 1)[:, :, y : y + size, x : x + size] / 255, scene.symmetry)
        want = sample_cfa(unprocess(crop[None], random_colour(1, generator(scene.seed)))[0])[0]
        store = SceneStore(folder, scene.split)
        got = Simulator().target(store.light(torch.tensor([scene.row])))[0]
        # half a step of the photograph, at most 0.0045 of the light, and up to three times that where gains
        # fade near white
        dither = 0.012 if clip.n_frames == 1 else 0
        assert (
            (got - want.clamp(0, 65535 / LEVELS)).abs() <= (2 * want.clamp(0)).sqrt() / 255 + 1e-4 + dither
        ).all()  # half a step of a byte on the square-root scale


def test_a_raw_photograph_keeps_its_light_and_its_colours(built):
    folder, clips, plan = built
    photo = next(clip for clip in clips if clip.is_raw)
    scene = next(scene for scene in plan if scene.clip == "camera")
    y, x, size, some = scene.y, scene.x, scene.size, torch.tensor([scene.row])
    store = SceneStore(folder, scene.split)
    light = turned(raw_light(photo.raw())[None, :, y : y + size, x : x + size], scene.symmetry)
    assert (Simulator().target(store.light(some))[0] - sample_cfa(light)[0]).abs().max() < 1 / LEVELS
    assert torch.allclose(store.colour(some).red_gain, torch.tensor([2.0])) and torch.allclose(
        store.colour(some).rgb2cam, photo.raw().colour().rgb2cam, atol=1e-6
    )


@pytest.mark.parametrize("n", [1, 16, 37, 228])
def test_sums_equal_the_brute_force_sum_of_all_ticks(n):
    codes = np.random.default_rng(n).integers(0, 256, (n, 4, 3, 5), dtype=np.uint8)
    scene, ticks = StoredScene(codes, block_sums(codes)), list(range(n + 1))
    brute = np.concatenate([np.zeros((1, 4, 3, 5)), (levels(codes) / LEVELS).astype(np.float64).cumsum(0)])
    assert np.abs(scene.sums(ticks) - brute).max() <= 1e-5 * brute.max()
    assert np.array_equal(scene.sums([n, 0, n]), scene.sums(ticks)[[n, 0, n]])
    if n == 1:
        # a scene at rest goes on for ever
        assert np.allclose(scene.sums([0, 228]), brute[[0, 1]] * [[[[1]]], [[[228]]]])


@pytest.fixture(scope="module")
def edge(tmp_path_factory):
    """A bright half-plane that moves right by half a pixel a tick, filmed with an open shutter at 240 and at
    1920 frames/s, and a picture that stands still.
    """
    folder, x = tmp_path_factory.mktemp("edge"), np.arange(192)
    for name, fps in (("fast_1920fps", 1920), ("slow_240fps", 240)):
        (folder / "clips" / name).mkdir(parents=True)
        step = 960 / fps  # px a frame
        for k in range(240 * fps // 1920 + 2):
            # linear, averaged while the edge crosses a pixel
            light = np.clip((20 + step * (k + 1) - x) / step, 0, 1) * 0.5 + 0.1
            cv2.imwrite(
                str(folder / "clips" / name / f"{k:03d}.png"),
                to_display(np.broadcast_to(light[None, :, None], (64, 192, 3)).astype(np.float32)),
            )
    (folder / "clips" / "still_240fps").mkdir()
    for k in range(34):
        cv2.imwrite(str(folder / "clips" / "still_240fps" / f"{k:03d}.png"), texture(64, 192))
    clips = find_clips(folder / "clips").clips
    plan = [
        replace(REST, row=i, clip=clip.name, source=clip.source, fps=clip.fps, x=40, size=64)
        for i, clip in enumerate(clips)
    ]
    build_scenes(clips, plan, folder / "scenes", 228)
    return SceneStore(folder / "scenes", "test")


def exposed(store, i, ticks):
    start = torch.tensor([[79 * FRAME_TIME]])
    return mean_radiance(store.light(torch.tensor([i])), start, start + ticks * FRAME_TIME)[0, 0]


@pytest.mark.parametrize("ticks", [9, 16.5, 33.25, 64])
def test_what_stands_still_has_one_mean_however_long_it_is_exposed(edge, ticks):
    assert (exposed(edge, 2, ticks) - exposed(edge, 2, 8)).abs().max() < 1e-4


@pytest.mark.parametrize("ticks", [24, 40, 64])
def test_blur_is_as_long_as_speed_times_exposure(edge, ticks):
    "Exactly where frames are instants; frames that hold 8 ticks keep its extent and soften its ends."

    def ramp(i):
        row = exposed(edge, i, ticks)[1, 16].numpy()  # green, every second pixel
        row = (row - row.min()) / (row.max() - row.min())
        return np.interp([-0.75, -0.25], -row, 2 * np.arange(32)), 2 * np.count_nonzero(
            (row > 0.002) & (row < 0.998)
        )

    (low, high), _ = ramp(0)
    # half of a straight ramp lies between a quarter and three quarters
    assert abs(2 * (high - low) / (ticks / 2) - 1) < 0.02
    assert abs(ramp(1)[1] - ticks / 2) <= 3


def test_near_duplicates_in_different_splits_are_an_error(footage, tmp_path):
    shutil.copytree(footage, tmp_path / "again")
    for k in range(34):
        shutil.copy(
            tmp_path / "again" / "walk_240fps" / f"{k:03d}.png",
            (tmp_path / "again").joinpath("copy_240fps").mkdir(exist_ok=True)
            or tmp_path / "again" / "copy_240fps",
        )
    clips = find_clips(tmp_path / "again").clips
    with pytest.raises(
        ValueError, match="look alike: 'copy_240fps' .* and 'walk_240fps' .*same source in footage.yaml"
    ):
        check_near_duplicates(
            clips, {clip.source: "test" if "walk" in clip.source else "restore" for clip in clips}
        )
    check_near_duplicates(
        clips,
        {
            clip.source: "test" if clip.source in ("walk_240fps", "copy_240fps") else "restore"
            for clip in clips
        },
    )


def test_a_photograph_stands_still(footage):
    photo = next(clip for clip in find_clips(footage).clips if clip.name == "photo")
    frames = cut_scene(photo, photo.frames().permute(0, 2, 3, 1).numpy(), replace(REST, y=3, x=5), 50)
    assert frames.shape == (1, 3, 32, 32) and frames_needed(photo, 228) == 1
    codes = photo.frames()[0, :, 3:35, 5:37]
    assert (frames[0] - srgb_to_linear(codes / 255)).abs().max() < 0.005 and len(frames.unique()) > 2 * len(
        codes.unique()
    )  # light between the 8-bit levels


@pytest.mark.parametrize("raw", [False, True])
def test_a_photograph_filmed_by_a_hand_moves_and_says_how_fast(footage, tmp_path, raw):
    shutil.copytree(footage, tmp_path / "footage")
    (tmp_path / "footage" / "footage.yaml").write_text(
        "photo: {shake: {speed: 3, objects: 1}}\ncamera: {shake: {speed: 3, readout: 0.01}}\n"
    )
    clips = find_clips(tmp_path / "footage").clips
    clip = next(clip for clip in clips if clip.name == ("camera" if raw else "photo"))
    assert clip.shake == (Shake(3, 2, 0.01) if raw else Shake(3, 1, 0.0))
    plan = plan_scenes(clips, dict.fromkeys(SPLITS, 12), SIZES, SHARES, 228, seed=1)
    speeds = [scene.speed for scene in plan if scene.clip == clip.name]
    assert 0 <= min(speeds) < 1 < max(speeds) <= 3
    assert all(scene.speed == 0 for scene in plan if scene.clip not in ("photo", "camera"))
    mine = sorted((scene for scene in plan if scene.clip == clip.name), key=lambda scene: scene.speed)
    plan = [replace(scene, row=row, split="test") for row, scene in enumerate(mine)]
    build_scenes(clips, plan, tmp_path / "scenes", 228)
    store = SceneStore(tmp_path / "scenes", "test")
    motion = [float(row["motion"]) for row in store.table]
    assert (
        store.scene(0).codes.dtype == np.uint8
        and len(store.scene(0).codes) == 228
        and np.corrcoef([scene.speed for scene in plan], motion)[0, 1] > 0.6
    )
    last = plan[-1]
    photo = raw_light(clip.raw()) if raw else srgb_to_linear(clip.frames()[0] / 255)
    if not raw:
        photo = to_camera(photo[None], random_colour(1, generator(last.seed)))[0]
    light = store.light(torch.tensor([len(plan) - 1]))
    assert abs(
        Simulator().target(light).mean() - photo.mean()
    ) < 0.15 * photo.mean() and light.frame_exposure.item() == pytest.approx(FRAME_TIME)


def test_stored_motion_follows_true_motion(built):
    by_clip = {
        row["clip"]: float(row["motion"]) for split in SPLITS for row in SceneStore(built[0], split).table
    }
    assert all(by_clip.get(name, 0) < 0.5 for name in ("still_240fps", "photo", "camera"))
    if "walk_240fps" in by_clip and "run_240fps" in by_clip:
        assert by_clip["run_240fps"] > by_clip["walk_240fps"] > 0.5


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_rebuild_gives_the_same_bytes(built, tmp_path):
    folder, clips, plan = built
    build_scenes(clips, plan_scenes(clips, COUNTS, SIZES, SHARES, 228, seed=1), tmp_path / "scenes", 228)
    assert contents(tmp_path / "scenes") == contents(folder)


def test_an_interrupted_build_goes_on_where_it_stopped_and_gives_the_same_bytes(built, tmp_path, monkeypatch):
    folder, clips, plan = built
    whole, built_now = scenes._build_scene, []

    def breaks_off(*arguments):
        if len(built_now) == 4:
            np.save(arguments[3], np.zeros(3))
            raise KeyboardInterrupt  # a half-written scene stays behind
        built_now.append(arguments[3].name)
        return whole(*arguments)

    monkeypatch.setattr(scenes, "_build_scene", breaks_off)
    with pytest.raises(KeyboardInterrupt):
        build_scenes(clips, plan, tmp_path / "scenes", 228)
    assert not (tmp_path / "scenes").exists()
    monkeypatch.setattr(scenes, "_build_scene", lambda *a: built_now.append("again") or whole(*a))
    build_scenes(clips, plan, tmp_path / "scenes", 228)
    assert len(built_now) == len(plan) and contents(tmp_path / "scenes") == contents(folder)
    assert [p.name for p in tmp_path.iterdir()] == ["scenes"]


def test_two_processes_build_the_same_bytes(built, tmp_path):
    folder, clips, plan = built
    build_scenes(clips, plan, tmp_path / "scenes", 228, workers=2)
    assert contents(tmp_path / "scenes") == contents(folder)


def test_an_older_processor_builds_the_same_bytes(built, tmp_path, monkeypatch):
    "The variables reach OpenCV and PyTorch in the processes that are started."
    folder, clips, plan = built
    for name, value in {
        "OPENCV_CPU_DISABLE": "AVX,FP16,AVX2,AVX512_SKX",
        "OPENCV_IPP": "disabled",
        "ATEN_CPU_CAPABILITY": "default",
    }.items():
        monkeypatch.setenv(name, value)
    build_scenes(clips, plan, tmp_path / "scenes", 228, workers=2)
    assert contents(tmp_path / "scenes") == contents(folder)


@pytest.mark.parametrize("end", [".npy", ".sums.npy"])
def test_a_store_file_that_changed_or_vanished(built, tmp_path, end):
    shutil.copytree(built[0], tmp_path / "scenes")
    file = tmp_path / "scenes" / "test" / f"00000{end}"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="00000.npy has changed since it was written"):
        SceneStore(tmp_path / "scenes", "test").light(torch.tensor([0]))
    file.unlink()
    with pytest.raises(ValueError, match="00000.npy or its sums are missing"):
        SceneStore(tmp_path / "scenes", "test").light(torch.tensor([0]))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine with one core
def test_several_workers_read_what_one_reads(built):
    store = SceneStore(built[0], "restore")
    loader = torch.utils.data.DataLoader(Targets(store), num_workers=2, multiprocessing_context="spawn")
    assert torch.equal(torch.cat(list(loader)), Simulator().target(store.light(torch.arange(len(store)))))


class Targets(torch.utils.data.Dataset):
    def __init__(self, store):
        self.store = store

    def __len__(self):
        return len(self.store)

    def __getitem__(self, i):
        return Simulator().target(self.store.light(torch.tensor([i])))[0]


def test_light_holds_what_a_frame_of_footage_holds(built):
    store = SceneStore(built[0], "restore")
    held = store.light(torch.arange(len(store))).frame_exposure
    assert [round(h / FRAME_TIME) for h in held.tolist()] == [
        1 if row["fps"] == "inf" else 8 for row in store.table
    ] and held.max() <= T_MIN


def test_a_policy_is_shown_preview_gain_and_motion(built):
    store, some = SceneStore(built[0], "test"), torch.tensor([0, 1])
    preview, gain, motion = observe(
        Simulator(), store.light(some), random_gains(2, generator(0)), store.colour(some), generator(1)
    )
    assert (
        preview.shape == (2, 4, 24, 24)
        and ((gain >= 512) & (gain <= 1024)).all()
        and motion.shape == (2,)
        and preview.std() > 0
    )


@pytest.mark.parametrize(
    "change, words",
    [
        (
            {"counts": {**COUNTS, "test": 1}, "sizes": {**SIZES, "test": 31}},
            "is 31: a Bayer crop needs an even side",
        ),
        ({"sizes": {**SIZES, "test": 128}}, "needs 128 px"),
        ({"n_ticks": 400}, "has 34 frames, a scene of 400 ticks needs"),
        ({"shares": (0.5, 0.5, 0.5)}, "shares are"),
        ({"clips": 2}, "three are needed"),
    ],
)
def test_plans_that_cannot_be(footage, change, words):
    arguments = {
        "clips": find_clips(footage).clips,
        "counts": COUNTS,
        "sizes": SIZES,
        "shares": SHARES,
        "n_ticks": 228,
        "seed": 0,
    } | change
    if arguments["clips"] == 2:
        arguments["clips"] = find_clips(footage).clips[:2]
    with pytest.raises(ValueError, match=words):
        plan_scenes(**arguments)


def test_too_small_a_disk_leaves_nothing_behind(built, tmp_path, monkeypatch):
    _, clips, plan = built
    monkeypatch.setattr(scenes.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 10**5})())
    with pytest.raises(ValueError, match="make room or lower the scene counts"):
        build_scenes(clips, plan, tmp_path / "scenes", 228)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="free"):
        check_space(tmp_path, plan, 228)


def test_a_clip_that_ends_while_scenes_are_built_leaves_no_store(built, tmp_path, monkeypatch):
    _, clips, plan = built
    monkeypatch.setattr(
        scenes, "cut_scene", lambda *_: (_ for _ in ()).throw(ValueError("clip ends before frame 3"))
    )
    with pytest.raises(ValueError, match="clip ends"):
        build_scenes(clips, plan, tmp_path / "scenes", 228)
    assert not (tmp_path / "scenes").exists()


def test_stores_that_are_not_there(built, tmp_path):
    with pytest.raises(ValueError, match="run the stage scenes first"):
        SceneStore(tmp_path, "test")
    with pytest.raises(ValueError, match="split is 'validate'"):
        SceneStore(built[0], "validate")
