"DNG whose counts are compressed with Deflate: by an independent writer and by hand, and what is said where they cannot be read."

import struct
import zlib

import numpy as np
import pytest
import tifffile
from drawn_raw import D65, GREY

from debir_nb.light.deflate import DEFLATE, STEPS, summed
from debir_nb.light.dng import read_raw
from debir_nb.light.tags import Tag, directory

CUTS = {"one strip": None, "strips": 20, "tiles": (32, 48)}  # 64 rows: the last strip has four; 72 columns


def counts(bits, h=64, w=72, seed=0):
    "Every code of a sensor of so many bits may occur: differences overflow."
    kind = np.uint8 if bits == 8 else np.uint16
    return np.random.default_rng(seed).integers(0, 2**bits, (h, w)).astype(kind)


def predicted(part, step):
    "What a predictor makes of counts, one by one."
    told = part.copy()
    for x in range(part.shape[1]):
        told[:, x] = part[:, x] - part[:, x - step] if step and x >= step else part[:, x]
    return told


def packed_bits(part, bits):
    "Counts without gaps, each row beginning with a byte of its own."
    rows = [np.array([list(f"{c:0{bits}b}") for c in row]).ravel() == "1" for row in part]
    return b"".join(np.packbits(row).tobytes() for row in rows)


def cut(mosaic, how):
    "Strips or tiles, those at the border filled with zeros."
    h, w = mosaic.shape
    if not isinstance(how, tuple):
        rows = how or h
        return [mosaic[y : y + rows] for y in range(0, h, rows)], {Tag.STRIP_ROWS: ("long", (rows,))}
    filled = np.pad(mosaic, ((0, -h % how[0]), (0, -w % how[1])))
    found = [filled[y : y + how[0], x : x + how[1]] for y in range(0, h, how[0]) for x in range(0, w, how[1])]
    return found, {Tag.TILE_ROWS: ("long", (how[0],)), Tag.TILE_WIDTH: ("long", (how[1],))}


def dng(
    mosaic, *, bits=16, predictor=34892, how=None, compression=8, pack=zlib.compress, lengths="long", **more
):
    "A DNG by hand; `more` are tags by name."
    found, tags = cut(mosaic, how)
    told = [predicted(part, STEPS.get(predictor, 0)) for part in found]
    found = [pack(packed_bits(part, bits) if bits not in (8, 16) else part.tobytes()) for part in told]
    places = [8 + sum(map(len, found[:i])) for i in range(len(found))]
    where = (
        (Tag.TILE_OFFSETS, Tag.TILE_BYTES) if isinstance(how, tuple) else (Tag.STRIP_OFFSETS, Tag.STRIP_BYTES)
    )
    tags |= {
        Tag.WIDTH: ("long", (mosaic.shape[1],)),
        Tag.HEIGHT: ("long", (mosaic.shape[0],)),
        Tag.BITS: ("short", (bits,)),
        Tag.COMPRESSION: ("short", (compression,)),
        Tag.PHOTOMETRIC: ("short", (32803,)),
        Tag.MAKE: ("ascii", "Testmake"),
        Tag.MODEL: ("ascii", "Bayer 1"),
        where[0]: ("long", tuple(places)),
        where[1]: (lengths, tuple(map(len, found))),
        Tag.SAMPLES: ("short", (1,)),
        Tag.PREDICTOR: ("short", (predictor,)),
        Tag.CFA_SIZE: ("short", (2, 2)),
        Tag.CFA_PATTERN: ("byte", (0, 1, 1, 2)),
        Tag.DNG_VERSION: ("byte", (1, 4, 0, 0)),
        Tag.UNIQUE_MODEL: ("ascii", "Testmake Bayer 1"),
        Tag.BLACK: ("rational", (3.25,)),
        Tag.WHITE: ("long", (2**bits - 1,)),
        Tag.COLOR_MATRIX: ("srational", D65),
        Tag.AS_SHOT_NEUTRAL: GREY,
        Tag.ILLUMINANT: ("short", (21,)),
        Tag.EXPOSURE_TIME: ("rational", (1 / 60,)),
        Tag.ISO: ("short", (800,)),
    } | {Tag[name]: value for name, value in more.items()}
    at = 8 + sum(map(len, found))
    return struct.pack("<2sHI", b"II", 42, at) + b"".join(found) + directory(tags, at)


def foreign(path, mosaic, **options):
    "A DNG by another writer."
    tags = [
        (50706, "B", 4, (1, 4, 0, 0), True),
        (50708, "s", 0, "Other", True),
        (33421, "H", 2, (2, 2), True),
        (33422, "B", 4, (0, 1, 1, 2), True),
    ]
    tifffile.imwrite(
        path, mosaic, photometric=32803, extratags=tags, metadata=None, compression="zlib", **options
    )
    return path


# What is valid is read


@pytest.mark.parametrize("step", [1, 2, 4])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_sums_undo_differences_whatever_overflows(step, kind):
    mosaic = counts(8 * np.dtype(kind).itemsize).astype(kind)
    assert np.array_equal(summed(predicted(mosaic, step), step), mosaic)


@pytest.mark.filterwarnings("ignore:.*white balance|.*colour")
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("predictor", [False, True])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("layout", [{}, {"rowsperstrip": 20}, {"tile": (32, 48)}])
def test_files_of_another_writer(tmp_path, bits, predictor, order, layout):
    mosaic = counts(bits)
    path = foreign(tmp_path / "x.dng", mosaic, predictor=predictor, byteorder=order, **layout)
    assert np.array_equal(read_raw(path).mosaic, mosaic)


@pytest.mark.parametrize("predictor", STEPS)
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("how", CUTS)
def test_every_predictor(bits, predictor, how):
    mosaic = counts(bits)
    assert np.array_equal(read_raw(dng(mosaic, bits=bits, predictor=predictor, how=CUTS[how])).mosaic, mosaic)


@pytest.mark.parametrize("compression", DEFLATE)
@pytest.mark.parametrize("lengths", ["short", "long"])
def test_both_numbers_and_lengths_of_16_bits(compression, lengths):
    mosaic = counts(16, 64, 720)  # plain, a strip has more than 65535 bytes
    packed = dng(mosaic // 4096, how=None, compression=compression, lengths=lengths)
    assert np.array_equal(read_raw(packed).mosaic, mosaic // 4096)


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("how", ["one strip", "tiles"])
def test_counts_without_gaps(bits, how):
    mosaic = counts(bits)
    assert np.array_equal(read_raw(dng(mosaic, bits=bits, predictor=1, how=CUTS[how])).mosaic, mosaic)


def test_everything_else_is_what_the_plain_file_says():
    mosaic, area = counts(16), {"ACTIVE_AREA": ("long", (2, 4, 60, 66))}
    plain = read_raw(dng(mosaic, predictor=1, compression=1, pack=bytes, **area))
    packed = read_raw(dng(mosaic, predictor=34892, how=(32, 48), **area))
    for name in ("mosaic", "black", "white_balance", "color_matrix"):
        assert np.array_equal(getattr(packed, name), getattr(plain, name)), name
    for name in ("pattern", "white", "exposure", "iso", "about"):
        assert getattr(packed, name) == getattr(plain, name), name
    assert plain.mosaic.shape == (58, 62) and packed.black[0, 0] == 3.25


@pytest.mark.filterwarnings("ignore:.*white balance|.*colour")
def test_a_mosaic_in_a_sub_directory(tmp_path):
    mosaic, path = counts(16), tmp_path / "x.dng"
    cfa = [(33421, "H", 2, (2, 2), True), (33422, "B", 4, (0, 1, 1, 2), True)]
    version = [(50706, "B", 4, (1, 4, 0, 0), True), (50708, "s", 0, "Other", True)]
    with tifffile.TiffWriter(path) as file:
        thumbnail = np.zeros((16, 16, 3), np.uint8)
        file.write(
            thumbnail, photometric="rgb", subifds=1, extratags=version, metadata=None, compression="zlib"
        )
        file.write(
            mosaic, photometric=32803, extratags=cfa, metadata=None, compression="zlib", predictor=True
        )
    assert np.array_equal(read_raw(path).mosaic, mosaic)


# What is not, is named


def test_real_damage_is_called_so():
    good = dng(counts(16), predictor=1, how=20)
    with pytest.raises(ValueError, match="Deflate.*is damaged: copy it again"):
        read_raw(good[:8] + b"\xff\xff" + good[10:])
    short = dng(counts(16), pack=lambda part: zlib.compress(part[:-2]))
    with pytest.raises(ValueError, match="Deflate.*ends early"):
        read_raw(short)


@pytest.mark.parametrize("predictor, bits", [(3, 16), (34894, 16), (34895, 8), (34892, 12), (7, 16)])
def test_a_predictor_that_counts_cannot_have_is_named(predictor, bits):
    with pytest.raises(ValueError, match=f"Deflate.*predictor {predictor}.*{bits} bits.*convert") as told:
        read_raw(dng(0 * counts(bits), bits=bits, predictor=predictor))
    assert "damaged" not in str(told.value)


@pytest.mark.parametrize("compression", [5, 32773, 34925, 50000])
def test_another_compression_is_named(compression):
    with pytest.raises(ValueError, match=f"compression is number {compression}.*convert") as told:
        read_raw(dng(counts(16), compression=compression))
    assert "damaged" not in str(told.value)


def test_floats_are_called_floats(tmp_path):
    path = foreign(tmp_path / "x.dng", np.zeros((64, 72), np.float32))
    with pytest.raises(ValueError, match="floating-point") as told:
        read_raw(path)
    assert "damaged" not in str(told.value)


@pytest.mark.parametrize(
    "tags, words",
    [
        ({"HEIGHT": ("long", (640,))}, "lists 1 parts of a mosaic that is cut into 10"),
        ({"STRIP_ROWS": ("long", (0,))}, "promises 0 x 72 px"),
        ({"STRIP_ROWS": ("rational", (64,))}, "STRIP_ROWS is no whole number"),
        ({"TILE_WIDTH": ("long", (2**31,)), "TILE_ROWS": ("long", (2**31,))}, "promises"),
        (
            {"HEIGHT": ("long", (60000,)), "WIDTH": ("long", (40000,)), "STRIP_ROWS": ("long", (60000,))},
            "promises",
        ),
    ],
)
def test_sizes_that_cannot_be_are_not_unpacked(tags, words):
    base = {"STRIP_ROWS": ("long", (64,))} | tags
    with pytest.raises(ValueError, match=words):
        read_raw(dng(counts(16), **base))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(3))
def test_mutated_files_are_read_or_refused(seed):
    good, g = dng(counts(16, 32, 36), how=10), np.random.default_rng(seed)
    start = struct.unpack_from("<I", good, 4)[0]
    for _ in range(150):
        data = bytearray(good)
        for _ in range(g.integers(1, 4)):
            data[g.integers(start, len(data)) if g.random() < 0.8 else g.integers(8, len(data))] = g.integers(
                256
            )
        try:
            read_raw(bytes(data))
        except ValueError:
            pass
