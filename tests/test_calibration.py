"""Noise of a sensor from its frames: known sensors are recovered, claimed errors are true, and what cannot be measured is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

from debir_nb.core import generator
from debir_nb.light.calibration import (
    SENSORS,
    GainNoise,
    fit_noise,
    gain_noise,
    good_pixels,
    noise_profile,
    photon_transfer,
    raw_signal,
)
from debir_nb.light.degradation import add_noise
from debir_nb.light.dng import normalise, read_raw, write_dng
from debir_nb.light.sensor import EqualBrightness

RAW = Path(__file__).resolve().parents[2] / "shared" / "data" / "raw"
REAL = pytest.mark.skipif(not RAW.is_dir(), reason=f"real RAW files are missing: {RAW}")
LEVELS = (0.1, 0.3, 0.6)


def frames(level, k, shot, read, draws, side=32):
    "Noise of the model around a vignetted scene; nothing else."
    x = torch.linspace(-1, 1, side, dtype=torch.float64)
    scene = level * (1 - 0.2 * (x[:, None] ** 2 + x**2)).expand(k, 4, side, side)
    return add_noise(scene, *(torch.full((k,), v, dtype=torch.float64) for v in (shot, read)), draws)


def stacks(k=4, shot=1e-3, read=1e-6, seed=0, side=32, levels=LEVELS):
    draws = generator(seed)
    return [frames(level, k, shot, read, draws, side) for level in levels], frames(
        0, k, shot, read, draws, side
    )


def saved(path, **options):
    counts = np.random.default_rng(0).integers(0, 4096, (32, 48), np.uint16)
    write_dng(
        path, counts, exposure=0.01, iso=100, black=np.array([[100, 110], [120, 130]]), white=4095, **options
    )
    return path


# Recovery


@pytest.mark.parametrize("electrons, dark", [(50_000, 8), (3000, 3), (300, 2)])
def test_photon_counts_are_recovered(electrons, dark):
    "A sensor that counts: Poisson electrons, Gaussian electronics, 14 bits, the paths of real noise."
    draws, step, black = generator(electrons), 1 / 14335, 2048
    x = torch.linspace(0.5, 1, 96, dtype=torch.float64)

    def shoot(level):
        caught = torch.poisson((electrons * level * x[:, None] * x).expand(8, 4, 96, 96), generator=draws)
        signal = (caught + dark * torch.randn(caught.shape, generator=draws, dtype=torch.float64)) / electrons
        return (torch.round(black + signal / step).clamp(0, 16383) - black) * step

    curve = photon_transfer([shoot(level) for level in (0.05, 0.2, 0.5, 1.0)], shoot(0), step)
    assert curve.pooled.shot.item() == pytest.approx(1 / electrons, rel=0.05)
    assert curve.pooled.read.item() == pytest.approx((dark / electrons) ** 2, rel=0.05)
    assert curve.channels.shot.tolist() == pytest.approx([1 / electrons] * 4, rel=0.05)
    assert curve.pooled.misfit.item() == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("k", [2, 5])
def test_the_claimed_error_is_the_true_one(k):
    "Over repeated measurements, the deviation in units of the claimed error is standard normal."
    deviations = []
    for seed in range(80):
        fit = photon_transfer(*stacks(k, seed=seed), tiles=2).channels
        deviations += [(fit.shot - 1e-3) / fit.shot_error, (fit.read - 1e-6) / fit.read_error]
    # 320 each: their spread is known to 4 %, the coverage to 1.2 %
    for z in (torch.cat(deviations[::2]), torch.cat(deviations[1::2])):
        assert z.std().item() == pytest.approx(1, abs=0.14)
        assert abs(z.mean().item()) < 0.2
        assert (z.abs() < 1.96).double().mean().item() == pytest.approx(0.95, abs=0.04)


def test_errors_shrink_with_the_root_of_the_frames():
    few, many = (photon_transfer(*stacks(k)).pooled for k in (2, 17))
    assert (few.shot_error / many.shot_error).item() == pytest.approx(4, rel=0.1)
    assert (few.read_error / many.read_error).item() == pytest.approx(4, rel=0.1)


def test_fixed_pattern_flicker_and_black_offset_cancel():
    flats, darks = stacks(8, side=64)
    draws = generator(5)
    pattern = 0.002 * torch.randn(4, 64, 64, generator=draws, dtype=torch.float64)
    lamp = 0.02 * torch.randn(8, 1, 1, 1, generator=draws, dtype=torch.float64)
    lamp -= lamp.mean()
    clean, spoilt = (
        photon_transfer(flats, darks).pooled,
        photon_transfer([flat + lamp + pattern + 0.001 for flat in flats], darks + 0.001).pooled,
    )
    assert spoilt.shot.item() == pytest.approx(clean.shot.item(), rel=1e-2)
    assert spoilt.read.item() == pytest.approx(clean.read.item(), rel=1e-6)


def test_hot_pixels_do_no_harm():
    flats, darks = stacks(8, side=64)
    hot = torch.rand(4, 64, 64, generator=generator(1)) < 0.01
    flicker = hot * torch.randn(8, 4, 64, 64, generator=generator(2), dtype=torch.float64) * 0.1
    clean, spoilt = (
        photon_transfer(flats, darks).pooled,
        photon_transfer([flat + flicker for flat in flats], darks + flicker).pooled,
    )
    assert (~good_pixels(darks + flicker) & hot).sum() > 0.99 * hot.sum() and good_pixels(
        darks
    ).double().mean() > 0.9999
    assert spoilt.read.item() == pytest.approx(clean.read.item(), rel=0.05)
    assert spoilt.shot.item() == pytest.approx(clean.shot.item(), rel=0.05)


def test_clipped_tiles_are_left_out():
    flats, darks = stacks(8, side=64, levels=(0.1, 0.3, 0.6, 1.05))
    curve = photon_transfer([flat.clamp(max=1) for flat in flats], darks)
    brightest = curve.freedom[:, -64:]
    assert (brightest == 0).any() and (brightest > 0).any()
    assert curve.pooled.shot.item() == pytest.approx(1e-3, rel=0.02)


def test_channels_have_their_own_noise():
    flats, darks = stacks(8, side=64)
    factor = torch.tensor([1, 1, 1, 2], dtype=torch.float64)[:, None, None]
    # gain before the converter: shot times it, read times its square
    fit = photon_transfer([flat * factor / 2 for flat in flats], darks * factor / 2).channels
    assert fit.shot.tolist() == pytest.approx([5e-4, 5e-4, 5e-4, 1e-3], rel=0.05)
    assert fit.read.tolist() == pytest.approx([2.5e-7, 2.5e-7, 2.5e-7, 1e-6], rel=0.05)


def test_the_converter_is_taken_off():
    flats, darks = stacks(8, side=64)
    step = 2e-3  # twice the read noise

    def coarse(stack):
        return torch.round(stack / step) * step

    flats, darks = [coarse(flat) for flat in flats], coarse(frames(0, 8, 1e-3, 4e-6, generator(3), 64))
    curve, raw = (photon_transfer(flats, darks, s).pooled for s in (step, 0.0))
    assert curve.read.item() == pytest.approx(4e-6, rel=0.05)
    assert raw.read.item() == pytest.approx(4e-6 + step**2 / 12, rel=0.05)


def test_stacks_may_differ_in_length_and_precision():
    flats, darks = stacks(8)
    mixed = photon_transfer([flats[0][:2].float(), flats[1], flats[2][:3]], darks.float()).pooled
    assert mixed.shot.dtype == torch.float64 and mixed.shot.item() == pytest.approx(1e-3, rel=0.1)


def test_the_fit_is_a_weighted_one():
    "One wild point of few degrees of freedom does not move the line; a point of none is not there."
    signal = torch.linspace(0, 1, 5, dtype=torch.float64)
    variance, freedom = 1e-6 + 1e-4 * signal, torch.tensor([1e6, 1e6, 1e6, 1e6, 1.0], dtype=torch.float64)
    variance[4] *= 3
    assert fit_noise(signal, variance, freedom).shot.item() == pytest.approx(1e-4, rel=1e-3)
    freedom[4] = 0
    assert fit_noise(signal, variance, freedom).shot.item() == pytest.approx(1e-4, rel=1e-9)
    with pytest.raises(ValueError, match="2 usable points"):
        fit_noise(signal[:2], variance[:2], freedom[:2])


# Refusals


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda flats, darks: ([], darks), "flats is empty"),
        (lambda flats, darks: (flats, darks[:0]), "darks is empty"),
        (lambda flats, darks: (flats, darks[:1]), "darks holds 1 frames"),
        (lambda flats, darks: ([flats[0], flats[1][:1]], darks), r"flats\[1\] holds 1 frames"),
        (lambda flats, darks: ([flats[0][..., :30]], darks), "crop them alike"),
        (lambda flats, darks: ([flats[0][:, 0]], darks), "stack packed frames"),
        (
            lambda flats, darks: ([flats[0] * float("nan")], darks),
            r"flats\[0\] holds \d+ values that are not finite",
        ),
        (lambda flats, darks: (flats, darks.clamp(min=0)), "keep what lies below black"),
        (lambda flats, darks: (flats, darks.round()), "noise exceeds a count"),
        (lambda flats, darks: (flats, darks + 0.1), "subtract the black level"),
        (lambda flats, darks: ([flats[2] * 4], darks), "clipped in every tile"),
        (lambda flats, darks: ([darks], darks), "no growth of variance"),
        (lambda flats, darks: ([0.9 * darks / 2 + 0.3, darks / 3 + 0.6], darks), "no growth of variance"),
    ],
)
def test_bad_stacks(spoil, message):
    with pytest.raises(ValueError, match=message):
        photon_transfer(*spoil(*stacks(2)))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"step": -1e-3}, "step is"),
        ({"step": 0.5}, "step is"),
        ({"step": 0.02}, "check step"),
        ({"tiles": 0}, "tiles is 0"),
        ({"tiles": 17}, "tiles is 17"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        photon_transfer(*stacks(2), **options)


# Files


@pytest.mark.parametrize("pattern", ["RGGB", "BGGR", "GRBG", "GBRG"])
def test_raw_signal_is_normalise_without_clipping(tmp_path, pattern):
    photo = read_raw(saved(tmp_path / "a.dng", pattern=pattern))
    signal = raw_signal(photo)
    assert signal.min() < 0
    assert torch.equal(signal.clamp(0, 1), normalise(photo))


def test_noise_profile(tmp_path):
    path = saved(tmp_path / "one.dng", noise=(2e-4, 3e-8))
    assert [v.tolist() for v in noise_profile(path)] == [[2e-4], [3e-8]]
    assert [v.tolist() for v in noise_profile(path.read_bytes())] == [[2e-4], [3e-8]]
    three = saved(tmp_path / "three.dng", noise=(1e-4, 1e-8, 2e-4, 2e-8, 3e-4, 3e-8))
    assert [v.tolist() for v in noise_profile(three)] == [[1e-4, 2e-4, 3e-4], [1e-8, 2e-8, 3e-8]]


@pytest.mark.parametrize(
    "noise, message",
    [
        (None, "has no NoiseProfile"),
        ((1e-4,), "of 1 numbers"),
        ((1e-4, 1e-8, 1e-4), "of 3 numbers"),
        ((0.0, 1e-8), "must be above 0"),
        ((1e-4, -1e-8), "read noise 0 or more"),
        ((float("nan"), 1e-8), "NOISE_PROFILE is nan"),
    ],
)
def test_bad_profiles(tmp_path, noise, message):
    with pytest.raises(ValueError, match=message):
        noise_profile(saved(tmp_path / "a.dng", noise=noise))


def test_absent_file(tmp_path):
    with pytest.raises(OSError):
        noise_profile(tmp_path / "none.dng")


@REAL
@pytest.mark.parametrize(
    "file, name", [("gopro_hero6_mural.dng", "GoPro HERO6"), ("gopro_fusion_back.dng", "GoPro Fusion")]
)
def test_the_table_quotes_real_files(file, name):
    "The stated pair is the table's, at the ISO of the file."
    shot, read = noise_profile(RAW / file)
    model = SENSORS[name].noise(torch.tensor([read_raw(RAW / file).iso / 100], dtype=torch.float64))
    assert [v.item() for v in model] == pytest.approx([shot.item(), read.item()], rel=1e-9)


@REAL
def test_a_real_file_without_profile():
    with pytest.raises(ValueError, match="canon_kissx4_colorchart.dng has no NoiseProfile"):
        noise_profile(RAW / "canon_kissx4_colorchart.dng")


# Models


def test_stacks_at_several_gains_become_a_model():
    true = GainNoise((0.0, 5e-5), (1e-7, 0.0, 2e-8))
    gain = torch.tensor([1.0, 8.0, 64.0], dtype=torch.float64)
    fits = [
        photon_transfer(*stacks(6, s.item(), r.item(), seed=i)).pooled
        for i, (s, r) in enumerate(zip(*true(gain)))
    ]
    model = gain_noise(gain, torch.stack([f.shot for f in fits]), torch.stack([f.read for f in fits]))
    assert model.shot[1] == pytest.approx(5e-5, rel=0.05)
    assert (model.read[0], model.read[2]) == pytest.approx((1e-7, 2e-8), rel=0.05)


def test_a_negative_constant_becomes_none():
    gain = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    model = gain_noise(gain, 1e-4 * gain, 1e-8 * gain**3)
    assert model.read[0] == 0 and model.read[2] > 0


def test_published_sensors():
    "Numbers worked out by hand from the sources, and the physics that every sensor obeys."

    def at(name, gain):
        return [v.item() for v in SENSORS[name].noise(torch.tensor(gain, dtype=torch.float64))]

    # k and sigma^2 at ISO 1600
    assert at("OPPO Reno 10x", 16.0) == pytest.approx([0.96793133 / 959, 2.97945287 / 959**2], rel=1e-6)
    assert at("CRVD", 256.0) == pytest.approx([52.032536 / 3855, 1819.818657 / 3855**2], rel=0.1)
    gain = torch.tensor([1.0, 4.0, 16.0, 64.0, 256.0, 1024.0])
    for name, sensor in SENSORS.items():
        shot, read = sensor.noise(gain)
        assert (shot.diff() > 0).all() and (read.diff() > 0).all() and shot.dtype == torch.float32, name
        assert sensor.source


def test_models_serve_the_simulator():
    gains = torch.tensor([[1.0, 2.0], [4.0, 8.0]], requires_grad=True)
    shot, read = EqualBrightness(SENSORS["CRVD"].noise).noise(gains)
    assert shot.shape == read.shape == (2, 2)
    (shot + read).sum().backward()
    assert torch.isfinite(gains.grad).all() and (gains.grad > 0).all()


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: GainNoise((0.0, -1e-5), (1e-8,)), "shot is"),
        (lambda: GainNoise((1e-5,), (0.0, 0.0)), "read is"),
        (lambda: GainNoise((1e-5,), (float("nan"),)), "read is"),
        (lambda: GainNoise((1e-5,), (1e-8,))(torch.tensor([0.0])), "gain holds"),
        (lambda: gain_noise(torch.ones(2), torch.ones(2), torch.ones(2)), "each gain once"),
        (lambda: gain_noise(torch.ones(1), torch.ones(1), torch.zeros(1)), "read holds"),
        (
            lambda: gain_noise(torch.tensor([1.0, 2.0]), torch.ones(1), torch.ones(2)),
            "shot has 1 values for 2 gains",
        ),
        (
            lambda: gain_noise(torch.tensor([1.0, 8.0]), torch.tensor([1.0, 8.0]), torch.tensor([2.0, 1.0])),
            "cannot fall",
        ),
    ],
)
def test_bad_models(make, message):
    with pytest.raises(ValueError, match=message):
        make()
