"Recordings of hands: integrated, they move pictures as real ones moved; published numbers; bad recordings."

import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from debir_nb.core import generator
from debir_nb.light.gyroscope import (
    ANDROID,
    FIRST,
    Gyroscope,
    GyroscopePath,
    axes_matrix,
    blurred,
    carried,
    drawn_hand,
    drawn_way,
    from_middle,
    places,
    point_spread,
    power_shares,
    read_gyroscope,
    resampled,
)
from debir_nb.light.radiance import MovingPhotograph, hand_shake

SHARED = Path(__file__).resolve().parents[2] / "shared"
GOLDEN, GYRO = SHARED / "golden" / "lsd2_gyro.npz", SHARED / "data" / "gyro"
needs_golden = pytest.mark.skipif(not GOLDEN.exists(), reason="the parity cases (shared/golden) are not here")
needs_recordings = pytest.mark.skipif(not GYRO.exists(), reason="the recordings (shared/data) are not here")
PHONE = np.array([[573.8534, -0.6974, 406.0101], [0, 575.0448, 309.0112], [0, 0, 1]])  # CC9, 800 x 600
READOUT = 0.033312  # s


@pytest.fixture(scope="module")
def golden():
    return dict(np.load(GOLDEN))


@pytest.fixture(scope="module")
def published(golden):
    "The recording of the parity case, from the first row's exposure on."
    size = tuple(golden["size"].tolist())
    lens = from_middle(golden["K"], size)
    recording = Gyroscope(golden["t"], golden["omega"])
    return GyroscopePath(recording, lens), (np.array(size[::-1]) - 1) / 2


@needs_golden
def test_rotations_go_from_the_world_to_the_camera(golden):
    recording = Gyroscope(golden["t"], golden["omega"])
    ours = np.swapaxes(recording.camera_to_world(golden["grid"]), 1, 2)
    # the case counts from another instant
    ours, theirs = (R @ R[0].T for R in (ours, golden["R_world_to_camera"]))
    assert 600 * np.abs(ours - theirs).max() < 0.02  # px at a focal length of 600


def ways(path, middle, golden):
    "The paths of the nine points, rows at their own time."
    found = []
    for point in golden["points"]:
        begun = golden["t_first"] + golden["readout"] * point[1] / golden["size"][0]
        when = begun + golden["u"] * golden["exposure"]
        found.append(carried(path, np.tile(point - middle, (len(when), 1)), begun, when) + middle)
    return np.stack(found)


@needs_golden
def test_points_are_carried_as_published_and_not_the_other_way(golden, published):
    path, middle = published
    found = ways(path, middle, golden)
    assert np.abs(found - golden["trajectories"]).max() < 0.02
    assert np.abs(found - golden["trajectories_if_inverted"]).max() > 5
    assert np.abs(found[:, 0] - golden["points"]).max() < 1e-9


@needs_golden
def test_a_finer_recording_carries_points_to_a_ten_thousandth_of_a_pixel(golden, published):
    path, middle = published
    fine = np.linspace(golden["t"][0], golden["t"][-1], 64 * (len(golden["t"]) - 1) + 1)
    rate = np.stack([np.interp(fine, golden["t"], w) for w in golden["omega"].T], 1)
    finer = GyroscopePath(Gyroscope(fine, rate), path.lens)
    assert np.abs(ways(finer, middle, golden) - golden["trajectories"]).max() < 1e-4


@needs_golden
def test_point_spread_functions_are_the_published_ones(golden, published):
    path, middle = published
    for point, theirs in zip(golden["points"], golden["psfs"]):
        begun = golden["t_first"] + golden["readout"] * point[1] / golden["size"][0]
        when = begun + golden["u"] * golden["exposure"]  # 41 instants, both ends with them
        way = carried(path, np.tile(point - middle, (41, 1)), begun, when) - point + middle
        assert np.abs(drawn_way(way, 24) - theirs).sum() < 0.02
        ours = point_spread(path, tuple(point - middle), float(golden["exposure"]), begun, 24)
        assert ours.sum() == pytest.approx(1) and np.abs(ours - theirs).sum() < 0.08  # even in time


def sharp(x, y):
    "The small picture, which is known everywhere."
    return (
        0.45
        + 0.2 * np.sin(0.35 * x + 0.1 * y)
        + 0.15 * np.sin(0.22 * y - 0.05 * x + 1)
        + 0.1 * np.cos(0.5 * x - 0.3 * y)
    )


@needs_golden
def test_blur_is_the_published_one_and_the_convolution_nearly(golden):
    h, w = golden["sharp"].shape
    path = GyroscopePath(Gyroscope(golden["t"], golden["omega"]), from_middle(golden["small_K"], (h, w)))
    how = (float(golden["small_exposure"]), float(golden["t_first"]), float(golden["readout"]))
    seen = [sharp(*np.moveaxis(there, -1, 0)) for there in places(path, (h, w), *how, 64)]
    assert np.abs(np.mean(seen, 0) - golden["blurred"]).max() < 1e-3
    inner = (slice(8, -8), slice(8, -8))
    ours = blurred(golden["sharp"].astype(np.float32)[..., None], path, *how)[..., 0]
    assert np.abs(ours - golden["blurred_by_convolution"])[inner].max() < 0.02  # bilinear between pixels
    assert np.abs(np.mean(seen, 0) - golden["blurred_by_convolution"])[inner].max() < 0.01
    assert np.sqrt(np.square(golden["sharp"] - golden["blurred"]).mean()) > 0.05


@pytest.fixture(scope="module")
def tracked():
    "Points of six frames of a phone, and how each moved to the next: (frame, n, 2) twice, and row times."
    table = np.genfromtxt(GYRO / "cc9_frames.csv", delimiter=",", names=True)
    begun = {int(row["frame"]): row["t_start"] + row["exposure"] / 2 for row in table}
    grey = {k: cv2.imread(str(GYRO / "cc9_frames_30fps" / f"{k}.jpg"), 0) for k in range(100, 106)}
    found = []
    for k in range(100, 105):
        corners = cv2.goodFeaturesToTrack(grey[k], 600, 0.01, 8)
        there, good, _ = cv2.calcOpticalFlowPyrLK(grey[k], grey[k + 1], corners, None, winSize=(31, 31))
        back, fine, _ = cv2.calcOpticalFlowPyrLK(grey[k + 1], grey[k], there, None, winSize=(31, 31))
        kept = (good & fine).ravel().astype(bool) & (np.linalg.norm(back - corners, axis=2).ravel() < 0.5)
        found.append((corners[kept, 0].astype(float), there[kept, 0].astype(float), begun[k], begun[k + 1]))
    return found


def residuals(recording, tracked, late):
    "Motion of each point that the recording foretells, and what was seen, px."
    middle = np.array([399.5, 299.5])
    path = GyroscopePath(recording, from_middle(PHONE, (600, 800)), 1.0, late)
    for here, there, *opened in tracked:
        begun, ended = (when - 1.0 for when in opened)  # the path counts from 1 s on
        starts, stops = begun + READOUT * here[:, 1] / 600, ended + READOUT * there[:, 1] / 600
        yield carried(path, here - middle, starts, stops) + middle - here, there - here


@needs_recordings
def test_real_pictures_move_as_the_recording_says(tracked):
    recording = read_gyroscope(GYRO / "cc9_412hz.csv")
    told = list(residuals(recording, tracked, -0.002))
    assert sum(len(seen) for _, seen in told) > 500
    said, seen = np.array([[both.mean(0) for both in pair] for pair in told]).swapaxes(0, 1)
    error, moved = (np.median(np.linalg.norm(x, axis=1)) for x in (said - seen, seen))
    assert error < 1.5 < 3 < moved
    right, down = (np.corrcoef(said[:, axis], seen[:, axis])[0, 1] for axis in (0, 1))
    assert right > 0.99 and down > 0.9
    each = np.concatenate([np.linalg.norm(a - b, axis=1) for a, b in told])
    assert np.median(each) < 2.0  # single points, whose tracks err, too
    # rotations the wrong way round: worse than to say that nothing moves
    turned = list(residuals(Gyroscope(recording.time, -recording.rate), tracked, -0.002))
    wrong = np.median([np.linalg.norm(a.mean(0) - b.mean(0)) for a, b in turned])
    assert wrong > max(5.0, moved)


@needs_recordings
def test_recorded_hands_have_a_slow_quarter_and_little_roll():
    for name, lowest, highest in (("cc9_412hz", 0.15, 0.35), ("pixel_running_205hz", 0.15, 0.35)):
        recording = read_gyroscope(GYRO / f"{name}.csv")
        shares, rms = power_shares(recording), recording.rate.std(0)
        assert lowest < shares[0] < highest and shares[1] > 0.55 and shares[2:].sum() < 0.12
        assert rms[2] < 0.6 * np.hypot(*rms[:2]) / 2**0.5
    assert power_shares(read_gyroscope(GYRO / "gopro_max_198hz.csv"))[0] > 0.3
    drone = read_gyroscope(GYRO / "gopro_hero5_karma_399hz.csv", between=(6.0, 9.0))
    assert power_shares(drone)[3] > 0.8


@needs_recordings
def test_a_recording_with_a_gap_is_read_up_to_it():
    with pytest.raises(ValueError, match=r"gap of 3\d\.\d ms at"):
        read_gyroscope(GYRO / "gopro_hero5_karma_399hz.csv")


def recording(duration=1.0, rate=500.0, key=3):
    "What a drawn hand would be read as."
    shake = drawn_hand(generator(key), duration + 0.1, 300.0)
    when = np.arange(0, duration, 1 / rate)
    return Gyroscope((when[1:] + when[:-1]) / 2, np.diff(shake.angles(when), axis=0) * rate)


def test_a_recording_moves_a_photograph_as_the_hand_that_it_was_read_from():
    shake = hand_shake(generator(1), 0.4, 300.0)
    t = np.arange(0, 0.4, 0.001)
    read = Gyroscope((t[1:] + t[:-1]) / 2, np.diff(shake.angles(t), axis=0) / 0.001)
    lens = np.diag([600.0, 600.0, 1.0])
    path = GyroscopePath(read, lens, start=0.2)  # `hand_shake` looks straight ahead at half time
    photo = np.random.default_rng(0).random((120, 160, 3)).astype(np.float32)
    photo = cv2.GaussianBlur(photo, (0, 0), 3)
    views = [
        MovingPhotograph(photo, (64, 80), p, readout=0.02)(when) for p, when in ((shake, 0.25), (path, 0.05))
    ]
    assert np.abs(views[0] - views[1]).max() < 0.005
    mirrored = GyroscopePath(Gyroscope(read.time, -read.rate), lens, 0.2)
    other = MovingPhotograph(photo, (64, 80), mirrored, readout=0.02)(0.05)
    assert np.abs(views[0] - other).max() > 0.02


def test_a_lens_whose_axis_is_beside_the_middle_is_not_taken_for_a_centred_one():
    read, size = recording(), (600, 800)
    lens = np.array([[570.0, -0.7, 420.0], [0, 575.0, 290.0], [0, 0, 1]])
    path = GyroscopePath(read, from_middle(lens, size), 0.1)
    point, middle = np.array([30.0, 580.0]), np.array([399.5, 299.5])
    R = np.swapaxes(read.camera_to_world(np.array([0.1, 0.3])), 1, 2)
    expected = lens @ R[1] @ R[0].T @ np.linalg.inv(lens) @ [*point, 1]
    assert carried(path, point - middle, 0.0, 0.2) + middle == pytest.approx(expected[:2] / expected[2])


def test_rows_of_a_rolling_shutter_begin_at_themselves():
    "A camera that turns evenly: every row is blurred over the same way, and begins where it is."
    even = Gyroscope(np.linspace(0, 0.5, 251), np.tile([0.0, -0.2, 0.0], (251, 1)))
    path = GyroscopePath(even, np.diag([500.0, 500.0, 1.0]), 0.01)
    step = np.zeros((40, 80, 1), np.float32)
    step[:, 40:] = 1.0
    soft = blurred(step, path, 0.1, readout=0.05)[..., 0]
    assert np.abs(soft - soft[:1]).max() < 0.03
    # 0.2 rad/s x 500 px x 0.1 s: light of the bright half is drawn 10 px to the right, none to the left
    assert soft[20, 39] < 0.05 and 0.4 < soft[20, 45] < 0.6 and soft[20, 51] > 0.95


def test_angles_are_kept_by_another_rate_and_clocks_differ():
    read = recording()
    slower = resampled(read, 100)
    first, last = slower.time[[0, -1]] + [-0.005, 0.005]
    fine = np.linspace(first, last, 20001)
    whole = [np.trapezoid(np.interp(fine, read.time, w), fine) for w in read.rate.T]
    assert slower.rate.sum(0) / 100 == pytest.approx(np.array(whole), abs=1e-6)
    lens = np.diag([600.0, 600.0, 1.0])
    late, shifted = GyroscopePath(read, lens, 0.2, late=0.03), GyroscopePath(read, lens, 0.23)
    assert np.array_equal(late(0.1), shifted(0.1))


def test_the_first_tremor_is_the_released_hand_to_the_last_bit():
    for key, speed, focal in ((1, 240.0, 600.0), (2, 480.0, 300.0)):
        old = hand_shake(generator(key), 0.2, speed, focal)
        new = drawn_hand(generator(key), 0.2, speed, focal, FIRST)
        times = np.linspace(0, 0.2, 50)
        assert np.array_equal(old(times), new(times))


def test_a_drawn_hand_moves_at_the_speed_that_was_asked_for():
    shake = drawn_hand(generator(4), 0.5, 300.0)
    t = np.linspace(0, 0.5, 2000)
    H = shake(t)
    way = np.hypot(*np.diff(H[:, :2, 2] / H[:, 2:, 2], axis=0).T).sum()
    assert way / 0.5 == pytest.approx(300, rel=0.02)


def test_axes_of_a_phone_are_turned_not_mirrored():
    assert np.array_equal(axes_matrix(ANDROID, ("wx", "wy", "wz")), [[0, -1, 0], [-1, 0, 0], [0, 0, -1]])
    # columns of any name, in the order of the file
    assert np.array_equal(axes_matrix(("gx", "gy", "gz"), ("gx", "gy", "gz", "temperature")), np.eye(3))
    for bad in (("-wy", "wx", "-wz"), ("wx", "wx", "wz"), ("wx", "wy", "yaw")):
        with pytest.raises(ValueError):
            axes_matrix(bad, ("wx", "wy", "wz"))


def written(path, time, rate, names="t,wx,wy,wz"):
    np.savetxt(path, np.column_stack([time, rate]), delimiter=",", header=names, comments="", fmt="%.9g")
    return path


def test_a_file_declares_nothing_so_its_reader_does(tmp_path):
    read = recording()
    same = read_gyroscope(written(tmp_path / "a.csv", read.time, read.rate))
    assert np.allclose(same.rate, read.rate, atol=1e-7) and np.allclose(same.time, read.time)
    phone = np.stack([-read.rate[:, 1], -read.rate[:, 0], -read.rate[:, 2]], 1)
    android = written(tmp_path / "b.csv", 1e9 * read.time, np.degrees(phone))
    turned = read_gyroscope(android, ANDROID, "deg/s", second=1e9)
    assert np.allclose(turned.rate, read.rate, atol=1e-6) and np.allclose(turned.time, read.time)


BAD = {
    "columns": (dict(names="t,wx,wy,vz"), {}, "has the columns wx, wy, vz"),
    "time": (dict(names="s,wx,wy,wz"), {}, "no column t: it has s, wx, wy, wz"),
    "degrees": (dict(scale=180 / math.pi), {}, "are these degrees per second"),
    "unit": ({}, dict(unit="rpm"), "give rad/s or deg/s"),
    "clock": (dict(second=1e3), {}, "is its time in ms, us or ns"),
    "short": ({}, dict(between=(0.1, 0.101)), "needs at least 2"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused(case, tmp_path):
    file, how, words = BAD[case]
    read = recording()
    path = written(
        tmp_path / "bad.csv",
        file.get("second", 1.0) * read.time,
        file.get("scale", 1.0) * read.rate,
        file.get("names", "t,wx,wy,wz"),
    )
    with pytest.raises(ValueError, match=words):
        read_gyroscope(path, **how)


def test_bad_recordings_are_refused():
    read = recording()
    time, rate = read.time.copy(), read.rate.copy()
    time[100] = time[98]
    with pytest.raises(ValueError, match="backwards: .*sample 100"):
        Gyroscope(time, rate)
    with pytest.raises(ValueError, match="gap of 2[12].0 ms at"):
        Gyroscope(np.delete(read.time, slice(50, 60)), np.delete(rate, slice(50, 60), 0))
    rate[7, 1] = np.nan
    with pytest.raises(ValueError, match="sample 7 of the recording is not finite"):
        Gyroscope(read.time, rate)
    with pytest.raises(ValueError, match="the recording knows .* begin later"):
        GyroscopePath(read, np.eye(3), 0.9)(0.5)
