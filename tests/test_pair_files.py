"Two files, a short and a long exposure: which is which, what makes no pair, and what becomes of them."

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from debir_nb.cameras.cli import main
from debir_nb.cameras.files import write_photo
from debir_nb.cameras.short_long import (
    PairFile,
    PairMerge,
    disagreement,
    exif_exposure,
    fused,
    in_order,
    make_pair,
    measured_noise,
    moved_by,
    place,
    read_pair_file,
    restore_pair,
)
from debir_nb.core import generator
from debir_nb.disk import save_weights
from debir_nb.light.dng import RawPhoto, normalise, read_raw, to_counts
from debir_nb.light.footage import read_image
from debir_nb.light.raw import linear_to_srgb, sample_cfa
from debir_nb.restorers.alignment import noise_variance
from debir_nb.restorers.protocol import Restorer
from debir_nb.restorers.unet import UNetRestorer

PAIRS = Path(__file__).resolve().parents[2] / "shared" / "data" / "pairs"
RATIO = 1 / 8  # of the short exposure's brightness


def scene(size=(288, 208)):
    "Linear light, (3, h, w), up to twice white at the long exposure."
    picture = cv2.resize(data.astronaut()[:400], size, interpolation=cv2.INTER_AREA) / 255.0
    return torch.from_numpy(picture).permute(2, 0, 1).float() ** 2.2 * 1.2


def noisy(light, shot, key):
    return (
        light + (shot * light.clamp(min=0)).sqrt() * torch.randn(light.shape, generator=generator(key))
    ).clamp(0, 1)


def blurred(light, px=5):
    kernel = np.full((1, px), 1 / px)
    rows = [cv2.filter2D(x, -1, kernel, borderType=cv2.BORDER_REFLECT) for x in light.numpy()]
    return torch.from_numpy(np.stack(rows))


def exposures(long=None):
    "Linear frames of a developed pair: the short one noisy, the long one blurred."
    light = scene()
    short = noisy(RATIO * light * torch.tensor([1.2, 0.9, 1.1])[:, None, None], 0.004, 1)
    return short, noisy(blurred(light) if long is None else long, 0.0005, 2)


def saved(path, light, exposure=None, iso=None):
    "An 8-bit picture of linear light, with or without EXIF."
    codes = (255 * linear_to_srgb(light.clamp(0, 1))).round().byte().permute(1, 2, 0).numpy()
    exif = Image.Exif()
    if exposure is not None:
        exif.get_ifd(0x8769)[33434] = exposure
        exif.get_ifd(0x8769)[34855] = iso
    Image.fromarray(codes).save(path, exif=exif, **({"quality": 97} if path.suffix == ".jpg" else {}))
    return path


def file(light, exposure=None, iso=None, name="a.jpg"):
    return PairFile(name, light, exposure, iso)


def raw(path, light, exposure, iso, noise=(0.002, 1e-6), orientation=1):
    "A DNG of linear camera RGB."
    photo = RawPhoto(
        to_counts(sample_cfa(light[None])[0]),
        "RGGB",
        np.zeros((2, 2)),
        65535,
        exposure,
        iso,
        noise,
        orientation=orientation,
    )
    write_photo(path, photo)
    return path


@pytest.fixture(scope="module")
def jpegs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    return [saved(folder / f"{name}.jpg", x) for name, x in zip(("short", "long"), exposures())]


@pytest.fixture(scope="module")
def raws(tmp_path_factory):
    folder, light = tmp_path_factory.mktemp("raw"), 0.6 * scene()
    return (
        raw(folder / "short.dng", noisy(light / 8, 0.004, 1), 1 / 240, 800, (0.004, 1e-7)),
        raw(folder / "long.dng", noisy(blurred(light), 0.001, 2), 1 / 7.5, 200, (0.001, 1e-7)),
    )


# Which is which


def test_exposure_times_tell_even_where_brightness_says_the_opposite():
    dark, bright = 0.1 * scene(), 0.4 * scene()
    for given in ((file(dark, 1 / 4), file(bright, 1 / 100)), (file(bright, 1 / 100), file(dark, 1 / 4))):
        short, long, by = in_order(*given)
        assert (short.exposure, long.exposure, by) == (1 / 100, 1 / 4, "exposure times")


def test_brightness_tells_where_a_file_does_not_say_its_time():
    short, long, by = in_order(file(0.4 * scene(), 1 / 100, name="b.jpg"), file(0.1 * scene()))
    assert (short.name, long.name, by) == ("a.jpg", "b.jpg", "brightness")


@pytest.mark.parametrize(
    "first, second, words",
    [
        (dict(exposure=0.1), dict(exposure=0.1), "exposed alike .1/10 s, 1/10 s."),
        (dict(exposure=0.1), dict(exposure=0.12), "at least 1.5 times as long"),
        (dict(), dict(exposure=0.1), "exposed alike .0.* on average"),
    ],
)
def test_exposures_of_ratio_one_are_no_pair(first, second, words):
    with pytest.raises(ValueError, match=words):
        in_order(file(scene(), **first), file(scene(), **second, name="b.jpg"))


def test_exif_is_read_where_there_is_one(tmp_path):
    told = saved(tmp_path / "told.jpg", scene(), 1 / 50, 400)
    assert exif_exposure(told) == (pytest.approx(0.02), 400)
    assert exif_exposure(saved(tmp_path / "mute.png", scene())) == (None, None)
    assert read_pair_file(told).exposure == pytest.approx(0.02)


# What makes no pair


def test_sizes_kinds_and_orientations_must_agree(tmp_path, raws, jpegs):
    light = scene()
    with pytest.raises(ValueError, match="288 x 208 px, b.jpg is 208 x 288 px: one is upright"):
        make_pair(file(light), file(8 * light.mT, name="b.jpg"))
    with pytest.raises(ValueError, match="b.jpg is 100 x 208 px: both exposures come from one camera"):
        make_pair(file(light), file(8 * light[..., :100], name="b.jpg"))
    with pytest.raises(ValueError, match="short.dng is RAW, long.jpg is a developed picture"):
        make_pair(read_pair_file(raws[0]), read_pair_file(jpegs[1]))
    turned = raw(tmp_path / "turned.dng", 0.4 * scene(), 1 / 7.5, 200, orientation=6)
    with pytest.raises(ValueError, match="orientation 1, turned.dng by 6"):
        make_pair(read_pair_file(raws[0]), read_pair_file(turned))


def test_white_and_black_frames_are_refused():
    with pytest.raises(ValueError, match="b.jpg is white everywhere"):
        make_pair(file(0.1 * scene()), file(torch.ones_like(scene()), name="b.jpg"))
    with pytest.raises(ValueError, match="a.jpg is black everywhere"):
        make_pair(file(0 * scene()), file(scene(), name="b.jpg"))


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "cut.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    with pytest.raises(ValueError, match="cut.jpg cannot be read"):
        read_pair_file(tmp_path / "cut.jpg")
    with pytest.raises(OSError):
        read_pair_file(tmp_path / "nowhere.png")


# In one place


@pytest.mark.parametrize("dx, dy, degrees", [(0, 0, 0), (7.3, -4.6, 0), (-21, 9, 0.8), (3, 30, -1.0)])
def test_a_shift_and_a_turn_are_found_and_undone(dx, dy, degrees):
    grey = scene((360, 280)).mean(0).numpy()
    turn = cv2.getRotationMatrix2D((179.5, 139.5), degrees, 1.0)
    turn[:, 2] += (dx, dy)
    away = moved_by(grey, cv2.invertAffineTransform(turn))
    draws = np.random.default_rng(0)
    here = np.maximum(grey + np.sqrt(0.004 * grey) * draws.standard_normal(grey.shape), 0).astype(np.float32)
    back = moved_by(away, place(here, blurred(torch.from_numpy(away)[None])[0].numpy()))
    found = place(here, away)
    corners = np.array([[0, 0, 1], [359, 0, 1], [0, 279, 1], [359, 279, 1], [180, 140, 1]])
    assert np.abs(corners @ (found - turn).T).max() < 1.0
    inner = (slice(50, -50), slice(50, -50))
    assert np.abs(back - grey)[inner].mean() < 0.03


def test_flat_frames_are_left_where_they_are():
    grey = np.full((64, 80), 0.3, np.float32)
    assert np.array_equal(place(grey, grey), np.eye(2, 3))


# Noise that nobody says


@pytest.mark.parametrize("shot, read", [(0.01, 1e-5), (0.001, 1e-4), (1e-5, 1e-6)])
def test_noise_is_measured_under_texture(shot, read):
    light = scene((512, 384)).clamp(max=0.85)
    given = light + (shot * light + read).sqrt() * torch.randn(light.shape, generator=generator(9))
    found = measured_noise(given)
    for brightness in (0.1, 0.4):
        true, ours = shot * brightness + read, found[0] * brightness + found[1]
        assert 0.5 * true < ours < 2 * true + 1e-4  # fine texture is taken for a little noise


# Merged and fused


def test_a_pair_is_better_than_either_frame(jpegs):
    pair = make_pair(*map(read_pair_file, reversed(jpegs)))
    assert pair.short.name == "short.jpg" and pair.ratio == pytest.approx(RATIO, rel=0.15)
    truth, counts = pair.ratio * scene(), pair.burst.counts[0, 1]

    def rms(light):
        apart = torch.where(counts, light - truth, 0.0)[:, 16:-16, 16:-16]
        return apart.square().mean().sqrt().item()

    restored = restore_pair(pair)[0]
    short, long = pair.burst.frames[0]
    assert rms(restored) < min(rms(short), rms(long))


def test_what_moved_is_not_seen_twice():
    "A bright disk that has gone on in the long exposure."
    light, y, x = scene(), *np.mgrid[:208, :288]
    disk = lambda at: torch.from_numpy((np.hypot(x - at, y - 100) < 14).astype(np.float32))
    there = lambda at: light * (1 - disk(at)) + 0.9 * disk(at)
    short, _ = exposures()
    short = noisy(RATIO * there(90), 0.002, 3)
    pair = make_pair(file(short), file(noisy(there(150), 0.0005, 4), name="b.jpg"))
    restored, after = (x / pair.ratio for x in (restore_pair(pair)[0], pair.burst.frames[0, 1]))
    gone, come = (disk(at).bool() for at in (90, 150))
    assert (after[:, come] - light[:, come]).abs().mean() > 0.2  # the long frame shows it there
    assert (restored[:, come] - light[:, come]).abs().mean() < 0.08
    assert (restored[:, gone] - 0.9).abs().mean() < 0.12


def test_where_the_long_frame_is_white_the_short_one_knows():
    light = scene()
    light[:, 30:60, 30:60] = 3.0
    short, long = noisy(RATIO * light, 0.001, 1), light.clamp(max=1)
    pair = make_pair(file(short), file(long, name="b.jpg"))
    restored = restore_pair(pair)[0] / pair.ratio
    assert restored[:, 35:55, 35:55].mean() == pytest.approx(3.0, rel=0.1)
    picture = fused(restore_pair(pair), pair)
    assert picture.shape == (3, 208, 288) and 0 <= picture.min() and picture.max() <= 1


def test_white_beside_them_makes_no_disagreement():
    light = scene().clamp(max=0.8)
    light[:, :, 140:] = 3.0
    short, long = noisy(RATIO * light, 1e-4, 1), noisy(light, 1e-4, 2)
    burst = make_pair(file(short), file(long, name="b.jpg")).burst
    error = disagreement(burst, noise_variance(burst))[0, 0, 0, :, 20:]
    dark = slice(0, 100)
    assert error[:, dark].mean() < 3 * noise_variance(burst)[0, 0, :, :, 20:120].mean()
    assert (burst.counts[0, 1, :, :, 150:]).sum() == 0


def test_the_merge_is_a_restorer_and_tiles_fit(jpegs):
    pair = make_pair(*map(read_pair_file, jpegs))
    assert isinstance(PairMerge(), Restorer)
    whole = restore_pair(pair)
    tiled = restore_pair(pair, memory=PairMerge().tile_bytes(96, 2))
    assert (whole - tiled).abs().max() < 1e-5


def test_raw_files_are_merged_in_their_own_units(raws, tmp_path):
    pair = make_pair(*map(read_pair_file, raws))
    assert pair.known_by == "exposure times" and pair.ratio == pytest.approx(1 / 8, rel=1e-3)
    restored, truth = restore_pair(pair), sample_cfa(0.6 * scene()[None] / 8)
    inner = (..., slice(8, -8), slice(8, -8))
    before, after = ((x - truth)[inner].square().mean() for x in (pair.burst.frames[:, 0], restored))
    assert after < 0.6 * before


# The command


def test_the_command_writes_png_and_dng(raws, tmp_path, capsys):
    main(
        [
            "pair",
            str(raws[1]),
            str(raws[0]),
            "-o",
            str(tmp_path / "a" / "out.dng"),
            "-o",
            str(tmp_path / "out.png"),
        ]
    )
    said = capsys.readouterr().out
    assert "short.dng is the short exposure, long.dng the long one (given the other way round)" in said
    again = read_raw(tmp_path / "a" / "out.dng")
    assert float(again.exposure) == pytest.approx(1 / 240, rel=1e-3) and again.iso == 800
    pair = make_pair(*map(read_pair_file, raws))
    assert (normalise(again) - restore_pair(pair)[0]).abs().max() < 1e-4
    assert read_image(tmp_path / "out.png").shape == (208, 288, 3)


def test_an_upright_raw_makes_an_upright_picture(tmp_path):
    light = 0.6 * scene()
    files = [
        raw(tmp_path / f"{k}.dng", noisy(light * x, 0.002, k), t, 100, orientation=6)
        for k, (x, t) in enumerate(((1 / 8, 1 / 80), (1, 1 / 10)))
    ]
    main(["pair", *map(str, files), "-o", str(tmp_path / "out.png")])
    assert read_image(tmp_path / "out.png").shape == (288, 208, 3)


def test_the_command_says_why_not_and_leaves_nothing(jpegs, raws, tmp_path):
    for line, words in (
        ([*jpegs, "-o", tmp_path / "x.dng"], "short.jpg is no RAW file"),
        ([*jpegs, "-o", tmp_path / "x.jpg"], "ends in '.jpg'"),
        ([jpegs[0], jpegs[0], "-o", tmp_path / "x.png"], "exposed alike"),
        ([jpegs[0], raws[0], "-o", tmp_path / "x.png"], "give two files of one kind"),
        ([jpegs[0], tmp_path / "no.jpg", "-o", tmp_path / "x.png"], "no.jpg: No such file"),
        ([*jpegs, "-o", tmp_path], "ends in ''"),
    ):
        with pytest.raises(SystemExit) as caught:
            main(["pair", *map(str, line)])
        assert words in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_trained_restorer_takes_the_place_of_the_merge(raws, tmp_path):
    net = UNetRestorer(2, 4)
    with torch.no_grad():
        net.net.leave.bias.fill_(0.25)  # it answers the mean and a quarter of the range
    save_weights(net, tmp_path / "models" / "pair.pt")
    main(["pair", *map(str, raws), "-o", str(tmp_path / "out.dng"), "--models", str(tmp_path / "models")])
    merged = restore_pair(make_pair(*map(read_pair_file, raws)))[0]
    assert (normalise(read_raw(tmp_path / "out.dng")) - merged).mean() == pytest.approx(0.25, abs=0.03)
    save_weights(UNetRestorer(3, 4), tmp_path / "models" / "pair.pt")
    with pytest.raises(SystemExit, match="restores bursts of 3 frames, not pairs"):
        main(["pair", *map(str, raws), "-o", str(tmp_path / "b.dng"), "--models", str(tmp_path / "models")])


@pytest.mark.skipif(not PAIRS.exists(), reason="real pairs (shared/data) are not here")
def test_a_real_bracket_keeps_its_sky_and_its_shadow(tmp_path):
    files = [PAIRS / f"fusion_rovinia_{k}.jpg" for k in (3, 1)]
    main(["pair", *map(str, files), "-o", str(tmp_path / "out.png")])
    long, short, out = (read_image(path) / 255.0 for path in (*files, tmp_path / "out.png"))
    sky, rock = (slice(0, 250), slice(850, 1080)), (slice(100, 600), slice(150, 450))
    assert long[sky].min(-1).mean() > 0.95 > out[sky].min(-1).mean()  # white in the long one
    assert short[rock].mean() < 0.05 and out[rock].mean() > 0.5 * long[rock].mean()
    detail = lambda x: np.abs(np.diff(x[rock].mean(-1), axis=1)).mean()
    assert detail(out) > 3 * detail(short)
