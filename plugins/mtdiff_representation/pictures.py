"""Pictures as the image modality reads and prepares them: model values are float32 -1..1, ``(B, C, H, W)``."""

from __future__ import annotations

from mtdiff_image.modality import Image

PICTURES = Image()  # type: ignore[call-arg] # mypy does not see the defaults that option() declares
