"Tiny clips of known pictures, made with PyAV when a test needs them."

from fractions import Fraction

import av
import av.filter
import numpy as np
import pytest

HEIGHT, WIDTH = 96, 128
SIZE = (HEIGHT, WIDTH)


def square(at, size=SIZE, colour=(230, 160, 60)):
    "A square on grey, `at` px from the left."
    picture = np.full((*size, 3), 40, np.uint8)
    picture[30:62, at : at + 32] = colour
    return picture


def moving(n=12, step=4, size=SIZE):
    "Pictures in which a square moves right."
    return [square(step * i, size) for i in range(n)]


def bars(size=SIZE):
    "Eight patches of flat colour, in which the edges of chroma samples do not matter."
    colours = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (240, 240, 240)]
    colours += [(20, 20, 20), (128, 128, 128), (220, 200, 40), (150, 60, 170)]
    columns = np.arange(size[1]) * 4 // size[1]
    rows = np.arange(size[0]) * 2 // size[0]
    return np.array(colours, np.uint8)[rows[:, None] * 4 + columns]


def patches(picture):
    "The means of the eight patches of `bars`."
    h, w = picture.shape[0] // 2, picture.shape[1] // 4
    cells = [
        picture[h * i + h // 4 : h * (i + 1) - h // 4, w * j + w // 4 : w * (j + 1) - w // 4]
        for i in (0, 1)
        for j in range(4)
    ]
    return np.array([cell.reshape(-1, 3).mean(0) for cell in cells])


def marked(order):
    "What marks a frame as interlaced: tff, its even lines are the first field, or bff."

    def mark(frame):
        graph = av.filter.Graph()
        source = graph.add_buffer(
            width=frame.width, height=frame.height, format=frame.format.name, time_base=Fraction(1, 25)
        )
        field = graph.add("setfield", order)
        source.link_to(field)
        field.link_to(graph.add("buffersink"))
        graph.configure()
        graph.push(frame)
        return graph.pull()

    return mark


def write_clip(
    path, pictures, codec="libx264", pixels="yuv420p", rate=240, prepare=None, times=None, **options
):
    """Encode pictures; skips the test where the encoder is missing. `matrix` and `reach` are used and tagged,
    `mark` changes frames before they are encoded, `container` holds options of the container.
    """
    matrix, reach, mark = (options.pop(name, None) for name in ("matrix", "reach", "mark"))
    how = options.pop("container", {})
    try:
        av.codec.Codec(codec, "w")
    except av.codec.codec.UnknownCodecError:
        pytest.skip(f"this FFmpeg cannot encode {codec}")
    quiet = {"libx265": {"x265-params": "log-level=none"}}.get(codec, {})
    with av.open(str(path), "w", options=how) as container:
        stream = container.add_stream(codec, rate=rate, options=quiet | options)
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = pixels
        if matrix:
            stream.codec_context.colorspace = matrix
        if reach:
            stream.codec_context.color_range = reach
        if prepare:
            prepare(stream)
        for i, picture in enumerate(pictures):
            form = {3: "rgb24", 4: "rgba"}[picture.shape[2]]
            frame = av.VideoFrame.from_ndarray(picture, format=form)
            frame = frame.reformat(format=pixels, dst_colorspace=matrix, dst_color_range=reach)
            frame = mark(frame) if mark else frame
            frame.pts = i if times is None else times[i]
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def copy_packets(source, target, change=lambda i, packet: packet):
    "Copy a clip packet by packet, as `-c copy` does; `change` may move or drop (None) packets."
    with av.open(str(source)) as read, av.open(str(target), "w") as write:
        stream = write.add_stream_from_template(read.streams.video[0])
        packets = [packet for packet in read.demux(video=0) if packet.dts is not None]
        for i, packet in enumerate(packets):
            if (packet := change(i, packet)) is not None:
                packet.stream = stream
                write.mux(packet)
    return target
