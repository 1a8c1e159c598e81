"""A judge of generated scenes: a segmenter and classifier trained apart from any diffusion model."""

import torch
from torch import nn
from torch.nn import functional

from mtdiff_datasets.scenes import Scenes

STEPS, BATCH = 1200, 64


def scenes(split):
    """The recipes' scenes: fields ``image`` and ``night`` (N, 3, 32, 32) in 0..1, ``label`` and ``segmentation``."""
    samples = Scenes().open(split)
    rows = [samples[i] for i in range(len(samples))]
    fields = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    return {name: x.float() / 255 if name in ("image", "night") else x.long() for name, x in fields.items()}


def layer(inputs, outputs, stride=1):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(),
    )  # fmt: skip


class SceneJudge(nn.Module):
    """Classes of pixels and of the whole, of 32x32 scenes by day in 0..1."""

    def __init__(self, categories, classes):
        super().__init__()
        self.full = layer(3, 24)
        self.middle = nn.Sequential(layer(24, 48, stride=2), layer(48, 48))
        self.coarse = nn.Sequential(layer(48, 96, stride=2), layer(96, 96))
        self.up_half, self.up_full = layer(96 + 48, 48), layer(48 + 24, 24)
        self.pixels = nn.Conv2d(24, categories, 1)
        self.whole = nn.Linear(96, classes)

    def forward(self, images):
        """Logits of pixels (N, K, 32, 32) and of the whole (N, L)."""
        full = self.full(images)
        middle = self.middle(full)
        coarse = self.coarse(middle)
        up = self.up_half(torch.cat([functional.interpolate(coarse, scale_factor=2), middle], dim=1))
        up = self.up_full(torch.cat([functional.interpolate(up, scale_factor=2), full], dim=1))
        return self.pixels(up), self.whole(coarse.amax(dim=(2, 3)))

    @torch.inference_mode()
    def segmentation(self, images):
        """Its opinion, (N, 32, 32)."""
        return self(images)[0].argmax(dim=1)

    @torch.inference_mode()
    def labels(self, images):
        """Its opinion, (N,)."""
        return self(images)[1].argmax(dim=1)


def train_scene_judge(data, seed=0):
    """Train a judge on real scenes, mirrored at random."""
    torch.manual_seed(seed)
    judge = SceneJudge(int(data["segmentation"].max()) + 1, int(data["label"].max()) + 1)
    optimizer = torch.optim.AdamW(judge.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=STEPS)
    for _ in range(STEPS):
        rows = torch.randint(len(data["image"]), (BATCH,))
        images, maps = data["image"][rows], data["segmentation"][rows]
        if torch.rand(()) < 0.5:
            images, maps = images.flip(-1), maps.flip(-1)
        pixels, whole = judge(images)
        loss = functional.cross_entropy(pixels, maps) + 0.3 * functional.cross_entropy(whole, data["label"][rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return judge.eval()


def mean_iou(found, truth):
    """Mean over classes, that are in either, of intersection over union, of maps (N, H, W)."""
    shares = []
    for one in torch.cat([found, truth]).unique().tolist():
        a, b = found == one, truth == one
        shares.append((a & b).sum() / (a | b).sum())
    return torch.stack(shares).mean().item()
