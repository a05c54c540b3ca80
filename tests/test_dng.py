"""Files: bit-identical round trips, metadata against an independent reader, real RAW files, and everything that must be refused."""

import io
import struct
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import exifread
import numpy as np
import pytest
import tifffile
import torch

from debir_nb.core import generator
from debir_nb.light.dng import (
    RawLayout,
    Tag,
    dng_colour,
    normalise,
    read_headerless,
    read_raw,
    tiff_tags,
    to_counts,
    write_dng,
)
from debir_nb.light.raw import develop, random_colour, sample_cfa, unprocess

RAW = Path(__file__).resolve().parents[2] / "shared" / "data" / "raw"
REAL = pytest.mark.skipif(not RAW.is_dir(), reason=f"real RAW files are missing: {RAW}")
PATTERNS = ["RGGB", "BGGR", "GRBG", "GBRG"]


def mosaic(h=32, w=48, white=65535, seed=0):
    return np.random.default_rng(seed).integers(0, white + 1, (h, w), np.uint16)


def saved(path, counts=None, **options):
    write_dng(path, mosaic() if counts is None else counts, **{"exposure": 0.01, "iso": 100} | options)
    return path


def foreign(path, samples, pattern=(0, 1, 1, 2), side=2, white=4095, photometric=32803, **options):
    "A DNG by another writer."
    tags = [(50706, "B", 4, (1, 4, 0, 0), True), (50708, "s", 0, "Other", True), (50717, "I", 1, white, True)]
    if photometric == 32803:
        tags += [(33421, "H", 2, (side, side), True), (33422, "B", side * side, pattern, True)]
    tifffile.imwrite(path, samples, photometric=photometric, extratags=tags, metadata=None, **options)
    return path


def patched(data, tag, code, *values):
    "The file with other values behind a tag of its main directory."
    (start,) = struct.unpack_from("<I", data, 4)
    for at in range(start + 2, start + 2 + 12 * struct.unpack_from("<H", data, start)[0], 12):
        number, _, count = struct.unpack_from("<HHI", data, at)
        if number == tag:
            inside = struct.calcsize("<" + code) <= 4
            data = bytearray(data)
            struct.pack_into(
                "<" + code, data, at + 8 if inside else struct.unpack_from("<I", data, at + 8)[0], *values
            )
            return bytes(data)
    raise KeyError(tag)


def with_active_area(data, *area):
    "The file with an ActiveArea (top, left, bottom, right), in a new main directory at its end."
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    entries = [data[i : i + 12] for i in range(start + 2, start + 2 + 12 * count, 12)]
    end = len(data) + 2 + 12 * (count + 1) + 4
    entries = sorted(
        [*entries, struct.pack("<HHII", 50829, 4, 4, end)], key=lambda entry: struct.unpack_from("<H", entry)
    )
    main = struct.pack("<H", count + 1) + b"".join(entries) + bytes(4) + struct.pack("<4I", *area)
    return struct.pack("<2sHI", b"II", 42, len(data)) + data[8:] + main


# Round trips


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("shape", [(22, 22), (24, 70), (130, 66)])
def test_bits_survive(tmp_path, pattern, shape):
    counts, black = mosaic(*shape, white=16383), np.array([[500, 600], [700, 800]])
    photo = read_raw(saved(tmp_path / "a.dng", counts, black=black, white=16383, pattern=pattern))
    assert np.array_equal(photo.mosaic, counts) and photo.mosaic.dtype == np.uint16
    assert photo.pattern == pattern and np.array_equal(photo.black, black) and photo.white == 16383


@pytest.mark.parametrize(
    "exposure", [Fraction(1, 8000), 1 / 1920, 7 / 1920, Fraction(3, 2500), 1 / 3, 1.0, 30, 121.5, 1e-7]
)
def test_exposure_is_the_exact_fraction(tmp_path, exposure):
    path = saved(tmp_path / "a.dng", exposure=exposure)
    assert read_raw(path).exposure == Fraction(exposure).limit_denominator(10**7)
    seen = exifread.process_file(io.BytesIO(path.read_bytes()))["EXIF ExposureTime"].values[0]
    assert float(seen) == pytest.approx(float(exposure), rel=1e-9)


@pytest.mark.parametrize("iso", [50, 100, 51200, 65534, 65535, 65536, 102400, 204800, 3199.6])
def test_iso_also_above_16_bits(tmp_path, iso):
    path = saved(tmp_path / "a.dng", iso=iso)
    assert read_raw(path).iso == round(iso)
    assert exifread.process_file(io.BytesIO(path.read_bytes()))["EXIF ISOSpeedRatings"].values[0] == min(
        round(iso), 65535
    )


def test_bytes_read_as_files_do(tmp_path):
    path = saved(tmp_path / "a.dng", noise=(1e-3, 1e-6))
    a, b = read_raw(path), read_raw(path.read_bytes())
    assert (
        np.array_equal(a.mosaic, b.mosaic) and a.exposure == b.exposure and a.noise == b.noise == (1e-3, 1e-6)
    )


@pytest.mark.parametrize("seed", range(3))
def test_colour_survives(tmp_path, seed):
    colour = random_colour(1, generator(seed))
    found = read_raw(saved(tmp_path / "a.dng", **dng_colour(colour))).colour()
    for name in ("rgb2cam", "red_gain", "blue_gain"):
        torch.testing.assert_close(getattr(found, name), getattr(colour, name), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_counts_and_normalise_undo_each_other(tmp_path, pattern):
    packed, black = torch.rand(4, 12, 16, generator=generator(1)), np.array([[64, 65], [66, 67]])
    photo = read_raw(
        saved(
            tmp_path / "a.dng",
            to_counts(packed, black, 4095, pattern),
            black=black,
            white=4095,
            pattern=pattern,
        )
    )
    assert (normalise(photo) - packed).abs().max() <= 0.5 / (4095 - 67) + 1e-6


def test_a_photograph_survives_the_file(tmp_path):
    colour = random_colour(1, generator(2))
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(64.0), indexing="ij")
    srgb = torch.stack([0.5 + 0.3 * torch.sin(0.05 * x + 0.03 * y + 0.3 * i) for i in range(3)])[None]
    counts = to_counts(sample_cfa(unprocess(srgb, colour))[0], 512, 16383)
    photo = read_raw(saved(tmp_path / "a.dng", counts, black=512, white=16383, **dng_colour(colour)))
    developed = develop(normalise(photo)[None] * colour.rgb_gain, photo.colour())
    assert (developed - srgb)[..., 4:-4, 4:-4].abs().max() < 2 / 255


def test_levels_are_clipped_to_the_range(tmp_path):
    counts = np.tile(np.array([[0, 100], [4095, 65]], np.uint16), (12, 12))
    photo = read_raw(saved(tmp_path / "a.dng", counts, black=100, white=4095))
    assert [plane.unique().tolist() for plane in normalise(photo)] == [[0], [0], [1], [0]]


def test_writing_is_all_or_nothing(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.dng")
    before = path.read_bytes()

    def disk_full(self, data):
        self.write_text("half a file")
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_bytes", disk_full)
    with pytest.raises(OSError, match="no space"):
        saved(path, iso=200)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_an_independent_reader_agrees(tmp_path):
    counts = mosaic()
    with tifffile.TiffFile(saved(tmp_path / "a.dng", counts, black=7, white=65535, pattern="GRBG")) as file:
        page = file.pages[0]
        assert np.array_equal(page.asarray(), counts)
        assert (
            page.tags[Tag.CFA_PATTERN].value == bytes([1, 0, 2, 1]) and page.tags[Tag.BLACK].value == (7,) * 4
        )


@pytest.mark.parametrize("corner", [(1, 0), (0, 1), (1, 1)])
def test_pattern_is_that_of_the_visible_area(tmp_path, corner):
    """The tile begins at the corner of the active area (DNG 1.4); LibRaw starts at the next even row and
    column.
    """
    (top, left), full = corner, mosaic(32, 32)
    photo = read_raw(with_active_area(saved(tmp_path / "a.dng", full).read_bytes(), top, left, 32, 32))
    h, w = photo.mosaic.shape
    assert np.array_equal(photo.mosaic, full[2 * top : 2 * top + h, 2 * left : 2 * left + w])
    order = np.ix_([top, 1 - top], [left, 1 - left])
    assert photo.pattern == "".join(np.array([["R", "G"], ["G", "B"]])[order].ravel())


# Tags


@pytest.mark.parametrize("order", ["<", ">"])
def test_tags_of_both_byte_orders_and_of_sub_directories(tmp_path, order):
    path = tmp_path / "a.dng"
    with tifffile.TiffWriter(path, byteorder=order) as file:
        file.write(
            np.zeros((16, 16, 3), np.uint8),
            photometric="rgb",
            subifds=1,
            extratags=[(33434, 5, 1, (1, 250), True)],
            metadata=None,
        )
        file.write(
            mosaic(),
            photometric=32803,
            extratags=[(33421, "H", 2, (2, 2), True), (33422, "B", 4, (0, 1, 1, 2), True)],
            metadata=None,
        )
    tags = tiff_tags(path.read_bytes())
    assert (
        tags[Tag.EXPOSURE_TIME] == (Fraction(1, 250),)
        and tags[Tag.WIDTH] == (48,)
        and tags[Tag.BITS] == (16,)
    )


def test_an_unknown_exposure_is_none_and_not_a_second(tmp_path):
    path = saved(tmp_path / "a.dng")
    (exif,) = tiff_tags(path.read_bytes())[Tag.EXIF]
    data = bytearray(path.read_bytes())
    (at,) = struct.unpack_from("<I", data, exif + 2 + 8)
    struct.pack_into("<II", data, at, 0, 1_000_000)
    assert read_raw(bytes(data)).exposure is None


# Real files


@REAL
@pytest.mark.parametrize(
    "name, exposure, iso, white, noise",
    [
        (
            "gopro_hero6_mural.dng",
            Fraction(1, 455),
            100,
            16383,
            (0.00015620100020896643, 4.880019943698244e-08),
        ),
        (
            "gopro_fusion_back.dng",
            Fraction(1, 3413),
            100,
            16383,
            (7.809999789543329e-05, 2.4399999342491323e-08),
        ),
        ("canon_kissx4_colorchart.dng", None, None, 15000, None),
    ],
)
def test_real_files(name, exposure, iso, white, noise):
    photo = read_raw(RAW / name)
    assert (photo.exposure, photo.iso, photo.white, photo.noise, photo.pattern) == (
        exposure,
        iso,
        white,
        noise,
        "RGGB",
    )
    packed = normalise(photo)
    assert packed.shape == (4, photo.mosaic.shape[0] // 2, photo.mosaic.shape[1] // 2)
    assert 0 <= packed.min() and packed.max() <= 1 and 0.01 < packed.mean() < 0.9
    picture = develop(packed[None, :, :64, :64], photo.colour())
    assert torch.isfinite(picture).all() and picture.std() > 0.001
    torch.testing.assert_close(photo.colour().rgb2cam.sum(-1), torch.ones(1, 3), atol=1e-3, rtol=0)


@REAL
@pytest.mark.parametrize("name", ["gopro_hero6_mural.dng", "canon_kissx4_colorchart.dng"])
def test_real_files_survive_our_writer(tmp_path, name):
    photo = read_raw(RAW / name)
    counts = np.minimum(photo.mosaic, photo.white)
    again = read_raw(
        saved(tmp_path / "a.dng", counts, black=photo.black, white=photo.white, pattern=photo.pattern)
    )
    assert np.array_equal(again.mosaic, counts) and np.array_equal(again.black, photo.black)


@REAL
def test_a_real_headerless_file_is_read_only_by_its_declared_layout():
    "LibRaw opens it by its size, with a pattern and a depth that are not its own."
    chart = RAW / "openisp_chart_1920x1080_rggb10.RAW"
    with pytest.raises(ValueError, match="no header.*footage.yaml"):
        read_raw(chart)
    photo = read_headerless(chart, RawLayout(1080, 1920, "RGGB", 0, 1023))
    assert np.array_equal(photo.mosaic.ravel(), np.fromfile(chart, "<u2")) and normalise(photo).shape == (
        4,
        540,
        960,
    )


@pytest.mark.parametrize(
    "change, words",
    [
        ({"width": 62}, "has 6144 bytes, but 48 x 62 px of 16 bits are 5952"),
        ({"height": 47}, "even sides"),
        ({"height": "48"}, "even sides"),
        ({"white": 512}, "black is 512 and white 512"),
        ({"white": 70000}, "whole counts"),
        ({"pattern": "RGB"}, "pattern is 'RGB'"),
    ],
)
def test_headerless_counts_come_back_or_are_refused(tmp_path, change, words):
    counts = np.random.default_rng(0).integers(512, 4096, (48, 64)).astype("<u2")
    counts.tofile(tmp_path / "bare.raw")
    layout = RawLayout(height=48, width=64, pattern="GBRG", black=512, white=4095)
    photo = read_headerless(tmp_path / "bare.raw", layout)
    assert (
        np.array_equal(photo.mosaic, counts)
        and photo.pattern == "GBRG"
        and photo.iso is None
        and torch.equal(photo.colour().matrix(), torch.eye(3)[None])
    )
    with pytest.raises(ValueError, match=words):
        read_headerless(tmp_path / "bare.raw", replace(layout, **change))


# Bad files


def test_bad_files_are_refused(tmp_path):
    good, path = saved(tmp_path / "good.dng").read_bytes(), tmp_path / "a.dng"
    xtrans = bytes("RGB".index(c) for c in "GGRGGBGGBGGRBRGRBGGGBGGRGGRGGBRBGBRG")
    small = (mosaic() / 16).astype(np.uint16)
    refused = {
        "no header": [b"\x07\x80\x01" * 1000],
        "cut short": [good[: len(good) // 2], good[:-40]],
        "damaged": [b"II*\0\x08\0\0\0" + bytes(2000)],
        "not a Bayer mosaic": [
            foreign(path, small, xtrans, 6).read_bytes(),
            foreign(path, np.stack([small] * 3, -1), photometric=34892).read_bytes(),
        ],
        "is not a Bayer mosaic": [
            foreign(path, small, (3, 4, 5, 1)).read_bytes(),
            foreign(path, small, (0, 0, 1, 2)).read_bytes(),
        ],
        "floating-point": [foreign(path, small.astype(np.float32) / 4095, white=1).read_bytes()],
        "bit depth": [foreign(path, small.astype(np.uint8), white=4095).read_bytes()],
        "levels are wrong": [patched(good, Tag.BLACK, "4I", *[65535] * 4)],
    }
    for words, files in refused.items():
        for data in files:
            with pytest.raises(ValueError, match=words):
                read_raw(data)


def test_a_strip_that_ends_early_is_refused(tmp_path):
    data = foreign(tmp_path / "a.dng", mosaic(white=4095)).read_bytes()
    with pytest.raises(ValueError, match="cut short"):
        read_raw(data[:-10])


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_raw(tmp_path / "none.dng")


@pytest.mark.parametrize(
    "counts, options, words",
    [
        (mosaic().astype(np.float32), {}, "mosaic is float32"),
        (mosaic().astype(np.uint8), {}, "mosaic is uint8"),
        (mosaic().astype(np.int32), {}, "mosaic is int32"),
        (np.stack([mosaic()] * 3), {}, r"shape \(3, 32, 48\)"),
        (mosaic(20, 32), {}, "at least 22"),
        (mosaic(23, 32), {}, "even sides"),
        (mosaic(), {"white": 4095}, "bit depth is wrong"),
        (mosaic(), {"white": 70000}, "white 70000"),
        (mosaic(), {"black": 512.25, "white": 512}, "black < white"),
        (mosaic(), {"black": np.arange(4)}, "2x2"),
        (mosaic(), {"black": -1}, "0 <= black"),
        (mosaic(), {"black": 65535}, "black < white"),
        (mosaic(), {"pattern": "XTRANS"}, "pattern is 'XTRANS'"),
        (mosaic(), {"exposure": 0}, "exposure is 0"),
        (mosaic(), {"exposure": float("nan")}, "exposure is nan"),
        (mosaic(), {"exposure": -1 / 60}, "exposure is -"),
        (mosaic(), {"iso": 0}, "iso is 0"),
    ],
)
def test_bad_input_to_the_writer(tmp_path, counts, options, words):
    with pytest.raises(ValueError, match=words):
        saved(tmp_path / "a.dng", counts, **options)
    assert list(tmp_path.iterdir()) == []


def test_other_bad_input():
    with pytest.raises(ValueError, match="holds 2 cameras"):
        dng_colour(random_colour(2, generator(0)))
    for levels in [dict(white=70000), dict(black=100, white=100), dict(black=-1)]:
        with pytest.raises(ValueError, match="0 <= black < white <= 65535"):
            to_counts(torch.zeros(4, 2, 2), **levels)
