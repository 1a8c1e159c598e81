"""A judge of generated digits: a classifier trained apart from any diffusion model, and a distance in its features."""

import math

import torch
from torch import nn
from torch.nn import functional

EPOCHS, BATCH = 60, 64
FEATURES = 64


class Judge(nn.Module):
    """A small convolutional classifier of 16x16 digits in 0..1."""

    def __init__(self):
        super().__init__()

        def layer(inputs, outputs):
            return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())

        self.features = nn.Sequential(
            layer(1, 32), layer(32, 32), nn.MaxPool2d(2), layer(32, 64), layer(64, 64), nn.AdaptiveAvgPool2d(2),
            nn.Flatten(), nn.Dropout(0.3), nn.Linear(256, FEATURES), nn.ReLU(),
        )  # fmt: skip
        self.classify = nn.Linear(FEATURES, 10)

    def forward(self, images):
        return self.classify(self.features(images))

    @torch.inference_mode()
    def labels(self, images):
        """Its opinion, (N,)."""
        return self(images).argmax(dim=1)


def distorted(images):
    """Images turned, sheared, scaled and shifted a little."""
    n = len(images)
    angle, shear, size = ((torch.rand(3, n) - 0.5) * torch.tensor([[0.5], [0.4], [0.3]])).unbind()
    cos, sin, scale = angle.cos(), angle.sin(), 1 + size
    shift = (torch.rand(2, n) - 0.5) * 0.25
    rows = [
        torch.stack([cos * scale, shear - sin * scale, shift[0]]),
        torch.stack([sin * scale, cos * scale, shift[1]]),
    ]
    grid = functional.affine_grid(torch.stack(rows).permute(2, 0, 1), list(images.shape), align_corners=False)
    return functional.grid_sample(images * 2 - 1, grid, padding_mode="border", align_corners=False) / 2 + 0.5


def train_judge(images, labels, seed=0, batches=None, augment=distorted):
    """Train a judge on real digits for 60 epochs or so many batches."""
    torch.manual_seed(seed)
    judge = Judge()
    optimizer = torch.optim.AdamW(judge.parameters(), weight_decay=1e-2)
    epochs = math.ceil((batches or EPOCHS * math.ceil(len(images) / BATCH)) / math.ceil(len(images) / BATCH))
    steps = epochs * math.ceil(len(images) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(BATCH):
            logits = judge(augment(images[rows]))
            loss = functional.cross_entropy(logits, labels[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return judge.eval()


@torch.inference_mode()
def frechet_distance(judge, first, second):
    """Between normal distributions fitted to the judge's features of two sets of images."""
    a, b = (judge.features(images).double() for images in (first, second))
    return frechet_distance_of_features(a, b)


def frechet_distance_of_features(a, b):
    """``|mu_a - mu_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))`` of features (N, F) and (M, F)."""
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    # The eigenvalues of a product of two covariances are real and not negative.
    root_trace = torch.linalg.eigvals(cov_a @ cov_b).real.clamp(min=0).sqrt().sum()
    distance = (a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * root_trace
    return distance.item()
