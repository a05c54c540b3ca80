"Photographs show the colours that their files mean, upright, or one true sentence says why not."

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps, features

from debir_nb.light.footage import find_clips, open_clip, read_image
from debir_nb.light.photographs import ADOBE_RGB, SRGB, WIDE, PictureError, png_chunks, recoded, rgb_to_xyz

BRADFORD = np.array([[1.0479, 0.0229, -0.0502], [0.0296, 0.9904, -0.0171], [-0.0092, 0.0151, 0.7519]])
D50 = np.array([0.9642, 1.0, 0.8249])
PROPHOTO = np.array(
    [[0.7977, 0.1352, 0.0313], [0.2880, 0.7119, 0.0001], [0.0, 0.0, 0.8249]]
)  # RGB to XYZ, D50
needs_avif = pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")


def chart(size=(48, 64), low=40, high=216, seed=0):
    "Patches of 8 x 8 px of random colours."
    patches = np.random.default_rng(seed).integers(low, high, (size[0] // 8, size[1] // 8, 3))
    return patches.astype(np.uint8).repeat(8, 0).repeat(8, 1)


def curve_tag(curve):
    if curve == "srgb":
        numbers = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
        return struct.pack(">4s4xHH5i", b"para", 3, 0, *(round(65536 * x) for x in numbers))
    return struct.pack(">4s4xIH2x", b"curv", 1, round(256 * curve))


def icc(to_d50, curve, space=b"RGB "):
    "A profile of a matrix and a curve (ICC.1:2010, Secs. 8.3 and 8.4)."
    xyz = lambda v: struct.pack(">4s4x3i", b"XYZ ", *(round(65536 * x) for x in v))
    parts = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 2) + b"x" + bytes(79),
        b"cprt": b"text" + bytes(8),
        b"wtpt": xyz(D50),
    }
    if space == b"RGB ":
        parts |= {
            name: xyz(column) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), np.asarray(to_d50).T)
        }
        parts |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve_tag(curve))
    else:
        parts[b"kTRC"] = curve_tag(curve)
    table, body, at = struct.pack(">I", len(parts)), b"", 132 + 12 * len(parts)
    for name, content in parts.items():
        content += bytes(-len(content) % 4)
        table += struct.pack(">4sII", name, at + len(body), len(content))
        body += content
    head = struct.pack(
        ">I4xI4s4s4s12x4s28x3i",
        at + len(body),
        0x02200000,
        b"mntr",
        space,
        b"XYZ ",
        b"acsp",
        *(round(65536 * x) for x in D50),
    )
    return head.ljust(128, b"\0") + table + body


def adapted(primaries):
    return BRADFORD @ rgb_to_xyz(primaries)


def meant(numbers, to_d50, curve):
    "sRGB of numbers of a screen, by the formulas of IEC 61966-2-1 in float64: what a profile has to give."
    x = numbers / 255
    light = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4) if curve == "srgb" else x**curve
    light = (light @ np.linalg.solve(adapted(SRGB), to_d50).T).clip(0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)


SCREENS = {
    "Display P3": (adapted(WIDE[12]), "srgb"),
    "Adobe RGB": (adapted(ADOBE_RGB), 2.2),
    "ProPhoto": (PROPHOTO, 1.8),
    "BT.2020": (adapted(WIDE[9]), 2.4),
    "linear sRGB": (adapted(SRGB), 1.0),
}


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif", pytest.param("avif", marks=needs_avif)])
@pytest.mark.parametrize("screen", SCREENS)
def test_profiles_are_applied(tmp_path, screen, suffix):
    to_d50, curve = SCREENS[screen]
    exact = {
        "jpg": dict(quality=100, subsampling=0),
        "webp": dict(lossless=True),
        "avif": dict(quality=100, subsampling="4:4:4"),
    }
    Image.fromarray(chart()).save(
        tmp_path / f"p.{suffix}", icc_profile=icc(to_d50, curve), **exact.get(suffix, {})
    )
    got, right = read_image(tmp_path / f"p.{suffix}").astype(float), meant(chart(), to_d50, curve)
    clear = (right > 4) & (right < 251)  # neither clipped nor in the steep part of the curve near black
    coded = 24 if suffix in ("jpg", "avif") else 4
    assert np.abs(got - right)[clear].mean() < 2 and np.abs(got - right)[clear].max() < coded
    assert np.abs(right - chart())[clear].max() > 15  # as sRGB it would be another picture


@pytest.mark.parametrize(
    "profile",
    [icc(adapted(SRGB), "srgb"), ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()],
)
@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_a_profile_of_srgb_changes_no_number(tmp_path, profile, mode):
    picture = Image.fromarray(chart(low=0, high=256)).convert(mode)
    picture.save(tmp_path / "p.png", icc_profile=profile)
    assert np.array_equal(read_image(tmp_path / "p.png"), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize("curve", [1.0, 1.8, 2.6])
def test_a_profile_of_grey(tmp_path, curve):
    ramp = np.arange(256, dtype=np.uint8)[None].repeat(8, 0)
    Image.fromarray(ramp).save(tmp_path / "grey.png", icc_profile=icc(None, curve, b"GRAY"))
    got = read_image(tmp_path / "grey.png")
    right = meant(np.arange(256.0)[:, None].repeat(3, 1), adapted(SRGB), curve)[:, 0]
    assert (got == got[..., :1]).all() and np.abs(got[0, 40:, 0] - right[40:]).max() < 3


def test_a_palette_and_an_opaque_alpha_go_through_their_profile(tmp_path):
    to_d50, curve = SCREENS["Adobe RGB"]
    few = Image.fromarray(chart((16, 32))).convert("P", palette=Image.Palette.ADAPTIVE)
    few.save(tmp_path / "p.png", icc_profile=icc(to_d50, curve))
    opaque = Image.fromarray(chart()).convert("RGBA")
    opaque.save(tmp_path / "a.png", icc_profile=icc(to_d50, curve))
    for name, picture in (("p", few), ("a", opaque)):
        right = meant(np.asarray(picture.convert("RGB")).astype(float), to_d50, curve)
        assert np.abs(read_image(tmp_path / f"{name}.png") - right).max() < 4


def add_chunk(path, kind, content):
    "Put a chunk behind the header of a PNG."
    data = path.read_bytes()
    chunk = struct.pack(">I", len(content)) + kind + content
    path.write_bytes(data[:33] + chunk + struct.pack(">I", zlib.crc32(kind + content)) + data[33:])


def plain_png(path, picture=None):
    Image.fromarray(chart() if picture is None else picture).save(path)
    return path


@pytest.mark.parametrize(
    "points, primaries, gamma",
    [((12, 13), WIDE[12], None), ((9, 14), WIDE[9], None), ((9, 4), WIDE[9], 2.2), ((1, 8), SRGB, 1.0)],
)
def test_code_points_of_a_png(tmp_path, points, primaries, gamma):
    path = plain_png(tmp_path / "p.png")
    add_chunk(path, b"cICP", bytes([*points, 0, 1]))
    right = meant(chart(), adapted(primaries), gamma or "srgb")
    assert np.abs(read_image(path) - right).max() < 2


@pytest.mark.parametrize("points", [(1, 13), (1, 1), (2, 2), (6, 6), (5, 14)])
def test_code_points_of_what_screens_show_change_nothing(tmp_path, points):
    path = plain_png(tmp_path / "p.png")
    add_chunk(path, b"cICP", bytes([*points, 0, 1]))
    assert np.array_equal(read_image(path), chart())


@pytest.mark.parametrize("gamma, numbers", [(1.0, 100000), (1 / 1.8, 55556)])
def test_the_gamma_of_a_png(tmp_path, gamma, numbers):
    path = plain_png(tmp_path / "p.png")
    add_chunk(path, b"gAMA", struct.pack(">I", numbers))
    assert np.abs(read_image(path) - meant(chart(), adapted(SRGB), 1 / gamma)).max() < 2
    add_chunk(path, b"sRGB", b"\0")  # which has precedence
    assert np.array_equal(read_image(path), chart())


def test_usual_gamma_and_primaries_of_a_png_change_nothing(tmp_path):
    path = plain_png(tmp_path / "p.png")
    add_chunk(path, b"gAMA", struct.pack(">I", 45455))
    add_chunk(path, b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000))
    assert np.array_equal(read_image(path), chart())


def test_primaries_of_a_png(tmp_path):
    path = plain_png(tmp_path / "p.png")
    add_chunk(path, b"gAMA", struct.pack(">I", 45455))
    add_chunk(path, b"cHRM", struct.pack(">8I", 31270, 32900, *(round(1e5 * x) for x in WIDE[12])))
    assert np.abs(read_image(path) - meant(chart(), adapted(WIDE[12]), "srgb")).max() < 2


def test_a_camera_that_says_adobe_rgb_in_exif(tmp_path):
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA001] = 0xFFFF
    exif.get_ifd(0x8769)[0xA005] = {1: "R03", 2: b"0100"}
    Image.fromarray(chart()).save(tmp_path / "_DSC1.jpg", exif=exif, quality=100, subsampling=0)
    right = meant(chart(), adapted(ADOBE_RGB), 2.2)
    assert np.abs(read_image(tmp_path / "_DSC1.jpg") - right).mean() < 2


@needs_avif
@pytest.mark.parametrize("curve, word", [(16, "PQ"), (18, "HLG")])
@pytest.mark.parametrize("suffix", ["png", "avif"])
def test_hdr_pictures_are_refused(tmp_path, suffix, curve, word):
    path = tmp_path / f"p.{suffix}"
    Image.fromarray(chart()).save(path)
    if suffix == "png":
        add_chunk(path, b"cICP", bytes([9, curve, 0, 1]))
    else:
        data = path.read_bytes()
        at = data.index(b"colrnclx") + 8
        path.write_bytes(data[:at] + struct.pack(">HH", 9, curve) + data[at + 4 :])
    with pytest.raises(PictureError, match=rf"p.{suffix} is an HDR picture \({word}\).*convert it to sRGB"):
        open_clip(path)


@pytest.mark.parametrize("held", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", pytest.param("avif", marks=needs_avif)])
def test_all_eight_orientations(tmp_path, held, suffix):
    exif = Image.Exif()
    exif[0x0112] = held
    exact = {"jpg": dict(quality=100, subsampling=0), "webp": dict(lossless=True)}
    picture = Image.fromarray(chart((24, 40)))
    picture.save(tmp_path / f"p.{suffix}", exif=exif, **exact.get(suffix, {}))
    clip = open_clip(tmp_path / f"p.{suffix}")
    with Image.open(tmp_path / f"p.{suffix}") as stored:
        right = np.asarray(ImageOps.exif_transpose(stored))
    assert clip.size == right.shape[:2] == ((24, 40) if held < 5 else (40, 24))
    assert np.array_equal(clip.frames()[0].permute(1, 2, 0).numpy(), right)


def test_the_orientation_of_a_png_may_stand_behind_its_pixels(tmp_path):
    path = plain_png(tmp_path / "p.png", chart((24, 40)))
    exif = Image.Exif()
    exif[0x0112] = 6
    content, data = exif.tobytes().removeprefix(b"Exif\0\0"), path.read_bytes()
    chunk = (
        struct.pack(">I", len(content)) + b"eXIf" + content + struct.pack(">I", zlib.crc32(b"eXIf" + content))
    )
    path.write_bytes(data[:-12] + chunk + data[-12:])
    clip = open_clip(path)
    assert clip.size == (40, 24) and np.array_equal(
        clip.frames()[0].permute(1, 2, 0), np.rot90(chart((24, 40)), -1)
    )


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", pytest.param("avif", marks=needs_avif)])
def test_animations(tmp_path, suffix):
    pictures = [Image.fromarray(chart(seed=i)) for i in range(3)]
    pictures[0].save(tmp_path / f"p.{suffix}", save_all=True, append_images=pictures[1:])
    with pytest.raises(PictureError, match=f"p.{suffix} is an animation of 3 pictures"):
        open_clip(tmp_path / f"p.{suffix}")
    pictures[0].save(tmp_path / f"q.{suffix}")
    assert open_clip(tmp_path / f"q.{suffix}").n_frames == 1


def test_pages(tmp_path):
    pages = [Image.fromarray(chart(seed=i)) for i in range(2)]
    pages[0].save(tmp_path / "scan.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(PictureError, match="scan.tif holds 2 pages: save the one that you mean"):
        open_clip(tmp_path / "scan.tif")


def test_a_phones_two_pictures_are_one_photograph(tmp_path):
    pictures = [Image.fromarray(chart(seed=i)) for i in range(2)]
    pictures[0].save(
        tmp_path / "p.jpg", "MPO", save_all=True, append_images=pictures[1:], quality=100, subsampling=0
    )
    assert (
        np.abs(open_clip(tmp_path / "p.jpg").frames()[0].permute(1, 2, 0).numpy() - chart().astype(int)).max()
        < 9
    )


@pytest.mark.parametrize(
    "word",
    [b"http://ns.adobe.com/xap/1.0/\0<x hdrgm:Version='1.0'/>", b"urn:iso:std:iso:ts:21496:-1\0\0\0\0\0"],
)
def test_gain_maps_are_mentioned(tmp_path, word):
    out = io.BytesIO()
    Image.fromarray(chart()).save(out, "JPEG")
    plain, at = out.getvalue(), 2
    (tmp_path / "p.jpg").write_bytes(
        plain[:at] + b"\xff\xe1" + struct.pack(">H", len(word) + 2) + word + plain[at:]
    )
    (tmp_path / "q.jpg").write_bytes(plain)
    with pytest.warns(UserWarning, match="p.jpg has a gain map for HDR screens, which is not used"):
        open_clip(tmp_path / "p.jpg")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_clip(tmp_path / "q.jpg")


def cmyk_profile():
    "A device link from nowhere: a small table from CMYK to Lab (ICC.1:2010, Sec. 10.10)."
    grid = np.stack(np.meshgrid(*[[0.0, 1.0]] * 4, indexing="ij"), -1).reshape(-1, 4)
    rgb = (1 - grid[:, :3]) * (1 - grid[:, 3:])
    lab = np.stack(
        [rgb @ [0.2, 0.7, 0.1], 0.5 + 0.2 * (rgb[:, 0] - rgb[:, 1]), 0.5 + 0.2 * (rgb[:, 1] - rgb[:, 2])], 1
    )
    ramp = np.arange(256, dtype=np.uint8).tobytes()
    identity = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 65536)
    table = (
        b"mft1"
        + bytes(4)
        + bytes([4, 3, 2, 0])
        + identity
        + ramp * 4
        + (255 * lab).round().astype(np.uint8).tobytes()
        + ramp * 3
    )
    xyz = struct.pack(">4s4x3i", b"XYZ ", *(round(65536 * x) for x in D50))
    parts = {
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 2) + b"x" + bytes(79),
        b"cprt": b"text" + bytes(8),
        b"wtpt": xyz,
        b"A2B0": table,
        b"A2B1": table,
    }
    rows, body, at = struct.pack(">I", len(parts)), b"", 132 + 12 * len(parts)
    for name, content in parts.items():
        content += bytes(-len(content) % 4)
        rows += struct.pack(">4sII", name, at + len(body), len(content))
        body += content
    head = struct.pack(
        ">I4xI4s4s4s12x4s28x3i",
        at + len(body),
        0x02200000,
        b"prtr",
        b"CMYK",
        b"Lab ",
        b"acsp",
        *(round(65536 * x) for x in D50),
    )
    return head.ljust(128, b"\0") + rows + body


@pytest.mark.parametrize("suffix", ["tif", "jpg"])
def test_inks_with_a_profile_become_colours_and_without_one_are_refused(tmp_path, suffix):
    inks = np.zeros((48, 64, 4), np.uint8)
    inks[:, 32:] = (0, 255, 255, 0)  # magenta and yellow: red
    exact = dict(quality=100) if suffix == "jpg" else {}
    Image.fromarray(inks, "CMYK").save(tmp_path / f"p.{suffix}", icc_profile=cmyk_profile(), **exact)
    got = read_image(tmp_path / f"p.{suffix}")
    assert got[24, 10].min() > 235 and got[24, 50, 0] > got[24, 50, 1:].max() + 40
    Image.fromarray(inks, "CMYK").save(tmp_path / f"q.{suffix}", **exact)
    with pytest.raises(PictureError, match=rf"q.{suffix} holds the inks of a print \(CMYK\) and no profile"):
        open_clip(tmp_path / f"q.{suffix}")


def test_chunks_are_walked_without_trusting_their_lengths(tmp_path):
    path = plain_png(tmp_path / "p.png")
    assert list(png_chunks(path))[0] == b"IHDR" and b"IEND" in png_chunks(path)
    data = bytearray(path.read_bytes())
    data[33:37] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    with pytest.raises(PictureError, match="truncated"):
        png_chunks(path)


def test_the_matrix_of_primaries_is_the_published_one_and_grey_stays_grey():
    assert np.abs(rgb_to_xyz(WIDE[9])[1] - [0.2627, 0.6780, 0.0593]).max() < 1e-4  # ITU-R BT.2020, luma
    assert (
        np.abs(rgb_to_xyz(ADOBE_RGB)[1] - [0.2973, 0.6274, 0.0753]).max() < 1e-3
    )  # Adobe RGB (1998), 4.3.5.3
    grey = np.full((4, 4, 3), 0.4)
    assert (recoded(grey, WIDE[12]) == 102).all()
    with pytest.raises(ValueError, match="span no colours"):
        rgb_to_xyz((0.3, 0.3, 0.4, 0.4, 0.5, 0.5))


@pytest.mark.parametrize(
    "name", ["1²3.png", "१२.png", "a\nb.png", "%d.png", "-o.png", "x;y$(z).png", "٣.png"]
)
def test_names_are_only_names(tmp_path, name):
    plain_png(tmp_path / name)
    plain_png(tmp_path / "other.png")
    assert {clip.path.name for clip in find_clips(tmp_path).clips} == {name, "other.png"}
