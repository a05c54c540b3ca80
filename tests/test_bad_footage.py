"Footage that cannot be used: one sentence for each, which names it, says why, and never speaks Python."

import hashlib
import json
import os
import struct
import warnings
import zlib

import av
import numpy as np
import pytest
from clip_maker import bars, copy_packets, moving, write_clip
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from debir_nb.light.dng import write_dng
from debir_nb.light.footage import find_clips, open_clip, read_table

PYTHON = (
    "Errno",
    "Traceback",
    "object at",
    "invalid literal",
    "unpack requires",
    "codec can't",
    "NoneType",
    "<class",
    "argument of type",
    "not subscriptable",
    "unhashable",
    "subpath",
    "Error:",
)


def sentence(work, *given, **named):
    "What a refusal says: one line that is not Python's."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError) as refusal:
            work(*given, **named)
    said = str(refusal.value)
    assert "\n" not in said and len(said) < 700 and not any(word in said for word in PYTHON), said
    return said


# footage.yaml, and a word of what is said
TABLES = {
    "- a": "write  name:",
    "just words": "write  name:",
    "12": "write  name:",
    "a: 240": "gives clip 'a' 240: write",
    "a: null": "gives clip 'a' None: write",
    "a: []": "gives clip 'a' []: write",
    "a: {fsp: 240}": "'fsp' is no key: did you mean fps?",
    "a: {license: CC0}": "'license' is no key: did you mean licence?",
    "a: {sources: x}": "did you mean source?",
    "a: {Split: test}": "did you mean split?",
    "a: {shakes: {speed: 1}}": "did you mean shake?",
    "a: {photograph: true}": "did you mean photographs?",
    "a: {rate: 240}": "'rate' is no key",
    "a: {1: 2}": "'1' is no key",
    "a: {fps: fast}": "the rate 'fast'",
    "a: {fps: '240'}": "the rate '240'",
    "a: {fps: 0}": "the rate 0",
    "a: {fps: -1}": "the rate -1",
    "a: {fps: .nan}": "the rate nan",
    "a: {fps: .inf}": "the rate inf",
    "a: {fps: true}": "the rate True",
    "a: {fps: 1e12}": "the rate",
    "a: {fps: [240]}": "the rate [240]",
    "a: {fps: " + "9" * 5000 + "}": "cannot be read as YAML",
    "a: {source: [x]}": "the source ['x']: write a word",
    "a: {licence: {x: y}}": "the licence {'x': 'y'}: write a word",
    "a: {split: [test]}": "the split ['test']: write a word",
    "a: {photographs: 1}": "photographs 1: write true or false",
    "a: {photographs: maybe}": "photographs 'maybe': write true or false",
    "a: {shake: 4}": "the shake 4: write",
    "a: {shake: {}}": "only speed is needed",
    "a: {shake: {speed: 1, object: 2}}": "'object' is no key: did you mean objects?",
    "a: {shake: {speed: -1}}": "speed is -1",
    "a: {shake: {speed: fast}}": "speed is 'fast'",
    "a: {shake: {speed: 1.0e+9}}": "no hand does more than 1000",
    "a: {shake: {speed: 1, objects: 1000000000}}": "no hand does more than 100",
    "a: {shake: {speed: 1, objects: 0.5}}": "give a whole number",
    "a: {shake: {speed: 1, readout: 30}}": "no hand does more than 1",
    "a: {raw: {}}": "the raw layout",
    "a: {raw: {height: 48, width: 64, pattern: RGGB, black: 0, whte: 9}}": "did you mean white?",
    "a: {fps: 240}\na: {fps: 120}": "it names 'a' twice",
    "a: {fps: [": "cannot be read as YAML",
    "a: &x [*x]": "it holds itself",
    "a: *nobody": "cannot be read as YAML",
    "a: {when: 2001-99-99}": "cannot be read as YAML",
    "!!python/object/apply:os.system ['true']": "cannot be read as YAML",
    "a: !!binary xx=": "cannot be read as YAML",
    "a\tb: {\x00}": "cannot be read as YAML",
    "? [a, b]\n: {fps: 240}": "a name that is a list or a mapping",
    "[" * 3000: "nested too deeply",
    "a: " + "{b: " * 2000: "nested too deeply",
    "- " * 40000: "nested too deeply",
    "? " * 40000: "nested too deeply",
    "x" * (1 << 17) + "x": "no file of text below 128 kB",
}


@pytest.mark.parametrize("text", TABLES, ids=range(len(TABLES)))
def test_tables(tmp_path, text):
    (tmp_path / "footage.yaml").write_text(text)
    said = sentence(read_table, tmp_path)
    assert "footage.yaml" in said and TABLES[text] in said, said


def test_tables_that_are_no_text(tmp_path):
    (tmp_path / "footage.yaml").write_bytes(b"a: \xff\xfe")
    assert "it is no UTF-8 text" in sentence(read_table, tmp_path)
    (tmp_path / "footage.yaml").unlink()
    os.mkfifo(tmp_path / "footage.yaml")
    assert "no file of text" in sentence(read_table, tmp_path)
    (tmp_path / "footage.yaml").unlink()
    (tmp_path / "footage.yaml").mkdir()
    assert "no file of text" in sentence(read_table, tmp_path)


def bomb(depth, start, link):
    lines = [f"a0: &a0 {start}"] + [f"a{i}: &a{i} {link(i)}" for i in range(1, depth)]
    return "clip:\n" + "".join(f"  {line}\n" for line in lines)


@pytest.mark.parametrize(
    "text",
    [
        bomb(10, "[" + ",".join("x" * 9) + "]", lambda i: "[" + ",".join([f"*a{i - 1}"] * 9) + "]"),
        bomb(30, "{x: 1}", lambda i: "{<<: [" + ",".join([f"*a{i - 1}"] * 2) + "]}"),
        bomb(40, "{x: 1}", lambda i: f"{{l: *a{i - 1}, r: *a{i - 1}}}"),
    ],
    ids=["lists", "merges", "mappings"],
)
def test_aliases_that_stand_for_more_than_memory_holds(tmp_path, text):
    (tmp_path / "footage.yaml").write_text(text)
    assert "its aliases stand for more than 100000 words" in sentence(read_table, tmp_path)


def test_aliases_of_few_words_are_read(tmp_path):
    (tmp_path / "footage.yaml").write_text("a: &a {fps: 240}\nb: *a\nc: {<<: *a, split: test}\n")
    table = read_table(tmp_path)
    assert [said.fps for said in table.values()] == [240] * 3 and table["c"].split == "test"


def png(*chunks):
    out = b"\x89PNG\r\n\x1a\n"
    for kind, content in chunks:
        out += (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )
    return out


def header(width, height, depth=8, colour=2):
    return b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)


def flat(*extra, size=8):
    "A small grey PNG with further chunks."
    pixels = zlib.compress((b"\0" + b"\x80" * 3 * size) * size)
    return png(header(size, size), *extra, (b"IDAT", pixels), (b"IEND", b""))


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 25000000\n"
# name: content, and a word of what is said
FILES = {
    "empty.jpg": (b"", "it is empty"),
    "zeros.png": (bytes(5000), "nothing but zeros"),
    "pointer.png": (POINTER, "Git LFS pointer"),
    "page.jpg": (b"<!DOCTYPE html><html><title>404</title></html>", "web page"),
    "page.webp": (b"\n <HTML>", "web page"),
    "phone.heic": (b"\0\0\0\x18ftypheic" + bytes(50), "HEIC picture; convert it"),
    "renamed.jpg": (b"\0\0\0\x18ftypmif1" + bytes(50), "HEIC picture; convert it"),
    "new.jxl": (b"\xff\x0a" + bytes(50), "JPEG XL picture; convert it"),
    "boxed.jxl": (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(50), "JPEG XL picture"),
    "layers.png": (b"8BPS\0\1" + bytes(50), "Photoshop"),
    "light.tif": (b"v/1\x01" + bytes(50), "OpenEXR"),
    "light.jpg": (b"#?RADIANCE\n", "Radiance"),
    "paper.png": (b"%PDF-1.7", "document"),
    "drawing.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "document"),
    "packed.jpg": (b"PK\3\4" + bytes(50), "archive"),
    "film.jpg": (b"\0\0\0\x18ftypisom" + bytes(50), "film; give it a name that says so"),
    "words.gif": (b"no picture at all", "cannot be read as a picture"),
    "short.png": (flat()[:-9], "truncated"),
    "shorter.png": (flat()[:40], "truncated"),
    "cut.bmp": (b"BM" + bytes(12), "cannot be read as a picture"),
    "vast.png": (png(header(30000, 30000), (b"IDAT", b""), (b"IEND", b"")), "has more than 179 megapixels"),
    "none.png": (png(header(0, 9), (b"IDAT", b""), (b"IEND", b"")), "cannot be read as a picture"),
    "profile.png": (
        flat((b"iCCP", b"x\0\0" + zlib.compress(b"no profile" * 20))),
        "colour profile that is damaged",
    ),
    "hdr.png": (flat((b"cICP", bytes([9, 16, 0, 1]))), "HDR picture (PQ)"),
    "hlg.png": (flat((b"cICP", bytes([9, 18, 0, 1]))), "HDR picture (HLG)"),
    "film.png": (flat((b"cICP", bytes([8, 13, 0, 1]))), "code points 8/13"),
    "log.png": (flat((b"cICP", bytes([1, 9, 0, 1]))), "code points 1/9"),
    "gamma.png": (flat((b"gAMA", struct.pack(">I", 3))), "which is not known here"),
    "white.png": (flat((b"cHRM", struct.pack(">8I", 44760, 40740, *[30000] * 6))), "which is not known here"),
    "line.png": (
        flat((b"cHRM", struct.pack(">8I", 31270, 32900, 10000, 10000, 20000, 20000, 30000, 30000))),
        "span no colours",
    ),
    "empty.mp4": (b"", "it is empty"),
    "zeros.mov": (bytes(5000), "nothing but zeros"),
    "pointer.mp4": (POINTER, "Git LFS pointer"),
    "page.mkv": (b"<!doctype html>", "web page"),
    "words.avi": (b"no video at all", "cannot be read as a video"),
    "head.mp4": (b"\0\0\0\x18ftypisom" + bytes(50), "truncated or of another format"),
    "head.mkv": (b"\x1aE\xdf\xa3" + bytes(50), "cannot be read as a video"),
    "hls.mp4": (b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n", "cannot be read as a video"),
    "list.mp4": (b"ffconcat version 1.0\nfile '/etc/passwd'\n", "cannot be read as a video"),
    "still.mp4": (flat(), "cannot be read as a video"),
}


@pytest.mark.parametrize("name", FILES)
def test_files(tmp_path, name):
    content, word = FILES[name]
    (tmp_path / name).write_bytes(content)
    said = sentence(open_clip, tmp_path / name, fps=240)
    assert name in said and word in said, said


def save(path, mode, **how):
    size = (16, 16)
    Image.new(mode, size, {"RGBA": (9, 9, 9, 90), "LA": (9, 90), "CMYK": (9, 9, 9, 9)}.get(mode, 1)).save(
        path, **how
    )


def few_colours():
    picture = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16) % 4, "P")
    picture.putpalette([0, 0, 0, 80, 90, 100, 200, 10, 10, 9, 99, 9])
    return picture


PICTURES = {
    "clear.png": (lambda p: save(p, "RGBA"), "transparent in places"),
    "clear.webp": (lambda p: save(p, "RGBA", lossless=True), "transparent in places"),
    "clear.tif": (lambda p: save(p, "RGBA"), "transparent in places"),
    "grey.png": (lambda p: save(p, "LA"), "transparent in places"),
    "hole.png": (lambda p: few_colours().save(p, transparency=1), "transparent in places"),
    "hole.gif": (lambda p: few_colours().save(p, transparency=1), "transparent in places"),
    "inks.tif": (lambda p: save(p, "CMYK"), "inks of a print"),
    "inks.jpg": (lambda p: save(p, "CMYK"), "inks of a print"),
    "lab.tif": (lambda p: Image.fromarray(np.zeros((8, 8, 3), np.uint8), "LAB").save(p), "Lab colours"),
    "whole.tif": (lambda p: save(p, "I"), "convert it"),
    "float.tif": (lambda p: save(p, "F"), "convert it"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures(tmp_path, name):
    write, word = PICTURES[name]
    write(tmp_path / name)
    said = sentence(open_clip, tmp_path / name)
    assert name in said and word in said, said


def tag(**values):
    def prepare(stream):
        for name, value in values.items():
            setattr(stream.codec_context, name, value)

    return prepare


def cut_off(path):
    noise = [np.random.default_rng(i).integers(0, 255, (96, 128, 3)).astype(np.uint8) for i in range(24)]
    data = write_clip(path, noise, container={"movflags": "faststart"}).read_bytes()
    path.write_bytes(data[: len(data) // 2])


def without_some(path):
    whole = write_clip(path.with_name("whole.mp4"), moving(24), bf="0")
    copy_packets(whole, path, lambda i, packet: None if i in (9, 10) else packet)


CLIPS = {
    "pq.mkv": (
        lambda p: write_clip(p, [bars()] * 3, "ffv1", "yuv420p10le", prepare=tag(color_trc=16)),
        "HDR, PQ",
    ),
    "hlg.mkv": (
        lambda p: write_clip(p, [bars()] * 3, "ffv1", "yuv420p10le", prepare=tag(color_trc=18)),
        "HDR, HLG",
    ),
    "linear.mkv": (
        lambda p: write_clip(p, [bars()] * 3, "ffv1", "yuv420p", prepare=tag(color_trc=8)),
        "linear light",
    ),
    "raw.mkv": (lambda p: write_clip(p, [bars()] * 3, "ffv1", "gray16le"), "16 bits a sample"),
    "deep.mkv": (lambda p: write_clip(p, [bars()] * 3, "ffv1", "yuv420p16le"), "16 bits a sample"),
    "film.mkv": (
        lambda p: write_clip(p, [bars()] * 3, "ffv1", "yuv420p", prepare=tag(color_primaries=8)),
        "primaries",
    ),
    "odd.mkv": (lambda p: write_clip(p, [bars()] * 3, prepare=tag(colorspace=14)), "matrix 14"),
    "turned.mp4": (
        lambda p: write_clip(p, moving(3), prepare=lambda s: s.set_display_rotation(30)),
        "no quarter turn",
    ),
    "cut.mp4": (cut_off, "truncated or damaged"),
    "dropped.mp4": (without_some, "rate that varies"),
    "slower.mp4": (lambda p: write_clip(p, moving(6), times=[0, 1, 2, 3, 11, 19]), "rate that varies"),
    "clear.mov": (
        lambda p: write_clip(p, [np.dstack([bars(), bars()[..., :1]])] * 3, "qtrle", "argb"),
        "transparent in places",
    ),
}


@pytest.mark.parametrize("name", CLIPS)
def test_clips(tmp_path, name):
    write, word = CLIPS[name]
    write(tmp_path / name)
    said = sentence(open_clip, tmp_path / name, fps=240)
    assert name in said and word in said, said


def frames(folder, names, sizes=None):
    folder.mkdir(parents=True)
    for i, name in enumerate(names):
        Image.new("RGB", (64, 48) if sizes is None else sizes[i], (i, 9, 9)).save(folder / name)


def test_folders_of_numbered_photographs_have_a_way_out(tmp_path):
    frames(tmp_path / "roll", ["IMG_1.jpg", "IMG_2.jpg", "IMG_3.jpg"], [(64, 48), (48, 64), (64, 48)])
    assert [clip.n_frames for clip in find_clips(tmp_path).clips] == [
        1,
        1,
        1,
    ]  # of different sizes: photographs
    frames(tmp_path / "same", ["IMG_1.jpg", "IMG_2.jpg"])
    said = find_clips(tmp_path).left_out["same"]
    assert "no known capture rate" in said and "'same*': {photographs: true}" in said
    (tmp_path / "footage.yaml").write_text("'same*': {photographs: true, split: test}\n")
    found = find_clips(tmp_path)
    assert not found.left_out and [clip.split for clip in found.clips] == [""] * 3 + ["test"] * 2
    assert "holds photographs" in sentence(open_clip, tmp_path / "same", folder=tmp_path)
    frames(tmp_path / "good", ["a.png", "b.png"])
    (tmp_path / "footage.yaml").write_text(
        "roll: {fps: 240}\nsame: {fps: 240}\n"
    )  # who states a rate means frames
    assert "frames of different sizes" in find_clips(tmp_path).left_out["roll"]


def test_what_is_no_file_is_passed_over_and_named_when_asked_for(tmp_path):
    frames(tmp_path / "stills", ["a.png", "b.png"])
    os.mkfifo(tmp_path / "stills" / "x.png")
    os.mkfifo(tmp_path / "stills" / "x.mp4")
    (tmp_path / "stills" / "zero.jpg").symlink_to("/dev/zero")
    (tmp_path / "stills" / "gone.jpg").symlink_to("nowhere")
    assert len(find_clips(tmp_path).clips) == 2
    for name in ("x.png", "x.mp4", "zero.jpg"):
        assert f"{name} is a pipe or a device" in sentence(open_clip, tmp_path / "stills" / name)
    assert "does not exist" in sentence(open_clip, tmp_path / "stills" / "gone.jpg")


def test_links_that_go_round_end(tmp_path):
    frames(tmp_path / "a", ["one.png"])
    for i in range(6):
        for name in ("x", "y", "z"):
            (tmp_path / "a" / f"{name}{i}").symlink_to(tmp_path)
    frames(tmp_path / "b", ["two.png"])
    (tmp_path / "a" / "other").symlink_to(tmp_path / "b")
    assert [clip.name for clip in find_clips(tmp_path).clips] == ["a/one", "b/two"]


def test_a_clip_outside_of_the_footage_folder(tmp_path):
    frames(tmp_path / "in", ["a.png"])
    frames(tmp_path / "out", ["b.png"])
    for path in (tmp_path / "out" / "b.png", tmp_path / "in" / ".." / "out" / "b.png"):
        assert "does not lie in the footage folder" in sentence(open_clip, path, folder=tmp_path / "in")


def test_names_that_are_no_text_are_left_out(tmp_path):
    frames(tmp_path / "in", ["a.png", "b.png"])
    try:
        os.rename(tmp_path / "in" / "b.png", os.fsencode(tmp_path / "in") + b"/\xff.png")
    except OSError:
        pytest.skip("this disk has no such names")
    frames(tmp_path / "more", ["c.png"])
    found = find_clips(tmp_path)
    assert [clip.name for clip in found.clips] == ["in/a", "more/c"]
    assert "its name is no UTF-8: rename it" in found.report().encode().decode()


def test_own_bursts_are_no_footage(tmp_path):
    frames(tmp_path / "mine", ["a.png"])
    frames(tmp_path / "burst" / "previews", ["p.png"])
    frames(tmp_path / "burst" / "frames", ["f.png"])
    (tmp_path / "burst" / "manifest.json").write_text(json.dumps({"made_by": "debir_nb 1.0"}))
    frames(tmp_path / "other", ["o.png"])
    (tmp_path / "other" / "manifest.json").write_text('["of another program"]')
    found = find_clips(tmp_path)
    assert [clip.name for clip in found.clips] == ["mine/a", "other/o"]
    assert "a burst that debir wrote" in found.report()


def test_what_was_restored_is_no_footage(tmp_path):
    frames(tmp_path / "stills", ["a.png", "b.png"])
    word = PngInfo()
    word.add_text("Software", "debir restore")
    Image.new("RGB", (64, 48)).save(tmp_path / "restored.png", pnginfo=word)
    counts = np.random.default_rng(0).integers(300, 4000, (48, 64)).astype(np.uint16)
    for name in ("shot", "restored"):
        write_dng(tmp_path / f"{name}.dng", counts, exposure=1 / 60, iso=100, black=256, white=4095)
    with open(tmp_path / "restored.dng", "ab") as file:
        file.write(b"debir restore\0")
    found = find_clips(tmp_path)
    assert {clip.path.name for clip in found.clips} == {"a.png", "b.png", "shot.dng"}
    assert set(found.left_out) == {"restored.png", "restored.dng"}
    assert "restored.dng: `debir restore` made it" in found.report()


def dvc_folder(folder, names, lie=False):
    "A folder that DVC knows: its file beside it, and the list of its files in the embedded store."
    frames(folder, names)
    tree = [{"md5": hashlib.md5((folder / name).read_bytes()).hexdigest(), "relpath": name} for name in names]
    listed = json.dumps(tree).encode()
    md5 = hashlib.md5(listed).hexdigest()
    place = folder.parent / "dvcstore" / "files" / "md5" / md5[:2] / f"{md5[2:]}.dir"
    place.parent.mkdir(parents=True)
    place.write_bytes(listed + b" " * lie)
    folder.with_name(f"{folder.name}.dvc").write_text(f"outs:\n- md5: {md5}.dir\n  path: {folder.name}\n")
    return folder


def test_tampered_footage_is_left_out_with_a_word(tmp_path):
    folder = dvc_folder(tmp_path / "data", ["a.bmp", "b.bmp", "c.bmp"])
    assert len(find_clips(folder).clips) == 3
    content = bytearray((folder / "b.bmp").read_bytes())
    content[-5] ^= 1  # one bit of one pixel: it still is a picture
    (folder / "b.bmp").write_bytes(content)
    Image.new("RGB", (64, 48)).save(folder / "mine.bmp")  # one's own is not in the list
    found = find_clips(folder)
    assert [clip.name for clip in found.clips] == ["a", "c", "mine"]
    assert (
        "b.bmp is not what data.dvc says" in found.left_out["b.bmp"]
        and "dvc checkout --force data.dvc" in found.report()
    )


def test_a_list_that_is_not_the_one_that_dvc_means_is_not_believed(tmp_path):
    assert len(find_clips(dvc_folder(tmp_path / "data", ["a.bmp", "b.bmp"], lie=True)).clips) == 2
    (tmp_path / "data.dvc").write_text("outs: 3\n")
    assert len(find_clips(tmp_path / "data").clips) == 2


def test_footage_that_is_not_there_yet_says_how_it_comes(tmp_path):
    (tmp_path / "data.dvc").write_text("outs: []\n")
    said = sentence(find_clips, tmp_path / "data")
    assert (
        "`dvc config --local core.no_scm true && dvc pull data.dvc` brings it" in said
    )  # a download without .git
    (tmp_path / ".git").mkdir()
    assert "not a folder yet: `dvc pull data.dvc` brings it" in sentence(find_clips, tmp_path / "data")


def test_a_clip_that_changes_after_it_was_opened(tmp_path):
    clip = open_clip(write_clip(tmp_path / "clip.mp4", moving(12)), fps=240)
    write_clip(tmp_path / "clip.mp4", moving(4))
    assert "clip.mp4 ends before frame 12" in sentence(clip.frames)
    (tmp_path / "clip.mp4").write_bytes(b"")
    assert "clip.mp4 cannot be read as a video: it is empty" in sentence(clip.frames)


def test_one_picture_of_any_kind_does_not_stop_the_search(tmp_path):
    frames(tmp_path / "good", [f"{name}.png" for name in "abcdefghijklmnopqrstuvwxyz"])
    frames(tmp_path / "more", [f"{name}.jpg" for name in "abcdefghijklmnopqrstuvwxyz"])
    for name, (content, _) in FILES.items():
        (tmp_path / f"bad_{name}").write_bytes(content)
    found = find_clips(tmp_path)
    assert len(found.clips) == 52 and len(found.left_out) == len(FILES)
    assert av.__version__
