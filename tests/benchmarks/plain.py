"""The plain forms that the fast ones are measured against: the same results, every formula as it is written down."""
import torch
import torch.nn.functional as F

from debir_nb import burstormer
from debir_nb.core import FRAME_TIME
from debir_nb.degradation import burst_gains, iso_noise, standard_normal
from debir_nb.raw import sample_cfa
from debir_nb.simulator import timeline


def literal_exposure(radiance, start, stop):
    "Eq. (7), mended: every tick of the exposure, weighted by how much of it the exposure holds; (b t ...), (b n) in s -> (b n ...)."
    frames = []
    for scene, begins, ends in zip(radiance, start/FRAME_TIME, stop/FRAME_TIME):
        for begin, end in zip(begins, ends):
            total = 0
            for k in range(int(begin), int(end.ceil())): total = total + (end.clamp(max=k + 1) - begin.clamp(min=k))*scene[k]
            frames.append(total/(end - begin))
    return torch.stack(frames).unflatten(0, start.shape)


def literal_burst(radiance, exposures, preview_gain, generator):
    "Eqs. (4)-(8) in their order, from colour radiance (b t 3 H W): sum over ticks, colour filter array, noise, clipping."
    raw = sample_cfa(literal_exposure(radiance, *timeline(exposures)).flatten(0, 1)).unflatten(0, exposures.shape)
    shot, read = (x[..., None, None, None] for x in iso_noise(burst_gains(exposures, preview_gain)))
    return (raw + (read + shot*raw.clamp(min=0)).sqrt()*standard_normal(raw, generator)).clamp(0, 1)


class ChannelNorm(burstormer.ChannelNorm):
    def forward(self, x):
        y = x.flatten(2).transpose(1, 2)
        mean, variance = y.mean(-1, keepdim=True), y.var(-1, keepdim=True, unbiased=False)
        return ((y - mean)/torch.sqrt(variance + 1e-5)*self.body.weight + self.body.bias).transpose(1, 2).unflatten(2, x.shape[2:])


class ChannelAttention(burstormer.ChannelAttention):
    def forward(self, x):
        q, k = self.qk_dwconv(self.qk(x)).chunk(2, 1)
        q, k, v = (t.flatten(2).unflatten(1, (self.heads, -1)) for t in (q, k, self.v_dwconv(self.v(x))))
        attention = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT*self.temperature).softmax(-1)
        return self.project_out((attention @ v).flatten(1, 2).unflatten(2, x.shape[2:]))


class GatedFeedForward(burstormer.GatedFeedForward):
    def forward(self, x):
        gate, value = self.dwconv(self.project_in(x)).chunk(2, 1)
        return self.project_out(F.gelu(gate)*value)


class BurstFeatureAttention(burstormer.BurstFeatureAttention):
    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.ffn(self.norm2(x))


class Alignment(burstormer.Alignment):
    def forward(self, x, coarser=None):
        clue = self.bottleneck(torch.cat([x[:, :1].expand_as(x), x], 2).flatten(0, 1)).unflatten(0, x.shape[:2])
        if coarser is not None: clue = self.bottleneck_o(torch.cat([coarser, clue], 2).flatten(0, 1)).unflatten(0, x.shape[:2])
        offset, mask = self.offset_conv(clue[:, 1:].flatten(0, 1)).split([144, 72], 1)
        moved = deform_conv(x[:, 1:].flatten(0, 1), offset, mask.sigmoid(), self.deform.weight, self.deform.bias, 2)
        return self.back_projection(torch.cat([x[:, :1], moved.view_as(x[:, 1:])], 1)), clue


def deform_conv(x, offset, mask, weight, bias, dilation):
    "Deformable convolution by one grid_sample, of as many channel groups as offset groups."
    (m, c, h, w), (_, c_in, kh, kw) = x.shape, weight.shape
    groups, taps = c//c_in, kh*kw
    dy, dx = offset.reshape(m*groups, kh, kw, 2, h, w).unbind(3)
    y = dy + dilation*(torch.arange(kh) - kh//2).view(-1, 1, 1, 1) + torch.arange(h).view(-1, 1)
    x_ = dx + dilation*(torch.arange(kw) - kw//2).view(-1, 1, 1) + torch.arange(w)
    grid = torch.stack([(2*x_ + 1)/w - 1, (2*y + 1)/h - 1], -1).view(m*groups, taps*h, w, 2)
    seen = F.grid_sample(x.reshape(m*groups, c_in, h, w), grid.to(x.dtype), align_corners=False).view(m*groups, c_in, taps, h*w)
    seen = (seen*mask.reshape(m*groups, 1, taps, h*w)).view(m, groups, c_in*taps, h*w)
    return (weight.view(groups, -1, c_in*taps) @ seen).view(m, -1, h, w) + bias.view(-1, 1, 1)


def plain(net):
    "A Burstormer, its layers replaced in place by the plain ones; weights and results stay."
    for module in net.modules():
        for own in (ChannelNorm, ChannelAttention, GatedFeedForward, BurstFeatureAttention, Alignment):
            if type(module) is own.__mro__[1]: module.__class__ = own
    return net
