"""The plain forms that the fast ones are measured against: the same results, every formula as it is written down."""

import torch
import torch.nn.functional as F
from torch import nn

from debir_nb.core import FRAME_TIME
from debir_nb.light.degradation import burst_gains, iso_noise, standard_normal
from debir_nb.light.raw import sample_cfa
from debir_nb.light.simulator import timeline


def literal_exposure(radiance, start, stop):
    """Eq. (7), mended: every tick of the exposure, weighted by how much of it the exposure holds; (b t ...),
    (b n) in s -> (b n ...).
    """
    frames = []
    for scene, begins, ends in zip(radiance, start / FRAME_TIME, stop / FRAME_TIME):
        for begin, end in zip(begins, ends):
            total = 0
            for k in range(int(begin), int(end.ceil())):
                total = total + (end.clamp(max=k + 1) - begin.clamp(min=k)) * scene[k]
            frames.append(total / (end - begin))
    return torch.stack(frames).unflatten(0, start.shape)


def literal_burst(radiance, exposures, preview_gain, generator):
    """Eqs. (4)-(8) in their order, from colour radiance (b t 3 H W): sum over ticks, colour filter array,
    noise, clipping.
    """
    raw = sample_cfa(literal_exposure(radiance, *timeline(exposures)).flatten(0, 1)).unflatten(
        0, exposures.shape
    )
    shot, read = (x[..., None, None, None] for x in iso_noise(burst_gains(exposures, preview_gain)))
    return (raw + (read + shot * raw.clamp(min=0)).sqrt() * standard_normal(raw, generator)).clamp(0, 1)


class Norm(nn.Module):
    "Layer normalisation, as its formula."

    def __init__(self, f):
        super().__init__()
        self.body = nn.LayerNorm(f)

    def forward(self, x):
        y = x.flatten(2).transpose(1, 2)
        mean, variance = y.mean(-1, keepdim=True), y.var(-1, keepdim=True, unbiased=False)
        return (
            ((y - mean) / torch.sqrt(variance + 1e-5) * self.body.weight + self.body.bias)
            .transpose(1, 2)
            .unflatten(2, x.shape[2:])
        )


class Attention(nn.Module):
    "Attention between channels: rows of length 1, then the products."

    def __init__(self, f, heads):
        super().__init__()
        self.heads, self.temperature = heads, nn.Parameter(torch.ones(heads, 1, 1))
        self.qk, self.qk_dwconv = (
            nn.Conv2d(f, 2 * f, 1, bias=False),
            nn.Conv2d(2 * f, 2 * f, 3, padding=1, groups=2 * f, bias=False),
        )
        self.v, self.v_dwconv = (
            nn.Conv2d(f, f, 1, bias=False),
            nn.Conv2d(f, f, 3, padding=1, groups=f, bias=False),
        )
        self.project_out = nn.Conv2d(f, f, 1, bias=False)

    def forward(self, x):
        q, k = self.qk_dwconv(self.qk(x)).chunk(2, 1)
        q, k, v = (t.flatten(2).unflatten(1, (self.heads, -1)) for t in (q, k, self.v_dwconv(self.v(x))))
        attention = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * self.temperature).softmax(-1)
        return self.project_out((attention @ v).flatten(1, 2).unflatten(2, x.shape[2:]))


class FeedForward(nn.Module):
    "One wide tensor, cut in two."

    def __init__(self, f):
        super().__init__()
        wide = int(2.66 * f)
        self.project_in, self.project_out = (
            nn.Conv2d(f, 2 * wide, 1, bias=False),
            nn.Conv2d(wide, f, 1, bias=False),
        )
        self.dwconv = nn.Conv2d(2 * wide, 2 * wide, 3, padding=1, groups=2 * wide, bias=False)

    def forward(self, x):
        gate, value = self.dwconv(self.project_in(x)).chunk(2, 1)
        return self.project_out(F.gelu(gate) * value)


class Block(nn.Module):
    "Attention, then the gated layer, each behind a normalisation."

    def __init__(self, f, heads=1):
        super().__init__()
        self.norm1, self.attn, self.norm2, self.ffn = Norm(f), Attention(f, heads), Norm(f), FeedForward(f)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.ffn(self.norm2(x))


def gelu(f_in, f_out, kernel=3, bias=True):
    return nn.Sequential(nn.Conv2d(f_in, f_out, kernel, padding=kernel // 2, bias=bias), nn.GELU())


def frames(module, x):
    return module(x.flatten(0, 1)).unflatten(0, x.shape[:2])


def with_reference(x):
    return torch.cat([x[:, :1].expand_as(x), x], 2)


class Enrichment(nn.Module):
    "Back-projection of pairs: of neighbours, or with the reference."

    def __init__(self, f, reference):
        super().__init__()
        self.reference, self.encoder1 = reference, nn.Sequential(Block(2 * f), Block(2 * f))
        self.feat_fusion, self.feat_expand, self.diff_fusion = gelu(2 * f, f), gelu(f, 2 * f), gelu(2 * f, f)

    def forward(self, x):
        pairs = (
            with_reference(x)
            if self.reference
            else torch.cat([x, x.roll(1, 1)], 1).unflatten(1, (-1, 2)).flatten(2, 3)
        )
        pairs = self.encoder1(pairs.flatten(0, 1))
        fused = self.feat_fusion(pairs)
        lost = (self.feat_expand(fused) - pairs) * (1 if self.reference else -1)
        return (fused + self.diff_fusion(lost)).view_as(x)


class Alignment(nn.Module):
    "Offsets from stacked pairs, for every frame."

    def __init__(self, f, coarser=True):
        super().__init__()
        self.bottleneck = gelu(2 * f, f, bias=False)
        if coarser:
            self.bottleneck_o = gelu(2 * f, f, bias=False)
        self.offset_conv, self.deform = (
            nn.Conv2d(f, 216, 3, padding=1, bias=False),
            nn.Conv2d(f, f, 3, padding=2, dilation=2, groups=8),
        )
        self.back_projection = Enrichment(f, reference=True)

    def forward(self, x, coarser=None):
        clue = frames(self.bottleneck, with_reference(x))
        if coarser is not None:
            clue = frames(self.bottleneck_o, torch.cat([coarser, clue], 2))
        offset, mask = self.offset_conv(clue[:, 1:].flatten(0, 1)).split([144, 72], 1)
        moved = deform_conv(
            x[:, 1:].flatten(0, 1), offset, mask.sigmoid(), self.deform.weight, self.deform.bias, 2
        )
        return self.back_projection(torch.cat([x[:, :1], moved.view_as(x[:, 1:])], 1)), clue


def deform_conv(x, offset, mask, weight, bias, dilation):
    "Deformable convolution by one grid_sample, of as many channel groups as offset groups."
    (m, c, h, w), (_, c_in, kh, kw) = x.shape, weight.shape
    groups, taps = c // c_in, kh * kw
    dy, dx = offset.reshape(m * groups, kh, kw, 2, h, w).unbind(3)
    y = dy + dilation * (torch.arange(kh) - kh // 2).view(-1, 1, 1, 1) + torch.arange(h).view(-1, 1)
    x_ = dx + dilation * (torch.arange(kw) - kw // 2).view(-1, 1, 1) + torch.arange(w)
    grid = torch.stack([(2 * x_ + 1) / w - 1, (2 * y + 1) / h - 1], -1).view(m * groups, taps * h, w, 2)
    seen = F.grid_sample(x.reshape(m * groups, c_in, h, w), grid.to(x.dtype), align_corners=False).view(
        m * groups, c_in, taps, h * w
    )
    seen = (seen * mask.reshape(m * groups, 1, taps, h * w)).view(m, groups, c_in * taps, h * w)
    return (weight.view(groups, -1, c_in * taps) @ seen).view(m, -1, h, w) + bias.view(-1, 1, 1)


class Levels(nn.Module):
    "Alignment at a quarter, half and full size, and once more."

    def __init__(self, f):
        super().__init__()
        self.encoder_level1, self.encoder_level2 = (
            nn.Sequential(Block(f), Block(f)),
            nn.Sequential(Block(f, 2), Block(f, 2)),
        )
        self.down1, self.down2 = (nn.Conv2d(f, f, 3, stride=2, padding=1) for _ in range(2))
        self.up1, self.up2, self.offset_up1, self.offset_up2 = (
            nn.ConvTranspose2d(f, f, 3, stride=2, padding=1, output_padding=1) for _ in range(4)
        )
        self.alignment0, self.alignment1, self.alignment2, self.cascade_alignment = (
            Alignment(f),
            Alignment(f),
            Alignment(f, False),
            Alignment(f),
        )

    def forward(self, x):
        full = frames(self.encoder_level1, x)
        half = frames(self.encoder_level2, frames(self.down1, full))
        aligned, clue = self.alignment2(frames(self.down2, half))
        rough = frames(self.up2, aligned)
        aligned, clue = self.alignment1(half, 2 * frames(self.offset_up2, clue))
        rough = frames(self.up1, rough + aligned)
        aligned, clue = self.alignment0(full, 2 * frames(self.offset_up1, clue))
        return self.cascade_alignment(rough + aligned, clue)[0]


class PlainBurstormer(nn.Module):
    "Burstormer, channels before pixels, every layer as it is written down; its weights have the same names."

    def __init__(self, n, f):
        super().__init__()
        self.conv1, self.align = nn.Sequential(nn.Conv2d(4, f, 3, padding=1, bias=False)), Levels(f)
        self.back_projection1, self.back_projection2 = (
            Enrichment(f, reference=False),
            Enrichment(f, reference=False),
        )
        self.rec_conv1, self.rec_conv2 = gelu(n * f, 2 * f, 1, bias=False), gelu(2 * f, f, 1, bias=False)
        self.out_conv = nn.Sequential(nn.Conv2d(f, 4, 3, padding=1, bias=False))

    def forward(self, taken):
        burst, noise_std = taken.frames, taken.noise_std
        x = self.back_projection1(self.align(frames(self.conv1, burst)))
        two = self.rec_conv1(x.flatten(1, 2)).unflatten(1, (2, -1))
        weights = noise_std.pow(-2) / noise_std.pow(-2).sum(1, keepdim=True)
        return (weights[..., None, None, None] * burst).sum(1) + self.out_conv(
            self.rec_conv2(self.back_projection2(two).flatten(1, 2))
        )


class PlainBlock(nn.Module):
    "x + conv(relu(conv(x)))."

    def __init__(self, f):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(f, f, 3, padding=1), nn.Conv2d(f, f, 3, padding=1)

    def forward(self, x):
        return x + self.conv2(F.relu(self.conv1(x)))


class PlainChain(nn.Module):
    "A convolution, a leaky rectifier, residual blocks."

    def __init__(self, f_in, f, n):
        super().__init__()
        blocks = nn.Sequential(*(PlainBlock(f) for _ in range(n)))
        self.main = nn.Sequential(nn.Conv2d(f_in, f, 3, padding=1), nn.LeakyReLU(0.1), blocks)

    def forward(self, x):
        return self.main(x)


def plain_warp(x, flow, outside="zeros"):
    h, w = x.shape[-2:]
    y, x0 = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    grid = torch.stack(
        [2 * (x0 + flow[:, 0]) / max(w - 1, 1) - 1, 2 * (y + flow[:, 1]) / max(h - 1, 1) - 1], -1
    )
    return F.grid_sample(x, grid, padding_mode=outside, align_corners=True)


class PlainFlow(nn.Module):
    "SPyNet, pair by pair."

    def __init__(self, widths=(32, 64, 32, 16)):
        super().__init__()
        sizes, self.basic_module = (8, *widths, 2), nn.ModuleList()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))
        for _ in range(6):
            layers = [m for a, b in zip(sizes, sizes[1:]) for m in (nn.Conv2d(a, b, 7, padding=3), nn.ReLU())]
            self.basic_module.append(nn.ModuleDict({"basic_module": nn.Sequential(*layers[:-1])}))

    def forward(self, ref, supp):
        h, w = ref.shape[-2:]
        size = (-(-h // 32) * 32, -(-w // 32) * 32)
        refs, supps = (
            [(F.interpolate(x, size=size, mode="bilinear", align_corners=False) - self.mean) / self.std]
            for x in (ref, supp)
        )
        for x in (refs, supps):
            for _ in range(5):
                x.insert(0, F.avg_pool2d(x[0], 2))
        flow = refs[0].new_zeros(len(ref), 2, size[0] // 64, size[1] // 64)
        for k, level in enumerate(self.basic_module):
            if k == 0:
                up = refs[0].new_zeros(len(ref), 2, *refs[0].shape[-2:])
            else:
                up = 2 * F.interpolate(flow, size=refs[k].shape[-2:], mode="bilinear", align_corners=True)
            told = torch.cat([refs[k], plain_warp(supps[k], up, "border"), up], 1)
            flow = up + level["basic_module"](told)
        flow = F.interpolate(flow, size=(h, w), mode="bilinear", align_corners=False)
        return flow * flow.new_tensor([w / size[1], h / size[0]]).view(2, 1, 1)


def plain_deform(x, offset, mask, weight, bias):
    "Four corners of every tap, gathered; then a grouped product."
    (b, c, h, w), groups = x.shape, 8
    dy, dx = offset.view(b, groups, 9, 2, h, w).unbind(3)
    ky, kx = torch.meshgrid(torch.arange(-1, 2), torch.arange(-1, 2), indexing="ij")
    y = torch.arange(h).view(h, 1) + ky.reshape(1, 1, 9, 1, 1) + dy
    x_ = torch.arange(w) + kx.reshape(1, 1, 9, 1, 1) + dx
    flat, total = x.view(b, groups, c // groups, h * w), 0
    for oy in (0, 1):
        for ox in (0, 1):
            yi, xi = y.detach().floor() + oy, x_.detach().floor() + ox
            inside = (yi >= 0) & (yi < h) & (xi >= 0) & (xi < w)
            index = (yi.clamp(0, h - 1) * w + xi.clamp(0, w - 1)).long().flatten(2)
            seen = flat.gather(3, index[:, :, None].expand(-1, -1, c // groups, -1))
            share = (1 - (y - yi).abs()) * (1 - (x_ - xi).abs()) * inside * mask.view(b, groups, 9, h, w)
            total = total + seen.view(b, groups, c // groups, 9, h, w) * share[:, :, None]
    taps = weight.view(groups, -1, c // groups * 9)
    return (taps @ total.reshape(b, groups, c // groups * 9, h * w)).view(b, -1, h, w) + bias.view(-1, 1, 1)


class PlainAlignment(nn.Module):
    "Offsets from a flow, then the deformable convolution."

    def __init__(self, f):
        super().__init__()
        layers = []
        for a in (2 * f + 2, f, f):
            layers += [nn.Conv2d(a, f, 3, padding=1), nn.LeakyReLU(0.1)]
        self.conv_offset = nn.Sequential(*layers, nn.Conv2d(f, 216, 3, padding=1))
        self.deform_conv = nn.Conv2d(f, f, 3, padding=1, groups=8)

    def forward(self, ref, other, flow):
        o1, o2, mask = self.conv_offset(torch.cat([plain_warp(other, flow), ref, flow], 1)).chunk(3, 1)
        offset = 10 * torch.tanh(torch.cat([o1, o2], 1))
        offset = offset + flow.flip(1).repeat(1, offset.shape[1] // 2, 1, 1)
        conv = self.deform_conv
        return plain_deform(other, offset, torch.sigmoid(mask), conv.weight, conv.bias)


class PlainTMRNet(nn.Module):
    "The published network, frame by frame; names of its weights as published."

    def __init__(self, f=64):
        super().__init__()
        self.spynet, self.dcn_alignment = PlainFlow(), PlainAlignment(f)
        self.feat_extract = PlainChain(8, f, 5)
        chains = {"backward": PlainChain(3 * f, f, 16)}
        chains |= {f"backward_rec_{k + 1}": PlainChain(3 * f, f, 24) for k in range(5)}
        self.backbone, self.learn_para = nn.ModuleDict(chains), nn.Parameter(torch.zeros(1, 5, f, 1, 1))
        self.reconstruction = PlainChain(2 * f, f, 5)
        self.skipup1 = nn.ModuleDict({"upsample_conv": nn.Conv2d(4, f, 3, padding=1)})
        self.conv_hr, self.conv_last = nn.Conv2d(f, f, 3, padding=1), nn.Conv2d(f, 4, 3, padding=1)

    def forward(self, light):
        curve = lambda x: x.clamp(min=0) ** (1 / 2.2)
        rgb = torch.stack([light[:, :, 0], light[:, :, 1:3].mean(2), light[:, :, 3]], 2).clamp(0, 1) ** (
            1 / 2.2
        )
        a, h = None, 0
        for i in range(light.shape[1]):
            planes = [p for k in range(4) for p in (light[:, i, k], curve(light[:, i, k]))]
            b = self.feat_extract(torch.stack(planes, 1))
            if i == 0:
                a = b
                h = torch.zeros_like(a)
            else:
                b = self.dcn_alignment(a, b, self.spynet(rgb[:, 0], rgb[:, i]))
            h = h + self.backbone["backward"](torch.cat([a, b, h], 1))
            own = self.backbone[f"backward_rec_{i + 1}"](torch.cat([a, b, h], 1))
            h = h + self.learn_para[:, i] * own
        y = self.reconstruction(torch.cat([a, h], 1)) + self.skipup1["upsample_conv"](light[:, 0])
        return self.conv_last(F.leaky_relu(self.conv_hr(y), 0.1))
