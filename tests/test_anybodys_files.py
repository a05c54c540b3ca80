"Files of cameras that nobody here has: colours, levels, sensitivities, and what is no RAW file at all."

import io
import os
import random
import struct
import warnings
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import exifread
import numpy as np
import pytest
import rawpy
import torch
from drawn_raw import D65, D70, GREY, TUNGSTEN, counts, mosaicked, nikon_note, patches, raw_bytes, seen_by
from PIL import Image

from debir_nb.cameras.files import (
    RESTORED,
    check_burst,
    digital_gains,
    from_red,
    raw_files,
    read_burst,
    restore_photos,
    save_restored,
    was_restored,
    write_photo,
)
from debir_nb.core import generator
from debir_nb.light.calibration import raw_signal
from debir_nb.light.dng import RawPhoto, normalise, read_raw, write_dng
from debir_nb.light.footage import find_clips, open_clip
from debir_nb.light.kinds import RAWS, named_bytes
from debir_nb.light.raw import linear_to_srgb, render
from debir_nb.light.tags import TYPES, Tag, iso_of, kept_of, tiff_tags
from debir_nb.light.white import camera_to_srgb, gains_of_white, kelvin, matrix_at
from debir_nb.restorers.merge import Merge

FLAT = np.full((48, 72), 4000, np.uint16)
CHART, COLOURS = patches()
ROOT = Path(__file__).resolve().parents[1]


def developed(photo):
    "Means of the 24 patches as display values."
    r, g1, g2, b = normalise(photo)
    rgb = render(torch.stack([r, (g1 + g2) / 2, b])[None], photo.colour())[0].numpy()
    h, w = rgb.shape[1:]
    cells = [(i, j) for i in range(4) for j in range(6)]
    return np.array(
        [
            rgb[:, h * i // 4 + 1 : h * (i + 1) // 4 - 1, w * j // 6 + 1 : w * (j + 1) // 6 - 1].mean((1, 2))
            for i, j in cells
        ]
    )


def shown(colours):
    return linear_to_srgb(torch.from_numpy(colours)).numpy()


# Colour


def test_a_makers_own_raw_has_the_colours_of_its_camera():
    "A Nikon D70's NEF says its white balance in a note, and its matrix nowhere."
    light = mosaicked(seen_by(D70, CHART, (1 / 2.0, 1, 1 / 1.3)))
    data = raw_bytes(
        counts(light, 0, 65535),
        exif={37500: ("undefined", tuple(nikon_note(2.0, 1.3)))},
        dng=False,
        make="NIKON CORPORATION",
        model="NIKON D70",
    )
    photo = read_raw(data)
    np.testing.assert_allclose(photo.white_balance, [2, 1, 1.3], rtol=1e-3)
    np.testing.assert_allclose(photo.color_matrix, camera_to_srgb(np.reshape(D70, (3, 3))), atol=1e-3)
    assert np.abs(developed(photo) - shown(COLOURS)).max() < 0.01


@pytest.mark.parametrize(
    "make, model", [("NIKON CORPORATION", "NIKON D850"), ("PENTAX", "PENTAX K10D"), ("SAMSUNG", "NX300")]
)
def test_every_known_camera_has_a_matrix_and_daylight_when_it_says_no_white(make, model):
    data = raw_bytes(FLAT, dng=False, make=make, model=model)
    with pytest.warns(UserWarning, match="does not say its white balance: that of daylight"):
        photo = read_raw(data)
    with rawpy.imread(io.BytesIO(data)) as raw:
        own, day = camera_to_srgb(raw.rgb_xyz_matrix[:3]), np.array(raw.daylight_whitebalance[:3])
    np.testing.assert_allclose(photo.color_matrix, own, rtol=1e-5)
    np.testing.assert_allclose(photo.white_balance, day / day[1], rtol=1e-5)
    assert np.abs(own - np.eye(3)).max() > 0.2 and np.allclose(own.sum(1), 1)


def test_a_camera_that_nobody_knows_is_not_passed_over_in_silence():
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        photo = read_raw(raw_bytes(FLAT, dng=False, make="Nobody", model="Nothing"))
    said = " ".join(str(word.message) for word in heard)
    assert "none is applied" in said and "nobody knows the colours" in said
    assert np.array_equal(photo.color_matrix, np.eye(3)) and np.array_equal(photo.white_balance, np.ones(3))


def white_of(x, y, matrix):
    neutral = np.reshape(matrix, (3, 3)) @ [x / y, 1, (1 - x - y) / y]
    return neutral[1] / neutral


def xy_file(x, y, **main):
    tags = {Tag[name]: value for name, value in main.items()}
    return raw_bytes(FLAT, tags | {Tag.AS_SHOT_WHITE: ("rational", (x, y))}, without=(Tag.AS_SHOT_NEUTRAL,))


@pytest.mark.parametrize("x, y", [(0.3457, 0.3585), (0.3127, 0.3290), (0.44757, 0.40745), (0.28, 0.29)])
def test_white_as_a_chromaticity_becomes_gains(x, y):
    data = xy_file(x, y)
    came = read_raw(data).white_balance
    np.testing.assert_allclose(came, white_of(x, y, D65), rtol=1e-4)
    with rawpy.imread(io.BytesIO(data)) as raw:  # what LibRaw applies
        theirs = np.array(raw.daylight_whitebalance[:3])
    np.testing.assert_allclose(came, theirs / theirs[1], rtol=2e-3)


def test_between_two_lights_the_matrix_is_between_theirs():
    two = dict(
        COLOR_MATRIX=("srational", TUNGSTEN),
        COLOR_MATRIX_2=("srational", D65),
        ILLUMINANT=("short", (17,)),
        ILLUMINANT_2=("short", (21,)),
    )
    at_lamp, at_day = (0.44757, 0.40745), (0.31271, 0.32902)
    for white, matrix in ((at_lamp, TUNGSTEN), (at_day, D65), ((0.30, 0.31), D65), ((0.50, 0.415), TUNGSTEN)):
        np.testing.assert_allclose(
            read_raw(xy_file(*white, **two)).white_balance, white_of(*white, matrix), rtol=3e-3
        )
    x, y = 0.3805, 0.3768  # 4000 K
    w = (1 / 4000 - 1 / 6504) / (1 / 2856 - 1 / 6504)
    between = w * np.array(TUNGSTEN) + (1 - w) * np.array(D65)
    assert abs(kelvin(x, y) - 4000) < 15
    np.testing.assert_allclose(
        read_raw(xy_file(x, y, **two)).white_balance, white_of(x, y, between), rtol=2e-3
    )


def test_what_was_measured_on_the_very_camera_counts():
    "White as a chromaticity goes through AnalogBalance and CameraCalibration (DNG 1.4, Chapter 6)."
    own, analog = np.diag([1.1, 1, 0.9]), (1.2, 1, 0.8)
    came = read_raw(
        xy_file(
            0.3127,
            0.3290,
            CALIBRATION=("srational", tuple(own.ravel())),
            ANALOG_BALANCE=("rational", analog),
        )
    )
    expected = white_of(0.3127, 0.3290, np.diag(analog) @ own @ np.reshape(D65, (3, 3)))
    np.testing.assert_allclose(came.white_balance, expected, rtol=1e-4)


def test_no_white_in_a_dng_is_daylight_and_a_word():
    with pytest.warns(UserWarning, match="does not say its white balance"):
        photo = read_raw(raw_bytes(FLAT, without=(Tag.AS_SHOT_NEUTRAL,)))
    np.testing.assert_allclose(photo.white_balance, white_of(0.31271, 0.32902, D65), rtol=3e-3)


def test_a_white_of_nothing_spoils_neither_colours_nor_daylight():
    silent = raw_bytes(FLAT, without=(Tag.AS_SHOT_NEUTRAL,))
    void = raw_bytes(FLAT, {Tag.AS_SHOT_WHITE: ("rational", (0, 0))}, without=(Tag.AS_SHOT_NEUTRAL,))
    with pytest.warns(UserWarning, match="does not say its white balance"):
        first, second = read_raw(silent), read_raw(void)
    np.testing.assert_allclose(second.white_balance, first.white_balance, rtol=3e-3)
    np.testing.assert_allclose(second.color_matrix, first.color_matrix, atol=3e-3)


def test_a_mosaic_of_four_by_four_is_named_and_refused():
    quad = {
        Tag.CFA_SIZE: ("short", (4, 4)),
        Tag.CFA_PATTERN: ("byte", (0, 0, 1, 1) * 2 + (1, 1, 2, 2) * 2),
    }
    with pytest.raises(ValueError, match="is not a Bayer mosaic"):
        read_raw(raw_bytes(FLAT, quad))


def test_a_dng_develops_to_its_chart():
    light = mosaicked(seen_by(D65, CHART, (0.5, 1, 0.6)))
    assert np.abs(developed(read_raw(raw_bytes(counts(light)))) - shown(COLOURS)).max() < 0.01


def test_a_matrix_without_its_own_light_is_the_only_one():
    tags = {Tag.COLOR_MATRIX: D65, Tag.COLOR_MATRIX_2: TUNGSTEN}
    np.testing.assert_array_equal(matrix_at(tags, 0.4, 0.4), np.reshape(D65, (3, 3)))
    assert matrix_at({}, 0.4, 0.4) is None and gains_of_white({Tag.AS_SHOT_WHITE: (0.3, 0.3)}) is None
    for impossible in ((0.7, 0.5), (0, 0.3), (0.3,)):
        assert gains_of_white(tags | {Tag.AS_SHOT_WHITE: impossible}) is None


# Black and white levels


def leveled(size, values, rows=None, columns=None, area=None):
    "A photograph of a ramp over the black levels that the tags describe, and the levels (h, w)."
    y, x = np.mgrid[:48, :72]
    top, left = (area or (0, 0, 48, 72))[:2]
    level = np.reshape(values, size)[(y - top) % size[0], (x - left) % size[1]].astype(float)
    tags = {Tag.BLACK_SIZE: ("short", size), Tag.BLACK: ("rational", tuple(values))}
    if rows is not None:
        level = level + np.resize(rows, 48)[(y - top) % 48]
        tags[Tag.BLACK_ROWS] = ("srational", tuple(np.resize(rows, 48 - top)))
    if columns is not None:
        level = level + np.resize(columns, 72)[(x - left) % 72]
        tags[Tag.BLACK_COLUMNS] = ("srational", tuple(np.resize(columns, 72 - left)))
    if area:
        tags[50829] = ("long", area)
    signal = 0.02 + 0.5 * x / 72 + 0.1 * y / 48
    mosaic = counts(signal, level, 16383)
    return read_raw(raw_bytes(mosaic, tags)), (mosaic - level) / (16383 - level)


@pytest.mark.parametrize(
    "case",
    [
        dict(size=(2, 2), values=(63.94, 64.41, 63.52, 64.60)),
        dict(size=(1, 1), values=(255.5,)),
        dict(size=(1, 2), values=(100.25, 101.75)),
        dict(size=(2, 1), values=(100.25, 103.5)),
        dict(size=(4, 4), values=tuple(np.arange(16) / 4 + 60)),
        dict(size=(1, 6), values=tuple(np.arange(6) * 1.5 + 60)),
        dict(size=(2, 2), values=(64, 65, 66, 67), rows=(0, 0.5, -1.25, 3)),
        dict(size=(2, 2), values=(64, 65, 66, 67), columns=np.arange(72) / 10),
        dict(size=(1, 1), values=(64,), rows=np.arange(48) / 7, columns=np.arange(72) / -9),
        dict(size=(2, 2), values=(60.5, 70.25, 80.75, 90), area=(4, 6, 48, 72)),
        dict(size=(4, 2), values=tuple(np.arange(8) + 60.25), rows=np.arange(44) / 3, area=(4, 6, 48, 72)),
    ],
    ids=lambda case: "-".join(f"{k}{np.size(v)}" for k, v in case.items()),
)
def test_black_levels_are_the_files_own(case):
    photo, signal = leveled(**case)
    top, left = case.get("area", (0, 0))[:2]
    expected = torch.from_numpy(signal[top:, left:]).float()
    packed = normalise(photo)
    torch.testing.assert_close(packed[0], expected[::2, ::2], atol=1e-6, rtol=0)
    torch.testing.assert_close(packed[3], expected[1::2, 1::2], atol=1e-6, rtol=0)
    assert torch.equal(raw_signal(photo).clamp(0, 1), packed)
    if photo.pedestal is None and case["size"] == (2, 2):
        np.testing.assert_allclose(photo.black.ravel(), case["values"], atol=1e-6)


@pytest.mark.parametrize("corner", [(1, 0), (0, 1), (1, 1), (3, 5)])
def test_black_repeats_from_the_corner_of_the_active_area(corner):
    "LibRaw's visible area begins at the next even row and column; the pattern of the levels does not."
    y, x = np.mgrid[:48, :72]
    top, left = corner
    values = np.array([[60.5, 70.25], [80.75, 90.0]])
    level = values[(y - top) % 2, (x - left) % 2]
    mosaic = counts(0.02 + 0.5 * x / 72, level)
    tags = {Tag.BLACK: ("rational", tuple(values.ravel())), Tag.ACTIVE_AREA: ("long", (top, left, 48, 72))}
    photo = read_raw(raw_bytes(mosaic, tags))
    start = top + top % 2, left + left % 2
    h, w = photo.mosaic.shape
    part = np.s_[start[0] : start[0] + h, start[1] : start[1] + w]
    assert np.array_equal(photo.mosaic, mosaic[part]) and np.array_equal(photo.levels(), level[part])


def test_a_part_of_a_photograph_keeps_its_levels_and_its_pattern():
    photo, _ = leveled((4, 4), tuple(np.arange(16) + 60.0), rows=np.arange(48) / 3)
    whole = normalise(photo)
    part = photo.cut(slice(4, 20), slice(8, 40))
    assert torch.equal(normalise(part), whole[:, 2:10, 4:20]) and part.pattern == "RGGB"
    shifted = photo.cut(slice(1, 47), slice(1, 71))
    assert shifted.pattern == "BGGR"
    assert torch.equal(normalise(from_red(shifted))[0], whole[0, 1:-1, 1:-1])


def test_fractions_of_black_survive_our_files(tmp_path):
    photo, _ = leveled((2, 2), (63.94, 64.41, 63.52, 64.60))
    write_photo(tmp_path / "a.dng", photo)
    again = read_raw(tmp_path / "a.dng")
    np.testing.assert_allclose(again.black, photo.black, atol=1e-9)
    assert np.array_equal(again.mosaic, photo.mosaic)
    by_row, _ = leveled((2, 2), (64, 65, 66, 67), rows=(0, 0.5, -1.25, 3))
    write_photo(tmp_path / "b.dng", by_row)  # what a file cannot say is taken off, to half a count
    off = normalise(read_raw(tmp_path / "b.dng")) - normalise(by_row)
    assert off.abs().max() < 0.51 / (16383 - 70)


def test_each_frame_has_its_own_white_and_the_lowest_counts(tmp_path):
    for i, white in enumerate((15283, 15283, 13200, 13200)):
        data = raw_bytes(counts(np.full((48, 72), 0.3), 512, white), {Tag.WHITE: ("long", (white,))})
        (tmp_path / f"{i}.dng").write_bytes(data)
    photos = read_burst(raw_files(tmp_path))
    assert [p.white for p in photos] == [15283, 15283, 13200, 13200]
    assert all(abs(normalise(p).mean().item() - 0.3) < 1e-4 for p in photos)
    several = raw_bytes(FLAT, {Tag.WHITE: ("long", (16000, 15000, 15500, 16000))})
    assert read_raw(several).white == 15000


# Sensitivity, exposure, aperture


@pytest.mark.parametrize(
    "said, iso",
    [
        (dict(ISO=800), 800),
        (dict(ISO=65535, SENSITIVITY_TYPE=2, EXPOSURE_INDEX=102400), 102400),
        (dict(ISO=65535, SENSITIVITY_TYPE=1, STANDARD_SENSITIVITY=204800), 204800),
        (dict(ISO=65535, SENSITIVITY_TYPE=3, ISO_SPEED=409600), 409600),
        (dict(ISO=65535, SENSITIVITY_TYPE=4, STANDARD_SENSITIVITY=80000, EXPOSURE_INDEX=102400), 102400),
        (dict(ISO=65535, SENSITIVITY_TYPE=7, ISO_SPEED=128000, EXPOSURE_INDEX=102400), 128000),
        (dict(ISO=65535, EXPOSURE_INDEX=102400), 102400),
        (dict(ISO=65535), 65535),
        (dict(EXPOSURE_INDEX=800), 800),
        (dict(STANDARD_SENSITIVITY=200), 200),
        (dict(SENSITIVITY_TYPE=3, ISO_SPEED=1250), 1250),
        (dict(ISO=0, ISO_SPEED=64), 64),
        (dict(), None),
    ],
)
def test_iso_by_any_of_its_tags(said, iso):
    exif = {Tag[name]: ("short" if value < 65536 else "long", (value,)) for name, value in said.items()}
    assert read_raw(raw_bytes(FLAT, exif=exif, without=() if "ISO" in said else (Tag.ISO,))).iso == iso


def test_of_two_sensitivities_the_one_that_is_none_does_not_count():
    "Older cameras write 0 before the value."
    assert read_raw(raw_bytes(FLAT, exif={Tag.ISO: ("short", (0, 1600))})).iso == 1600


def test_a_makers_note_beats_a_full_tag():
    assert iso_of({Tag.ISO: (65535,)}, noted=102400) == 102400 and iso_of({}, noted=320) == 320


def test_iso_in_the_main_directory_and_as_a_long_number():
    assert (
        read_raw(raw_bytes(FLAT, {Tag.ISO: ("long", (102400,))}, without=())).iso == 800
    )  # Exif has it, too
    only_main = raw_bytes(FLAT, {Tag.EXPOSURE_INDEX: ("long", (102400,))}, {Tag.ISO: ("short", (65535,))})
    assert read_raw(only_main).iso == 102400


def test_the_aperture_of_a_bracket_is_counted():
    "The same light falls on a still scene; f/2.8, f/4 (half of it), f/5.6 (a quarter)."
    photos = [
        read_raw(
            raw_bytes(
                counts(np.full((48, 72), 0.4 * (2.8 / n) ** 2)), exif={Tag.F_NUMBER: ("rational", (n,))}
            )
        )
        for n in (2.8, 4.0, 5.6)
    ]
    gains = digital_gains(photos)
    assert gains == pytest.approx([1, (4 / 2.8) ** 2, 4], rel=1e-6)
    bright = [gain * normalise(photo).mean().item() for gain, photo in zip(gains, photos)]
    assert bright == pytest.approx([0.4] * 3, rel=1e-3)
    silent = [replace(photos[0], about={}), photos[1]]
    assert digital_gains(silent) == [1, 1] and silent[0].f_number is None


def test_exposure_and_aperture_in_steps_of_powers():
    "Exif may say only ShutterSpeedValue -log2 t and ApertureValue 2 log2 N."
    apex = {37377: ("srational", (5,)), 37378: ("rational", (3,))}
    photo = read_raw(raw_bytes(FLAT, exif=apex, without=(Tag.EXPOSURE_TIME,)))
    assert photo.exposure == Fraction(1, 32) and float(photo.f_number) == pytest.approx(2**1.5, rel=0.01)
    empty = apex | {Tag.EXPOSURE_TIME: ("rational", (0,))}
    assert read_raw(raw_bytes(FLAT, exif=empty)).exposure == Fraction(1, 32)


@pytest.mark.parametrize("seconds", [Fraction(1, 8000), 30, 90, 150, 3600])
def test_exposures_of_minutes_are_exposures(seconds):
    assert read_raw(raw_bytes(FLAT, exif={Tag.EXPOSURE_TIME: ("rational", (seconds,))})).exposure == seconds


@pytest.mark.parametrize("value", [("rational", (0,)), ("srational", (-0.5,)), ("rational", (2_000_000,))])
def test_exposures_that_cannot_be_are_unknown(value):
    assert read_raw(raw_bytes(FLAT, exif={Tag.EXPOSURE_TIME: value})).exposure is None


# Shape of the pixels, orientation


def size_of(path):
    with Image.open(path) as image:
        return image.size


@pytest.mark.parametrize("scale, size", [((1, 2), (72, 96)), ((2, 1), (144, 48)), ((1, 1), (72, 48))])
def test_pixels_that_are_not_square_become_a_picture_that_is_right(tmp_path, scale, size):
    photo = read_raw(raw_bytes(FLAT, {Tag.DEFAULT_SCALE: ("rational", scale)}))
    assert photo.aspect == pytest.approx(scale[0] / scale[1])
    restored = normalise(photo)[None]
    for name in ("r.dng", "r.png"):
        save_restored(tmp_path / name, restored, photo)
    assert size_of(tmp_path / "r.png") == size
    again = read_raw(tmp_path / "r.dng")
    assert again.aspect == pytest.approx(photo.aspect) and again.mosaic.shape == (48, 72)
    turned = tmp_path / "turned.png"
    save_restored(turned, restored, replace(photo, orientation=6))
    assert size_of(turned) == size[::-1]


# What a camera says of itself


ABOUT = {
    Tag.DATE: ("ascii", "2024:05:06 07:08:09"),
    Tag.ARTIST: ("ascii", "Żółć & Søn"),
    Tag.COPYRIGHT: ("ascii", "CC0"),
}
ABOUT_EXIF = {
    Tag.F_NUMBER: ("rational", (2.8,)),
    Tag.FOCAL_LENGTH: ("rational", (50,)),
    Tag.DATE_TAKEN: ("ascii", "2024:05:06 07:08:08"),
    Tag.OFFSET_TAKEN: ("ascii", "+02:00"),
    Tag.LENS_MODEL: ("ascii", "Toy 50mm f/1.4"),
    Tag.LENS_MAKE: ("ascii", "Toys"),
    Tag.BODY_SERIAL: ("ascii", "0123"),
    Tag.FLASH: ("short", (16,)),
    Tag.EXPOSURE_BIAS: ("srational", (-1 / 3,)),
}


@pytest.fixture
def told():
    return read_raw(raw_bytes(FLAT, ABOUT, ABOUT_EXIF, model="Bayer 7"))


def test_what_is_restored_says_what_the_camera_said(tmp_path, told):
    for name in ("r.dng", "r.png"):
        save_restored(tmp_path / name, normalise(told)[None], told)
    seen = exifread.process_file(io.BytesIO((tmp_path / "r.dng").read_bytes()))
    for name, value in {
        "Image Make": "Testmake",
        "Image Model": "Bayer 7",
        "Image Software": RESTORED,
        "Image DateTime": "2024:05:06 07:08:09",
        "EXIF DateTimeOriginal": "2024:05:06 07:08:08",
        "EXIF LensModel": "Toy 50mm f/1.4",
        "EXIF FNumber": "14/5",
        "EXIF FocalLength": "50",
        "EXIF ISOSpeedRatings": "800",
        "EXIF ExposureTime": "1/60",
        "EXIF ExposureBiasValue": "-1/3",
    }.items():
        assert str(seen[name]) == value, name
    again = read_raw(tmp_path / "r.dng")
    assert dict(again.about) == dict(told.about) and again.f_number == Fraction(14, 5)
    assert told.about[Tag.ARTIST] == "Żółć & Søn"
    with Image.open(tmp_path / "r.png") as image:
        picture = image.getexif()
        inside = picture.get_ifd(0x8769)
    assert (picture[271], picture[272], picture[305]) == ("Testmake", "Bayer 7", RESTORED)
    assert inside[42036] == "Toy 50mm f/1.4" and inside[33434] == Fraction(1, 60) and 274 not in picture


def test_a_camera_without_a_name_is_not_called_simulated(tmp_path):
    photo = read_raw(raw_bytes(FLAT, without=(Tag.MAKE, Tag.MODEL, Tag.UNIQUE_MODEL)))
    assert Tag.MODEL not in photo.about
    write_photo(tmp_path / "a.dng", photo)
    data = (tmp_path / "a.dng").read_bytes()
    assert b"simulated" not in data and b"unknown camera" in data


@pytest.mark.parametrize(
    "make, model",
    [
        ("Canon", "Canon EOS 5D Mark IV"),
        ("NIKON CORPORATION", "NIKON D1X"),
        ("FUJIFILM", "X-T3"),
        ("SONY", "ILCE-7M3"),
        ("Hasselblad", "X1D"),
        ("Phase One", "IQ3 100MP"),
        ("OLYMPUS", "E-M1MarkII"),
        ("Google", "Pixel 7"),
    ],
)
def test_the_name_of_a_camera_changes_no_number(tmp_path, make, model):
    "Libraries know tricks for cameras by name; none may touch what is written."
    told, plain = ({Tag.MAKE: m, Tag.MODEL: n} for m, n in ((make, model), ("Toy", "Toy 1")))
    draws = np.random.default_rng(0).integers(0, 4096, (48, 72)).astype(np.uint16)
    read = []
    for about in (told, plain):
        write_dng(tmp_path / "a.dng", draws, exposure=0.01, iso=100, black=256, white=4095, about=about)
        read.append(read_raw(tmp_path / "a.dng"))
    a, b = read
    assert np.array_equal(a.mosaic, draws) and np.array_equal(a.black, b.black) and a.white == b.white
    assert a.pattern == b.pattern == "RGGB" and a.aspect == b.aspect == 1 and a.orientation == b.orientation
    np.testing.assert_array_equal(a.color_matrix, b.color_matrix)


def test_words_that_nobody_can_read_are_left_out():
    "A year that does not exist, a name in another alphabet, an exponent without end, pixels without width."
    odd = {
        Tag.DATE: ("ascii", "99999:01:01 00:00:00"),
        Tag.ARTIST: ("undefined", (0xE9, 0xFF, 0xFE, 0x80, 1)),
    }
    data = raw_bytes(
        FLAT,
        odd | {Tag.DEFAULT_SCALE: ("rational", (0, 1))},
        {Tag.LENS_MODEL: ("ascii", "QQQQQQ"), 37377: ("srational", (-3000,)), Tag.DATE_TAKEN: odd[Tag.DATE]},
        without=(Tag.EXPOSURE_TIME,),
    ).replace(b"QQQQQQ", b"\xe9\xff\xfe\xe8\xc3(")
    photo = read_raw(data)
    assert photo.exposure is None and photo.aspect == 1 and photo.iso == 800
    assert Tag.ARTIST not in photo.about and photo.about[Tag.LENS_MODEL].startswith("\ufffd")


def test_other_containers_tell_the_same():
    "The TIFF structures inside a CR3's, a RAF's and a MRW's boxes."
    tiff = raw_bytes(FLAT[:22, :22], exif={Tag.LENS_MODEL: ("ascii", "Toy")})
    (at,) = struct.unpack_from("<I", tiff, 4)
    assert kept_of(tiff_tags(tiff))[Tag.LENS_MODEL] == "Toy" and at
    for wrapped in (
        b"\0\0\0\x18ftypcrx \0\0\0\1isom" + b"\0\0\0\0moov....CMT1" + tiff,
        b"FUJIFILMCCD-RAW 0201" + bytes(80) + b"\xff\xd8\xff\xe1..Exif\0\0" + tiff,
        b"\0MRM\0\0\1\0\0TTW\0\0\1\0" + tiff,
    ):
        tags = tiff_tags(wrapped)
        assert tags[Tag.MODEL] == "Bayer 1" and tags[Tag.ISO] == (800,) and tags[Tag.LENS_MODEL] == "Toy"


# Own output, inputs


@pytest.fixture
def folder(tmp_path):
    for i in range(3):
        (tmp_path / f"IMG_{i}.dng").write_bytes(
            raw_bytes(FLAT, {Tag.NOISE_PROFILE: ("double", (1e-3, 1e-6))})
        )
    return tmp_path


def test_restoring_into_the_same_folder_twice_gives_the_same_bytes(folder):
    made = []
    for _ in range(2):
        photos = read_burst(raw_files(folder))
        assert len(photos) == 3
        for name in ("restored.dng", "another.dng", "restored.png"):
            save_restored(folder / name, restore_photos(photos, Merge()), photos[0])
        made.append(
            [(folder / name).read_bytes() for name in ("restored.dng", "another.dng", "restored.png")]
        )
    assert made[0] == made[1] and was_restored(folder / "another.dng")


def test_a_frame_is_never_replaced(folder):
    photos, before = read_burst(raw_files(folder)), (folder / "IMG_1.dng").read_bytes()
    (folder / "link.dng").symlink_to(folder / "IMG_1.dng")
    for name in ("IMG_1.dng", "link.dng"):
        with pytest.raises(ValueError, match="choose another name"):
            save_restored(folder / name, normalise(photos[0])[None], photos[0])
    assert (folder / "IMG_1.dng").read_bytes() == before


def test_only_what_was_restored_is_no_burst(folder):
    photo = read_burst(raw_files(folder))[0]
    for frame in raw_files(folder):
        frame.unlink()
    save_restored(folder / "restored.dng", normalise(photo)[None], photo)
    with pytest.raises(ValueError, match="only what was restored before"):
        raw_files(folder)


def test_every_suffix_is_looked_at(tmp_path):
    asked = (
        ".nrw .srw .rwl .3fr .mrw .crw .erf .iiq .kdc .dcr .fff .mef .mos .sr2 .srf .x3f .gpr .dng .NEF .Cr3"
    )
    for i, suffix in enumerate(asked.split()):
        (tmp_path / f"{i}{suffix}").write_bytes(b"-")
    assert len(raw_files(tmp_path)) == len(asked.split())
    assert len(set(RAWS)) == len(RAWS) and all(s == s.lower() and s[0] == "." for s in RAWS)


@pytest.mark.parametrize("target", ["nowhere.dng", "9.dng"])
def test_a_link_that_leads_nowhere_is_named(folder, target):
    "A frame on a disk that is not mounted, or a link to itself: the burst is shorter, and that is said."
    (folder / "9.dng").symlink_to(folder / target)
    with pytest.warns(UserWarning, match="9.dng is a link to no file"):
        assert len(raw_files(folder)) == 3


@pytest.mark.parametrize(
    "said, words", [("{\n,", "in line 2"), ("[" * 100_000, "lists no frames"), ("[]", "lists no frames")]
)
def test_a_damaged_manifest_is_told_in_our_own_words(folder, said, words):
    (folder / "manifest.json").write_text(said)
    with pytest.raises(ValueError, match=f"manifest.json is damaged .*{words}") as caught:
        raw_files(folder)
    assert "Error" not in str(caught.value)


def test_pipes_are_passed_over_and_named(folder):
    os.mkfifo(folder / "9.dng")
    (folder / "folder.dng").mkdir()
    (folder / "pictures").mkdir()
    for name in "abc":
        Image.new("RGB", (64, 64)).save(folder / "pictures" / f"{name}.png")
    os.mkfifo(folder / "pictures" / "x.png")
    assert len(raw_files(folder)) == 3 and len(find_clips(folder / "pictures").clips) == 3
    for name, words in (("9.dng", "pipe or a device"), ("folder.dng", "is a folder")):
        with pytest.raises(ValueError, match=f"{name} is .*{words.split(' ', 1)[1]}"):
            named_bytes(folder / name)
    with pytest.raises(ValueError, match="pipe or a device"):
        read_raw("/dev/zero")


@pytest.mark.parametrize(
    "names, words",
    [
        (["/dev/zero"], "own folder only"),
        (["../outside.dng"], "own folder only"),
        (["a/../IMG_0.dng"], "own folder only"),
        ([".."], "own folder only"),
        ([""], "own folder only"),
        ([7], "own folder only"),
        ([["IMG_0.dng"]], "own folder only"),
        (["away.dng"], "own folder only"),
        (["IMG_0.dng", "IMG_0.dng"], "2 times"),
    ],
)
def test_a_manifest_names_files_of_its_folder(folder, names, words):
    import json

    (folder / "away.dng").symlink_to("/dev/zero")
    (folder / "manifest.json").write_text(json.dumps({"frames": [{"file": name} for name in names]}))
    with pytest.raises(ValueError, match=words):
        raw_files(folder)


def test_two_cameras_are_no_burst(told):
    check_burst([told, told], ["a.dng", "b.dng"])
    check_burst([told, replace(told, about={})], ["a.dng", "b.dng"])
    with pytest.raises(
        ValueError, match="b.dng has the camera Testmake Other 0123, a.dng has Testmake Bayer 7"
    ):
        check_burst([told, replace(told, about={**told.about, Tag.MODEL: "Other"})], ["a.dng", "b.dng"])


# What is no RAW file


def picture(kind, mode="RGB", **options):
    file = io.BytesIO()
    Image.new(mode, (64, 64)).save(file, kind, **options)
    return file.getvalue()


def box(brand):
    return b"\0\0\0\x18ftyp" + brand + bytes(4) + b"mif1heic" + bytes(100)


GOOD = raw_bytes(FLAT)


def with_tag(tag, kind, values, where="main", **options):
    return raw_bytes(FLAT, **{where: {tag: (kind, values)}}, **options)


def claiming(tag, count, kind="long"):
    "A valid file whose tag claims a number of values that it has not."
    data = bytearray(GOOD)
    (start,) = struct.unpack_from("<I", data, 4)
    for at in range(start + 2, start + 2 + 12 * struct.unpack_from("<H", data, start)[0], 12):
        if struct.unpack_from("<H", data, at)[0] == tag:
            struct.pack_into("<HI", data, at + 2, TYPES[kind][0], count)
            return bytes(data)
    raise KeyError(tag)


NO_RAW = {
    "empty": (b"", "is empty, no RAW file: copy it"),
    "zeros": (bytes(4096), "nothing but zeros"),
    "LFS pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "Git LFS.*git lfs pull",
    ),
    "annex pointer": (b"/annex/objects/SHA256E-s1--0.dng\n", "git-annex"),
    "DVC pointer": (b"outs:\n- md5: 0123\n  size: 5\n", "DVC.*dvc pull"),
    "page": (b"<!DOCTYPE html><html><title>404</title></html>", "web page"),
    "page in capitals": (b"\n <HTML><BODY>moved</BODY></HTML>", "web page"),
    "page with BOM": (b"\xef\xbb\xbf<!doctype html>", "web page"),
    "XMP": (b"<x:xmpmeta xmlns:x='adobe:ns:meta/'></x:xmpmeta>", "is XML"),
    "JSON": (b'{"error": "not found"}', "JSON"),
    "text": ("Größe: 5\n".encode() * 500, "is text"),
    "text like TIFF": (b"II was here, and MM too.\n", "is text"),
    "property list": (b"bplist00" + bytes(9), "iCloud"),
    "AppleDouble": (b"\0\5\x16\7\0\2\0\0Mac OS X", "AppleDouble"),
    "JPEG": (picture("JPEG"), "JPEG picture.*choose RAW"),
    "JPEG, cut": (b"\xff\xd8\xff\xe0\0\x10JFIF", "JPEG picture"),
    "PNG": (picture("PNG"), "PNG picture"),
    "GIF": (picture("GIF"), "GIF picture"),
    "BMP": (picture("BMP"), "BMP picture"),
    "WebP": (picture("WEBP"), "WebP picture"),
    "HEIC": (box(b"heic"), "HEIC picture"),
    "HEIC sequence": (box(b"hevc"), "HEIC picture"),
    "HEIF": (box(b"mif1"), "HEIC picture"),
    "AVIF": (box(b"avif"), "AVIF picture"),
    "JPEG XL": (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    "JPEG 2000": (picture("JPEG2000"), "JPEG 2000"),
    "MP4": (box(b"isom"), "film"),
    "QuickTime": (box(b"qt  "), "film"),
    "old QuickTime": (b"\0\0\1\0moov" + bytes(50), "film"),
    "AVI": (b"RIFF\0\0\1\0AVI LIST", "film"),
    "Matroska": (b"\x1aE\xdf\xa3" + bytes(30), "film"),
    "MPEG": (b"\0\0\1\xba" + bytes(30), "film"),
    "ZIP": (b"PK\3\4" + bytes(30), "archive.*unpack"),
    "gzip": (b"\x1f\x8b\x08" + bytes(30), "archive"),
    "xz": (b"\xfd7zXZ\0" + bytes(30), "archive"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(30), "archive"),
    "RAR": (b"Rar!\x1a\7" + bytes(30), "archive"),
    "tar": (b"IMG.dng".ljust(257, b"\0") + b"ustar\x0000", "archive"),
    "PDF": (b"%PDF-1.7\n%\xe2\xe3", "PDF"),
    "Word": (b"\xd0\xcf\x11\xe0" + bytes(30), "Office"),
    "Photoshop": (b"8BPS\0\1" + bytes(30), "Photoshop"),
    "OpenEXR": (b"v/1\1\2\0\0\0", "OpenEXR"),
    "Radiance": (b"#?RADIANCE\n", "Radiance"),
    "program": (b"\x7fELF\2\1\1" + bytes(30), "program"),
    "Windows program": (b"MZ\x90\0" + bytes(30), "program"),
    "NumPy": (b"\x93NUMPY\1\0", "NumPy"),
    "FITS": (b"SIMPLE  =                    T", "FITS"),
    "HDF5": (b"\x89HDF\r\n\x1a\n", "HDF5"),
    "DICOM": (bytes(128) + b"DICM\2\0", "DICOM"),
    "BigTIFF": (b"II+\0\x08\0\0\0" + bytes(30), "BigTIFF"),
    "noise": (bytes(np.random.default_rng(0).integers(128, 256, 4096, dtype=np.uint8)), "no header"),
    "plain TIFF": (picture("TIFF"), "cannot be read as RAW"),
    "CRW, cut": (b"II\x1a\0\0\0HEAPCCDR" + bytes(4082), "cannot be read as RAW.*kind"),
    "CR3, cut": (b"\0\0\0\x18ftypcrx \0\0\0\1isomcrx \0\1\0\0moov" + bytes(99), "cut short"),
    "RAF, cut": (
        b"FUJIFILMCCD-RAW ".ljust(100, b"\1") + struct.pack(">II", 200, 9999) + bytes(200),
        "cut short",
    ),
    "half": (GOOD[: len(GOOD) // 2], "cut short"),
    "header alone": (GOOD[:8], "cut short"),
    "strip beyond the end": (with_tag(Tag.STRIP_OFFSETS, "long", (10**6,)), "cut short"),
    "directory at the end of the world": (b"II*\0\xff\xff\xff\xff" + bytes(99), "cut short"),
    "GPR": (with_tag(Tag.COMPRESSION, "short", (9,)), "GoPro GPR.*convert"),
    "JPEG XL in DNG": (with_tag(Tag.COMPRESSION, "short", (52546,)), "JPEG XL.*convert"),
    "no bits": (with_tag(Tag.BITS, "short", (0,)), "0 bits"),
    "bits without end": (with_tag(Tag.BITS, "long", (2**32 - 1,)), "4294967295 bits"),
    "signed": (with_tag(Tag.SAMPLE_FORMAT, "short", (2,)), "signed"),
    "floats": (with_tag(Tag.SAMPLE_FORMAT, "short", (3,)), "floating-point"),
    "white too high": (with_tag(Tag.WHITE, "long", (2**20,)), "bit depth"),
    "white is infinite": (with_tag(Tag.WHITE, "double", (float("inf"),)), "WHITE is inf"),
    "white is none": (with_tag(Tag.WHITE, "long", ()), "WHITE has 0 values"),
    "black above white": (with_tag(Tag.BLACK, "long", (16383,) * 4), "levels are wrong"),
    "one noise": (with_tag(Tag.NOISE_PROFILE, "double", (1e-3,)), "NoiseProfile"),
    "negative noise": (with_tag(Tag.NOISE_PROFILE, "double", (-1e-3, 1e-6)), "NoiseProfile"),
    "absurd noise": (with_tag(Tag.NOISE_PROFILE, "double", (1e300, 1e-6)), "NoiseProfile"),
    "noise is no number": (
        with_tag(Tag.NOISE_PROFILE, "double", (float("nan"), 1.0)),
        "NOISE_PROFILE is nan",
    ),
    "exposure is none": (with_tag(Tag.EXPOSURE_TIME, "rational", (), "exif"), "EXPOSURE_TIME has 0"),
    "ISO is none": (with_tag(Tag.ISO, "short", (), "exif"), "ISO has 0 values"),
    "sub-directory at infinity": (
        with_tag(Tag.SUB_DIRECTORIES, "double", (float("inf"),)),
        "SUB_DIRECTORIES",
    ),
    "a thousand sub-directories": (with_tag(Tag.SUB_DIRECTORIES, "long", (8,) * 1000), "1000 values"),
    "flat matrix": (with_tag(Tag.COLOR_MATRIX, "srational", (1e9,) * 9), "no inverse"),
    "claims four billion levels": (claiming(Tag.BLACK, 2**32 - 1), "BLACK has 4294967295 values"),
    "claims a million whites": (claiming(Tag.WHITE, 10**6), "WHITE has 1000000 values"),
    "two gigapixels": (
        raw_bytes(FLAT, {Tag.WIDTH: ("long", (60000,)), Tag.HEIGHT: ("long", (40000,))}),
        "promises 40000 x 60000 px",
    ),
    "X-Trans": (
        raw_bytes(FLAT, {Tag.CFA_SIZE: ("short", (6, 6)), Tag.CFA_PATTERN: ("byte", (1, 0, 1, 1, 2, 1) * 6)}),
        "not a Bayer mosaic|cannot be read",
    ),
    "demosaicked": (with_tag(Tag.PHOTOMETRIC, "short", (34892,)), "not a Bayer mosaic|cannot be read"),
}


@pytest.mark.parametrize("what", NO_RAW)
def test_every_wrong_file_is_one_sentence_that_names_it(tmp_path, what):
    data, words = NO_RAW[what]
    path = tmp_path / "IMG_1.NEF"
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=words) as caught:
            read_raw(path)
    said = str(caught.value)
    assert said.startswith("IMG_1.NEF") and "\n" not in said and len(said) < 300
    assert ("footage.yaml" in said) == (what == "noise")
    assert not any(word in said for word in ("unpack_from", "invalid literal", "NoneType", "out of range"))


@pytest.mark.parametrize(
    "what, words",
    [
        ("empty", "it is empty; copy it"),
        ("zeros", "nothing but zeros"),
        ("LFS pointer", "it is a Git LFS pointer; .*git lfs pull"),
        ("page", "it is a web page"),
        ("ZIP", "it is an archive .ZIP.; unpack"),
        ("PDF", "it is a PDF document"),
        ("HEIC", "it is a HEIC picture; convert"),
        ("MP4", "film; give it a name"),
        ("JPEG, cut", "cannot be read as a picture: is it empty, truncated"),
    ],
)
def test_a_photograph_that_is_none_is_told_too(tmp_path, what, words):
    path = tmp_path / "photo.jpg"
    path.write_bytes(NO_RAW[what][0])
    with pytest.raises(ValueError, match=words):
        open_clip(path)


def test_there_are_enough_of_them():
    assert len(NO_RAW) >= 80


# Crafted files


def test_ten_gigabytes_that_a_file_claims_are_not_unpacked():
    known = sorted(Tag)
    crafted = struct.pack("<2sHIH", b"II", 42, 8, 60000)
    crafted += b"".join(struct.pack("<HHII", known[i % len(known)], 1, 500000, 8) for i in range(60000))
    with pytest.raises(ValueError, match="500000 values"):
        tiff_tags(crafted + bytes(500000))
    unknown = b"".join(struct.pack("<HHII", 1000 + i, 1, 500000, 8) for i in range(20000))
    assert tiff_tags(struct.pack("<2sHIH", b"II", 42, 8, 20000) + unknown + bytes(500000)) == {}


def test_directories_that_point_at_themselves_end():
    data = struct.pack("<2sHIH", b"II", 42, 8, 2)
    data += (
        struct.pack("<HHII", Tag.SUB_DIRECTORIES, 4, 16, 40)
        + struct.pack("<HHII", Tag.EXIF, 4, 1, 8)
        + bytes(4)
    )
    data = data.ljust(40, b"\0") + struct.pack("<16I", *[8] * 16)
    assert set(tiff_tags(data)) == {Tag.SUB_DIRECTORIES, Tag.EXIF}


def test_pixels_that_break_off_are_not_filled_from_memory(tmp_path):
    "A maker's file, whose strip says nothing of its length: LibRaw reads to the end and leaves the rest."
    whole = raw_bytes(FLAT, dng=False, make="PENTAX", model="PENTAX K10D")
    path = tmp_path / "a.pef"
    (start,) = struct.unpack_from("<I", whole, 4)
    pixels, directories = whole[8 : 8 + FLAT.nbytes], whole[8 + FLAT.nbytes :]
    # the directories first, the pixels last and too few
    moved = bytearray(struct.pack("<2sHI", b"II", 42, start - FLAT.nbytes) + directories)
    for at in range(start - FLAT.nbytes + 2, len(moved) - 12, 12):
        tag, kind, count, value = struct.unpack_from("<HHII", moved, at)
        if tag == Tag.STRIP_OFFSETS:
            struct.pack_into("<I", moved, at + 8, len(moved))
        elif tag == Tag.STRIP_BYTES:
            struct.pack_into("<I", moved, at + 8, 16)
        elif tag == Tag.EXIF or (value >= 8 + FLAT.nbytes and count * {2: 1, 3: 2}.get(kind, 8) > 4):
            struct.pack_into("<I", moved, at + 8, value - FLAT.nbytes)
    path.write_bytes(bytes(moved) + pixels[: len(pixels) // 2])
    with pytest.raises(ValueError, match="a.pef.*(cut short|cannot be read)"):
        read_raw(path)


@pytest.mark.parametrize("seed", range(3))
def test_mutated_files_are_read_or_refused(seed):
    draws = random.Random(seed)
    seeds = [GOOD, raw_bytes(FLAT, dng=False, make="PENTAX", model="PENTAX K10D"), NO_RAW["GPR"][0]]
    kept = 0
    for _ in range(150):
        data = bytearray(draws.choice(seeds))
        for _ in range(draws.choice((1, 2, 8))):
            at = draws.randrange(FLAT.nbytes, len(data))
            data[at : at + 4] = draws.choice(
                (b"\0\0\0\0", b"\xff\xff\xff\xff", draws.randbytes(1), draws.randbytes(4))
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                photo = read_raw(bytes(data))
            except ValueError:
                continue
        kept += 1
        assert torch.isfinite(normalise(photo)).all() and np.isfinite(photo.color_matrix).all()
    assert 20 < kept < 150


def test_photographs_by_hand_have_no_history():
    "A RawPhoto that a program makes says nothing of a camera, and is written so."
    photo = RawPhoto(FLAT, "RGGB", np.full((2, 2), 512.0), 16383, Fraction(1, 60), 100.0)
    assert photo.about == {} and photo.f_number is None and photo.levels().shape == FLAT.shape
    assert torch.equal(normalise(photo), normalise(photo.cut(slice(0, 48), slice(0, 72))))
    assert GREY[0] == "rational" and generator(0).initial_seed() > 0
