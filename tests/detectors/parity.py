"""What tests of reference-size detectors share: torchvision's models with discriminating weights, pictures, targets."""

import torch
from torchvision.models import detection

from lessons.published import renamed

# photographs' sizes: none square, none a multiple of 32, upright and lying, of two scales
SIZES = [(150, 203), (211, 140), (97, 260), (173, 181), (240, 111), (130, 190)]


def reference(name, last_layers, seed=0, **options):
    """torchvision's untrained model, alive: normalisation fits pictures, no channel is like another, heads spread.

    last_layers: beginnings of names, and what weights of such names are multiplied by. With untouched statistics
    everything behind fifty layers would be nearly 0, and models would agree on nothing.
    """
    torch.manual_seed(seed)
    model = getattr(detection, name)(weights=None, weights_backbone=None, **options)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            if (".bn" in key or "downsample.1" in key) and key.endswith(("weight", "bias")):
                tensor += 0.4 * torch.rand(tensor.shape, generator=generator) - 0.2
            for prefix, factor in last_layers.items():
                if key.startswith(prefix) and key.endswith("weight"):
                    tensor *= factor
        for module in model.backbone.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
        model.backbone.train()(torch.stack(photographs([(128, 160)] * 3, torch.float32, seed=9)) * 4 - 2)
    return model


def photographs(sizes=None, dtype=torch.float64, seed=0):
    """Blobs of colour and noise, in [0, 1]."""
    generator = torch.Generator().manual_seed(seed)
    pictures = []
    for height, width in SIZES if sizes is None else sizes:
        coarse = torch.rand(1, 3, 7, 9, generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")[0]
        pictures.append((smooth + 0.1 * torch.randn(smooth.shape, generator=generator)).clamp(0, 1).to(dtype))
    return pictures


def targets_for(images, seed=0, num_classes=91, counts=None):
    """Objects for every picture; by default none in the second."""
    generator = torch.Generator().manual_seed(seed)
    targets = []
    for i, image in enumerate(images):
        count = (0 if i == 1 else 3 + i % 3) if counts is None else counts[i]
        height, width = image.shape[-2:]
        corner = torch.rand(count, 2, generator=generator) * torch.tensor([width * 0.5, height * 0.5])
        side = 12 + torch.rand(count, 2, generator=generator) * torch.tensor([width * 0.5 - 14, height * 0.5 - 14])
        boxes = torch.cat([corner, corner + side], dim=1)
        masks = torch.zeros(count, height, width, dtype=torch.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.int().tolist(), strict=True):
            mask[y1:y2, x1:x2] = torch.rand(y2 - y1, x2 - x1, generator=generator) > 0.3
        points = corner[:, None] + torch.rand(count, 17, 2, generator=generator) * side[:, None]
        visible = torch.randint(0, 3, (count, 17, 1), generator=generator)
        targets.append({"boxes": boxes.to(image.dtype), "masks": masks,
                        "labels": torch.randint(1, num_classes, (count,), generator=generator),
                        "keypoints": torch.cat([points, visible], dim=2).float()})
    return targets


def intermediate(model, names):
    """Records what the named modules return: a dict that fills while the model runs."""
    seen = {}
    for name in names:
        model.get_submodule(name).register_forward_hook(
            lambda module, arguments, result, name=name: seen.setdefault(name, []).append(result))
    return seen


def assert_same_detections(found, expected, pixels=1e-3, score=1e-6):
    """Every detection of every picture, in the same order, with everything that it carries."""
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.keys() == theirs.keys()
        assert torch.equal(mine["labels"], theirs["labels"])
        torch.testing.assert_close(mine["boxes"], theirs["boxes"], rtol=0, atol=pixels)
        torch.testing.assert_close(mine["scores"], theirs["scores"], rtol=0, atol=score)
        for key in ("masks", "keypoints", "keypoints_scores"):
            if key in theirs:
                tolerance = pixels if key == "keypoints" else 1e-5
                torch.testing.assert_close(mine[key], theirs[key], rtol=0, atol=tolerance)


def assert_same_step(pair, images, targets, single=()):
    """Losses within 1e-9 and every gradient of one training step from one seed, so that the same samples are drawn.

    single: losses that torchvision reckons in single precision, compared within 1e-6. pair: our model, torchvision's.
    """
    (found, gradients), (wanted, expected) = (one_step(model, images, targets) for model in pair)
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=1e-6 if key in single else 1e-9, check_dtype=False)
    expected = renamed(expected)
    assert gradients.keys() == expected.keys()
    for key, gradient in expected.items():
        torch.testing.assert_close(gradients[key], gradient, rtol=1e-6, atol=1e-9)


def one_step(model, images, targets):
    """Losses and gradients of a step; afterwards the model is what it was."""
    state = {key: value.clone() for key, value in model.state_dict().items()}
    torch.manual_seed(7)
    losses = model.train()(images, [dict(target) for target in targets])
    model.zero_grad()
    sum(losses.values()).backward()
    model.load_state_dict(state)
    model.eval()
    return losses, {key: parameter.grad for key, parameter in model.named_parameters()}
