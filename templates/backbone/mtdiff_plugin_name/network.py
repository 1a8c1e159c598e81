"""The network. Letters for shapes: B batch, C channels of the space, F feature channels, H W height and width."""

import torch
from torch import nn
from torch.nn.functional import avg_pool2d

from mtdiff_core import Features
from mtdiff_core.codecs import group_norm


class Network(nn.Module):
    """``forward(z, log_snr, context) -> Features``."""

    def __init__(self, channels, blocks, space, context):
        super().__init__()
        self.enter = nn.Conv2d(space[0] + context.channels, channels, 3, padding=1)
        self.told = nn.Sequential(nn.Linear(2 + context.flags, channels), nn.SiLU(), nn.Linear(channels, channels))
        self.blocks = nn.ModuleList(
            nn.Sequential(
                group_norm(channels),
                nn.SiLU(),
                nn.Conv2d(channels, channels, 3, padding=2**number, dilation=2**number),
                nn.SiLU(),
                nn.Conv2d(channels, channels, 1),
            )
            for number in range(blocks)
        )

    def forward(self, z, log_snr, context):  # (B, C, H, W), (B,): the log-SNR may be infinite
        signal = torch.sigmoid(log_snr)
        levels = torch.stack([signal.sqrt(), (1 - signal).sqrt()], dim=1)
        told = self.told(torch.cat([levels, context.flags], dim=1))  # (B, F)
        features = self.enter(torch.cat([z, context.observed], dim=1))  # (B, F, H, W)
        for block in self.blocks:
            features = features + block(features + told[:, :, None, None])
        coarse = avg_pool2d(features, 2, ceil_mode=True)
        return Features(map=features, bottleneck=coarse, pooled=features.mean(dim=(2, 3)))
