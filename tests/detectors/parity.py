"""What tests of reference-size detectors share: comparing ours with torchvision's, and the names of older files."""

import re

import torch

from benchmarks.alive import layers_of, one_step, recorded
from lessons.published import renamed

# torchvision's names of today, and of the files that it published
OLD_NAMES = [(r"^(backbone\.fpn\.\w+_blocks\.\d)\.0\.", r"\1."), (r"^rpn\.head\.conv\.0\.0\.", "rpn.head.conv."),
             (r"^roi_heads\.mask_head\.(\d)\.0\.", lambda m: f"roi_heads.mask_head.mask_fcn{int(m[1]) + 1}."),
             (r"^(head\.\w+_head\.conv)\.(\d)\.0\.", lambda m: f"{m[1]}.{2 * int(m[2])}.")]


def with_old_names(state, tracked):
    """The state dict as torchvision's older versions wrote it, with num_batches_tracked or without."""
    old = {}
    for key, tensor in state.items():
        for pattern, name in OLD_NAMES:
            key = re.sub(pattern, name, key)
        if tracked or not key.endswith("num_batches_tracked"):
            old[key] = tensor
    return old


def assert_same_inside_and_out(mine, theirs, images):
    """Every layer's result within 1e-9 and every detection; returns ours, for a test to see that they say something."""
    layers = layers_of(theirs)
    with torch.no_grad(), recorded(mine, layers) as seen, recorded(theirs, layers.values()) as expected:
        found, wanted = mine(images), theirs(images)
    assert {key.rpartition(".")[0] for key, _ in mine.named_parameters()} == seen.keys()
    for ours, other in layers.items():
        torch.testing.assert_close(seen[ours], expected[other], rtol=0, atol=1e-9)
    assert_same_detections(found, wanted)
    return found


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


def assert_same_step(pair, images, targets, single=(), tolerance=1e-9):
    """Losses within 1e-9 and every gradient of one training step from one seed, so that the same samples are drawn.

    single: losses that torchvision reckons in single precision, compared within 1e-6. pair: our model, the reference.
    tolerance: another than 1e-9, for single precision; gradients then in parts of their tensor's largest, if above 1.
    """
    (found, gradients), (wanted, expected) = (one_step(model, images, targets) for model in pair)
    assert found.keys() == wanted.keys()
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, rtol=0, atol=1e-6 if key in single else tolerance, check_dtype=False)
    expected = renamed(expected)
    assert gradients.keys() == expected.keys()
    for key, gradient in expected.items():
        size = gradient.abs().max().clamp(min=1) if tolerance > 1e-9 else 1
        torch.testing.assert_close(gradients[key] / size, gradient / size, rtol=1e-6, atol=tolerance)
