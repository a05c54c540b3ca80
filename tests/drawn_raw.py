"RAW files drawn from numbers: a DNG, or the TIFF of a maker, with any tags; charts and discs to put into them."

import struct

import numpy as np

from debir_nb.light.tags import Tag, directory
from debir_nb.light.white import XYZ_TO_SRGB

D65 = (0.6722, -0.0635, -0.0963, -0.4287, 1.2460, 0.2028, -0.0908, 0.2162, 0.5668)  # XYZ to the DNG's camera
TUNGSTEN = (0.7620, -0.1907, -0.0246, -0.4104, 1.2033, 0.2375, -0.0711, 0.1668, 0.5016)  # under a lamp
D70 = (0.7732, -0.2422, -0.0789, -0.8238, 1.5884, 0.2498, -0.0859, 0.0783, 0.7330)  # LibRaw's, of a Nikon D70
GREY = ("rational", (0.5, 1, 0.6))


def patches(h=48, w=72, seed=3):
    "Four rows of six flat colours, as linear sRGB, and the colours (24, 3)."
    colours = np.random.default_rng(seed).uniform(0.05, 0.9, (24, 3))
    rows, columns = np.arange(h) * 4 // h, np.arange(w) * 6 // w
    return colours[rows[:, None] * 6 + columns], colours


def seen_by(matrix, rgb, neutral):
    "Linear sRGB as a camera of this matrix (XYZ to camera) sees it; white becomes `neutral`."
    forward = np.reshape(matrix, (3, 3)) @ np.linalg.inv(XYZ_TO_SRGB)
    return rgb @ (forward / forward.sum(1, keepdims=True)).T * neutral


def mosaicked(rgb):
    "What a sensor of the pattern RGGB keeps."
    mosaic = rgb[..., 1].copy()
    mosaic[::2, ::2], mosaic[1::2, 1::2] = rgb[::2, ::2, 0], rgb[1::2, 1::2, 2]
    return mosaic


def counts(light, black=512, white=16383):
    "Counts of a noiseless sensor."
    return np.clip(np.rint(black + light * (white - black)), 0, 65535).astype(np.uint16)


def nikon_note(red, blue):
    "A Nikon maker note that holds the white balance."
    values = struct.pack(
        ">8I", *(int(v * 1000) if i % 2 == 0 else 1000 for v in (red, blue, 1, 1) for i in (0, 1))
    )
    entry = struct.pack(">HHHII", 1, 12, 5, 4, 8 + 2 + 12 + 4)
    return b"Nikon\0\2\x10\0\0MM" + struct.pack(">HI", 42, 8) + entry + bytes(4) + values


def raw_bytes(mosaic, main=None, exif=None, *, dng=True, make="Testmake", model="Bayer 1", without=()):
    "A RAW file of 16 bits; `main` and `exif` are added to what it says, tags of `without` left out."
    h, w = mosaic.shape
    pixels = mosaic.astype("<u2").tobytes()
    tags = {
        Tag.SUBFILE_TYPE: ("long", (0,)),
        Tag.WIDTH: ("long", (w,)),
        Tag.HEIGHT: ("long", (h,)),
        Tag.BITS: ("short", (16,)),
        Tag.COMPRESSION: ("short", (1,)),
        Tag.PHOTOMETRIC: ("short", (32803,)),
        Tag.MAKE: ("ascii", make),
        Tag.MODEL: ("ascii", model),
        Tag.STRIP_OFFSETS: ("long", (8,)),
        Tag.ORIENTATION: ("short", (1,)),
        Tag.SAMPLES: ("short", (1,)),
        Tag.STRIP_ROWS: ("long", (h,)),
        Tag.STRIP_BYTES: ("long", (len(pixels),)),
        Tag.PLANAR: ("short", (1,)),
        Tag.CFA_SIZE: ("short", (2, 2)),
        Tag.CFA_PATTERN: ("byte", (0, 1, 1, 2)),
    }
    if dng:
        tags |= {
            Tag.DNG_VERSION: ("byte", (1, 4, 0, 0)),
            Tag.DNG_BACKWARD: ("byte", (1, 1, 0, 0)),
            Tag.UNIQUE_MODEL: ("ascii", f"{make} {model}"),
            Tag.BLACK_SIZE: ("short", (2, 2)),
            Tag.BLACK: ("long", (512,) * 4),
            Tag.WHITE: ("long", (16383,)),
            Tag.COLOR_MATRIX: ("srational", D65),
            Tag.AS_SHOT_NEUTRAL: GREY,
            Tag.ILLUMINANT: ("short", (21,)),
        }
    said = {
        Tag.EXPOSURE_TIME: ("rational", (1 / 60,)),
        Tag.ISO: ("short", (800,)),
        Tag.EXIF_VERSION: ("undefined", tuple(b"0232")),
    }
    tags, said = tags | (main or {}), said | (exif or {})
    for tag in without:
        tags.pop(tag, None)
        said.pop(tag, None)
    at = 8 + len(pixels)
    more = directory(said, at)
    tags[Tag.EXIF] = ("long", (at,))
    return struct.pack("<2sHI", b"II", 42, at + len(more)) + pixels + more + directory(tags, at + len(more))
