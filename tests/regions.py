"""What the tests of pooling share: feature maps and regions of interest of every kind."""

import torch


def random_features(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def random_rois(count, images=2, size=(100, 140), seed=0, dtype=torch.float32, flat=True):
    """Boxes of all sizes, half outside the image and wholly outside, and, if flat, without area: (N, 5)."""
    generator = torch.Generator().manual_seed(seed)
    limit = torch.tensor([size[1], size[0]], dtype=torch.float64)
    corner = (torch.rand(count, 2, generator=generator, dtype=torch.float64) * 1.6 - 0.3) * limit
    side = torch.rand(count, 2, generator=generator, dtype=torch.float64) ** 2 * limit
    if flat:
        side[::7] = 0
        side[3::7] *= 0.05
    image = torch.randint(images, (count, 1), generator=generator)
    return torch.cat([image, corner, corner + side], dim=1).to(dtype)
