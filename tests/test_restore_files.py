"Folders of RAW files: which bursts are taken and which refused, the four Bayer orders, and what is written."

import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import rawpy
import torch
from PIL import Image

from debir_nb.cameras.files import (
    check_burst,
    digital_gains,
    from_red,
    raw_files,
    read_burst,
    restore_folder,
    restore_photos,
    save_restored,
    to_burst,
    write_photo,
)
from debir_nb.core import PREVIEW_TIME, T_MIN, generator
from debir_nb.light.calibration import SENSORS
from debir_nb.light.dng import RawPhoto, normalise, read_raw, to_counts
from debir_nb.light.raw import RGB2CAM, develop
from debir_nb.restorers.burstormer import Burstormer


def photo(mosaic=None, exposure=T_MIN, iso=800.0, **other):
    "A smooth mosaic of 64 x 48 px, 12 bits."
    y, x = np.mgrid[:48, :64]
    smooth = (600 + 300 * np.sin(x / 9) + 200 * np.cos(y / 7)).astype(np.uint16)
    kept = dict(
        mosaic=smooth if mosaic is None else mosaic,
        pattern="RGGB",
        black=np.full((2, 2), 256.0),
        white=4095,
        exposure=Fraction(exposure).limit_denominator(10**6),
        iso=iso,
        noise=(1e-3, 1e-5),
        white_balance=np.array([2.0, 1.0, 1.6]),
        color_matrix=RGB2CAM[0].double().inverse().numpy(),
    )
    return RawPhoto(**kept | other)


@pytest.fixture(scope="module")
def restorer():
    torch.manual_seed(0)
    return Burstormer(4, features=8).eval()


def write_burst(folder, photos):
    for i, p in enumerate(photos):
        write_photo(folder / f"IMG_{i + 8}.dng", p)  # 8, 9, 10, 11
    return folder


# Reading


def test_a_photograph_is_written_and_read_without_a_change(tmp_path):
    write_photo(tmp_path / "x.dng", photo(exposure=1 / 97))
    again = read_raw(tmp_path / "x.dng")
    assert (
        (again.mosaic == photo().mosaic).all()
        and again.iso == 800
        and again.exposure == Fraction(1, 97)
        and again.noise == pytest.approx((1e-3, 1e-5))
    )
    np.testing.assert_allclose(again.white_balance, [2, 1, 1.6], rtol=1e-3)
    np.testing.assert_allclose(again.color_matrix, photo().color_matrix, atol=2e-3)


def test_counts_above_white_are_kept_within_it(tmp_path):
    write_photo(tmp_path / "x.dng", photo(np.full((48, 64), 4100, np.uint16)))
    assert read_raw(tmp_path / "x.dng").mosaic.max() == 4095


def test_files_come_in_the_order_of_their_numbers_and_a_manifest_has_the_last_word(tmp_path):
    write_burst(tmp_path, [photo()] * 4)
    for other in ("notes.txt", ".hidden.dng"):
        (tmp_path / other).write_text("-")
    assert [p.name for p in raw_files(tmp_path)] == ["IMG_8.dng", "IMG_9.dng", "IMG_10.dng", "IMG_11.dng"]
    (tmp_path / "manifest.json").write_text(
        json.dumps({"frames": [{"file": "IMG_10.dng"}, {"file": "IMG_8.dng"}]})
    )
    assert [p.name for p in raw_files(tmp_path)] == ["IMG_10.dng", "IMG_8.dng"]
    (tmp_path / "manifest.json").write_text(json.dumps({"frames": []}))
    with pytest.raises(ValueError, match="manifest lists none"):
        raw_files(tmp_path)
    for damaged in ("{", "[]", '{"frames": [{}]}'):
        (tmp_path / "manifest.json").write_text(damaged)
        with pytest.raises(ValueError, match="manifest.json is damaged.*remove it"):
            raw_files(tmp_path)


def test_a_folder_without_frames_is_named(tmp_path):
    with pytest.raises(ValueError, match="no RAW files"):
        raw_files(tmp_path)
    with pytest.raises(ValueError, match="is not a folder"):
        raw_files(tmp_path / "nowhere")


@pytest.mark.parametrize("keep", [0, 4, 100, 3000, 6200])
def test_a_truncated_file_is_named(tmp_path, keep):
    paths = raw_files(write_burst(tmp_path, [photo()] * 4))
    paths[2].write_bytes(paths[2].read_bytes()[:keep])
    with pytest.raises(ValueError, match="IMG_10.dng"):
        read_burst(paths)


@pytest.mark.parametrize(
    "other, words",
    [
        ({"exposure": None}, "b.nef does not say its exposure.*exiftool"),
        ({"iso": None}, "b.nef does not say its iso"),
        ({"mosaic": photo().mosaic[:46]}, r"b.nef has the size \(46, 64\)"),
        ({"pattern": "GBRG"}, "b.nef has the Bayer pattern GBRG"),
    ],
)
def test_frames_that_do_not_belong_together_are_refused(other, words):
    with pytest.raises(ValueError, match=words):
        check_burst([photo(), replace(photo(), **other)], ["a.nef", "b.nef"])


def test_exif_that_is_missing_is_found_in_a_file_too(tmp_path):
    "The exposure tag's number is overwritten, as if the camera had not written it."
    paths = raw_files(write_burst(tmp_path, [photo()] * 2))
    # with its type, a fraction
    said, unsaid = (number.to_bytes(2, "little") + b"\5\0" for number in (33434, 33438))
    assert said in paths[1].read_bytes()
    paths[1].write_bytes(paths[1].read_bytes().replace(said, unsaid))
    with pytest.raises(ValueError, match="IMG_9.dng does not say its exposure"):
        read_burst(paths)


# Brightness and noise


def test_digital_gains_bring_frames_to_the_first_ones_brightness():
    "A scene without noise, exposed four times: afterwards all frames are equal to a count of the dimmest."
    light = torch.rand(4, 24, 32, generator=generator(0)) * 0.2
    shots = [(T_MIN, 800.0), (2 * T_MIN, 500.0), (T_MIN, 1600.0), (3 * T_MIN, 250.0)]
    photos = [photo(to_counts(light * t * iso / (T_MIN * 800), 256, 4095), t, iso) for t, iso in shots]
    assert digital_gains(photos) == pytest.approx([1, 0.8, 0.5, 16 / 15], rel=1e-4)
    frames = to_burst(photos).frames[0]
    assert (frames - frames[0]).abs().max() < 1.1 / (4095 - 256)


def test_noise_goes_through_the_digital_gain():
    photos = [
        photo(np.full((48, 64), 1000, np.uint16), T_MIN, 800.0),
        photo(np.full((48, 64), 2000, np.uint16), T_MIN, 1600.0),
    ]
    signal = [(c - 256) / (4095 - 256) for c in (1000, 2000)]
    expected = [d * (1e-5 + 1e-3 * s) ** 0.5 for d, s in zip((1, 0.5), signal)]
    assert to_burst(photos).noise_std[0].tolist() == pytest.approx(expected, rel=1e-4)


def test_a_calibration_has_precedence_and_without_either_nobody_guesses():
    shot, read = (v.item() for v in SENSORS["CRVD"].noise(torch.tensor(8.0, dtype=torch.float64)))
    signal = normalise(photo()).mean().item()
    for p in (photo(), photo(noise=None)):
        assert to_burst([p, p], SENSORS["CRVD"].noise).noise_std[0, 0].item() == pytest.approx(
            (read + shot * signal) ** 0.5, rel=1e-4
        )
    with pytest.raises(ValueError, match="no NoiseProfile.*--sensor"):
        to_burst([photo(noise=None)] * 2)


# Bayer orders


@pytest.mark.parametrize("pattern, y, x", [("RGGB", 0, 0), ("GRBG", 0, 1), ("GBRG", 1, 0), ("BGGR", 1, 1)])
def test_all_bayer_orders_restore_to_the_same_picture(tmp_path, restorer, pattern, y, x):
    """One sensor, read out from four corners: the same pixels come out, whatever colour the readout begins
    with.
    """
    shots = [(T_MIN, 1600.0), (2 * T_MIN, 800.0), (4 * T_MIN, 400.0), (4 * T_MIN, 400.0)]
    whole = [
        photo(photo().mosaic + (37 * i + np.arange(64, dtype=np.uint16) % 7).astype(np.uint16), t, iso)
        for i, (t, iso) in enumerate(shots)
    ]
    for i, p in enumerate(whole):
        write_photo(
            tmp_path / f"{i}.dng", replace(p, mosaic=p.mosaic[y : 48 - y, x : 64 - x], pattern=pattern)
        )
    restored, reference = restore_folder(tmp_path, restorer)
    inner = restore_photos(
        [replace(p, mosaic=p.mosaic[2 * y : 48 - 2 * y, 2 * x : 64 - 2 * x]) for p in whole], restorer
    )
    assert reference.pattern == pattern
    torch.testing.assert_close(restored, inner, atol=1e-6, rtol=0)
    torch.testing.assert_close(
        develop(restored, reference.colour()), develop(inner, whole[0].colour()), atol=1e-3, rtol=0
    )


def test_black_levels_move_with_the_cut():
    black = np.array([[10.0, 20.0], [30.0, 40.0]])
    for pattern, expected in (
        ("RGGB", black),
        ("GRBG", black[:, ::-1]),
        ("GBRG", black[::-1]),
        ("BGGR", black[::-1, ::-1]),
    ):
        assert (from_red(photo(pattern=pattern, black=black)).black == expected).all()


# Restoring and writing


def test_the_restored_image_is_better_than_its_best_frame(tmp_path, restorer):
    "A scene at rest; the untrained restorer is the weighted mean of the frames."
    light, noise, draws = normalise(photo()) * 0.6, SENSORS["DEBIR"].noise, generator(3)
    photos = []
    for t in (T_MIN, 2 * T_MIN, 3 * T_MIN, 4 * T_MIN):
        iso = 100 * 600 * PREVIEW_TIME / t
        shot, read = noise(torch.tensor(iso / 100))
        noisy = light + (read + shot * light).sqrt() * torch.randn(light.shape, generator=draws)
        photos.append(photo(to_counts(noisy, 256, 4095), t, iso, noise=(shot.item(), read.item())))
    restored, _ = restore_folder(write_burst(tmp_path, photos), restorer)
    errors = [(normalise(p) - light).square().mean().item() for p in photos]
    assert (restored[0] - light).square().mean().item() < 0.75 * min(errors)


def test_the_restored_dng_opens_everywhere_and_the_png_is_the_picture(tmp_path, restorer):
    photos = [photo(exposure=t, iso=1600 * T_MIN / t) for t in (T_MIN, 2 * T_MIN, 2 * T_MIN, 4 * T_MIN)]
    restored, reference = restore_folder(write_burst(tmp_path, photos), restorer)
    for name in ("r.dng", "r.png"):
        save_restored(tmp_path / name, restored, reference)
    again = read_raw(tmp_path / "r.dng")
    assert (normalise(again) - restored[0]).abs().max() < 1 / 65535 and (again.exposure, again.iso) == (
        photos[0].exposure,
        1600,
    )
    np.testing.assert_allclose(again.white_balance, reference.white_balance, rtol=1e-3)
    with rawpy.imread(str(tmp_path / "r.dng")) as raw:
        assert raw.postprocess(half_size=True).shape == (24, 32, 3)
    seen = np.asarray(Image.open(tmp_path / "r.png"))
    assert (
        seen.shape == (48, 64, 3)
        and np.abs(seen / 255 - develop(restored, reference.colour())[0].permute(1, 2, 0).numpy()).max()
        < 0.51 / 255
    )


@pytest.mark.parametrize(
    "orientation, turns, mirrored",
    [
        (1, 0, False),
        (2, 0, True),
        (3, 2, False),
        (4, 2, True),
        (5, 1, True),
        (6, -1, False),
        (7, -1, True),
        (8, 1, False),
    ],
)
def test_an_orientation_is_carried_to_the_dng_and_turns_the_png(
    tmp_path, restorer, orientation, turns, mirrored
):
    "EXIF's eight: quarter turns, and the same mirrored left to right before they are turned."
    photos = [
        photo(exposure=t, iso=1600 * T_MIN / t, orientation=orientation)
        for t in (T_MIN, 2 * T_MIN, 2 * T_MIN, 4 * T_MIN)
    ]
    restored, reference = restore_folder(write_burst(tmp_path, photos), restorer)
    assert reference.orientation == orientation and (reference.mosaic == photos[0].mosaic).all()
    for name in ("r.dng", "r.png"):
        save_restored(tmp_path / name, restored, reference)
    again = read_raw(tmp_path / "r.dng")
    assert again.orientation == orientation and again.mosaic.shape == (48, 64)
    with rawpy.imread(str(tmp_path / "r.dng")) as raw:
        developed = raw.postprocess(half_size=True, no_auto_bright=True).mean(2)
    picture = develop(restored, reference.colour())[0].permute(1, 2, 0).numpy()
    seen, upright = (
        np.asarray(Image.open(tmp_path / "r.png")),
        np.rot90(picture[:, ::-1] if mirrored else picture, turns),
    )
    assert seen.shape == upright.shape and np.abs(seen / 255 - upright).max() < 0.51 / 255
    # LibRaw turns it the same way
    assert np.corrcoef(developed.ravel(), seen[::2, ::2].mean(2).ravel())[0, 1] > 0.98


def test_nothing_half_written_and_wrong_suffixes(tmp_path, restorer):
    restored = torch.rand(1, 4, 24, 32)
    with pytest.raises(ValueError, match=r"\.dng \(RAW\) or \.png"):
        save_restored(tmp_path / "r.tif", restored, photo())
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        save_restored(tmp_path / "file" / "r.png", restored, photo())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


def test_a_burst_of_another_length_is_refused(restorer):
    with pytest.raises(ValueError, match="burst has 3 frames: Burstormer takes 4"):
        restore_photos([photo()] * 3, restorer)
