"""Autoencoders of the diffusers library, small and with random weights."""

import diffusers
import torch


def small_autoencoder(folder, channels):
    """Write one that makes a latent of 2x2 pixels, and say where."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        diffusers.AutoencoderKL(
            in_channels=channels,
            out_channels=channels,
            latent_channels=2,
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=4,
        ).save_pretrained(folder)
    return folder
