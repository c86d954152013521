# ---
# jupyter:
#   jupytext:
#     formats: ipynb,src//py:percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 03 · SPPnet: convolve once, pool anywhere
#
# R-CNN sends two thousand crops through its network, although they all come from one image and overlap. SPPnet turns the order round:
# **first convolve the whole image, then cut the regions out of the feature map.** One difficulty stands in the way: regions have all sizes, fully connected
# layers want one. A pyramid of maxima removes it.
#
# You build the pyramid, the mapping from pixels to cells, the detector, and count what is saved.
#
# *Everything runs offline on a laptop; the whole notebook takes about 60 seconds. Run the cells from top to bottom.*

# %%
import torch

from utils.setup import setup

context = setup("03", seed=0)

# %% [markdown]
# ## 0 First result
#
# A finished SPPnet on new scenes. Its convolutions saw each scene *once*; all boxes were read off one map of 20 × 20 cells.

# %%
from lessons import zoo
from lessons.data.scenes import CLASSES, Scenes
from lessons.proposals import selective_search

detector = zoo.load("sppnet", weights="lesson")
validation = Scenes("val", length=200)
shown = [validation[i] for i in (5, 6, 13, 22)]
proposals = [selective_search(image)[:200] for image, _ in shown]
detections = [detector.detect(image, *detector.regions(image, boxes)) for (image, _), boxes in zip(shown, proposals)]

# %%
from utils.figures import detections_figure, show

figure = detections_figure([image for image, _ in shown], detections, CLASSES, threshold=-0.4, title="SPPnet on four new scenes")
show(figure, alt="Four composed photographs with the SPPnet's boxes, class names and scores.")

# %% [markdown]
# ## 1 The paper
#
# | | |
# |---|---|
# | Title | *Spatial Pyramid Pooling in Deep Convolutional Networks for Visual Recognition* |
# | Authors | Kaiming He, Xiangyu Zhang, Shaoqing Ren, Jian Sun (Microsoft Research) |
# | Venue | ECCV 2014; longer version in TPAMI 2015 (arXiv 1406.4729) |
# | Task | image classification and object detection |
#
# **Background.** Networks of the time took pictures of one size only. Crop or warp the picture, and you lose parts or bend shapes. Bags of visual words had solved this long before,
# with spatial pyramids: count features in the quarters and sixteenths of the picture. **Problem.** Which layer of a CNN needs a fixed size, and can it be helped?
#
# **Contributions.** (1) A pooling layer that gives a vector of fixed length for a map of any size. (2) Training with pictures of several sizes. (3) Detection with *one*
# pass of the convolutions for all proposals: by the abstract 24 to 102 times faster than R-CNN at testing, at better or comparable accuracy (section 5 takes the two numbers apart).
# (In ILSVRC 2014: second in detection, third in classification.)

# %% [markdown]
# ## 2 The method in one picture
#
# ```mermaid
# %%{init: {"theme": "neutral"}}%%
# flowchart LR
#     accTitle: Detection with SPPnet
#     accDescr: The image goes through the convolutions once. Selective Search proposes windows. Each window is mapped onto the feature map and pooled into a pyramid of 6 by 6, 3 by 3, 2 by 2 and 1 bins; fully connected layers, one SVM per class and box regression follow as in R-CNN.
#     A["image"] --> B["convolutions,<br/>once"]
#     B --> C["feature map"]
#     A --> P["Selective Search<br/>windows"]
#     P --> D
#     C --> D["spatial pyramid:<br/>6×6 + 3×3 + 2×2 + 1<br/>maxima of each window"]
#     D --> E["fc6 → fc7"]
#     E --> F["one SVM per class"]
#     D --> G["box regression"]
#     F --> H["NMS, boxes"]
#     G --> H
# ```
#
# (These 50 bins are the paper's for detection, section 4.1, and ours. Its figure of the pyramid has 4 × 4, 2 × 2 and 1, 21 bins, to illustrate.) Compare with R-CNN: "warp" and "CNN" have changed places.
# Everything after fc7 is R-CNN's, in our code literally the same functions.

# %% [markdown]
# ## 3 Building it, step by step
#
# ### 3.1 Which layer wants a fixed size?
#
# *Question.* Give a network a picture of another size. Which layer complains first? **Predict**, then run.

# %%
# NBVAL_CHECK_OUTPUT
from torch import nn

body = detector.backbone
maps = {}
with torch.no_grad():
    for size in ((64, 64), (96, 72), (160, 120)):
        maps[size] = body(torch.rand(1, 3, *size, generator=context.generator))[0]
        print(f"picture {size}: map of {tuple(maps[size].shape[1:])}, {maps[size].numel():6,d} numbers")
fully_connected = nn.Linear(144 * 8 * 8, 10)
for size, one in maps.items():
    try:
        fully_connected(one.flatten(1))
        print(f"fully connected layer: {size} is welcome")
    except RuntimeError as error:
        print(f"fully connected layer: {size} is refused ({str(error)[:38]}...)")

# %% [markdown]
# Convolutions slide; they do not mind. Only the first *fully connected* layer has a weight for each place. So the fix belongs between the two.
#
# ### 3.2 A pyramid of maxima
#
# Divide the map into n × n windows, whatever its size, and keep each channel's maximum in each. Do that for a few n, and put the results in one row. By hand on a map of
# one channel and 5 × 7 cells. **Predict** the length for the levels 2 and 1.
#
# (The paper has two rules for the windows. Here is the one for training on one size: along a side of a cells, windows of ⌈a / n⌉ cells every ⌊a / n⌋. Where the division leaves more than one cell over, it never sees
# the last ones: with 7 cells and 4 bins the last two. The other rule, for windows of any size, comes in 3.3 and leaves out none.)

# %%
# NBVAL_CHECK_OUTPUT
tiny = torch.arange(35.0).reshape(1, 1, 5, 7)
tiny[0, 0, 0, 0] = 99
windows = [(slice(0, 3), slice(0, 4)), (slice(0, 3), slice(3, 7)), (slice(2, 5), slice(0, 4)), (slice(2, 5), slice(3, 7))]  # ceil(5/2) = 3 rows every floor(5/2) = 2
by_hand = [tiny[0, 0, rows, columns].max().item() for rows, columns in windows] + [tiny.max().item()]
print(by_hand)

# %% tags=["nbval-ignore-output"]
from lessons.roi import spatial_pyramid_pool
from utils.source import show_source

show_source(spatial_pyramid_pool)

# %%
torch.testing.assert_close(spatial_pyramid_pool(tiny, (2, 1))[0], torch.tensor(by_hand))

# %% [markdown]
# The length depends on the levels and the channels alone: $(4^2 + 2^2 + 1^2) \cdot k = 21 k$ in the paper's figure, with k = 256 channels 5,376 numbers. Ours has 144 channels and the levels 6, 3, 2, 1:

# %%
# NBVAL_CHECK_OUTPUT
for size, one in maps.items():
    print(f"picture {str(size):10s} map {str(tuple(one.shape[2:])):8s} vector of {spatial_pyramid_pool(one, (6, 3, 2, 1)).shape[1]:,}")
lengths = {spatial_pyramid_pool(torch.rand(1, 144, h, w), (6, 3, 2, 1)).shape[1] for h in range(1, 12) for w in range(1, 12)}
print("maps of 1 x 1 to 11 x 11 cells give vectors of", lengths)
assert lengths == {50 * 144}

# %% [markdown]
# ### 3.3 From pixels to cells
#
# For detection the pyramid stands on a *window* of the map. A proposal is given in pixels; the map has one cell for every S = 8. Which cells are the window's?
# With padding at each convolution, the middle of what cell i sees is pixel S · i. SPPnet takes the cells whose middle lies *inside* the window, strictly between its edges: from $\lfloor x_1 / S \rfloor + 1$
# to $\lceil x_2 / S \rceil - 1$. To a window so small that no cell is left we give the one nearest to its centre (the paper names no such guard).

# %%
# NBVAL_CHECK_OUTPUT
import math

from lessons.roi import cells_between

window, stride = (37.0, 20.0, 90.0, 71.0), 8
by_hand = [(math.floor(low / stride) + 1, math.ceil(high / stride) - 1) for low, high in ((37, 90), (20, 71))]
first, size = cells_between(torch.tensor([window]) / stride)
print("columns and rows by hand", by_hand, "by the library, first", first[0].tolist(), "how many", size[0].tolist())
assert first[0].tolist() == [low for low, _ in by_hand]
assert size[0].tolist() == [high - low + 1 for low, high in by_hand]

# %% [markdown]
# Bin i of n then spans the cells $\lfloor i \cdot s / n \rfloor$ to $\lceil (i + 1) \cdot s / n \rceil$ of a window of s cells. Floor and ceil together: no cell is left out, no bin is empty, and
# neighbours may share a cell. (The paper's second rule, its appendix A, for applying the network; that of 3.2 is for training.) As a loop, against the library, on the map of the first scene:

# %%
from lessons.images import normalise
from lessons.roi import roi_spatial_pyramid_pool

scene, scene_target = shown[0]
with torch.no_grad():
    feature = body(normalise(scene)[None])[0]  # (1, 144, 20, 20)

by_loops = []
for n in (4, 2, 1):
    (x, y), (width, height) = first[0].int().tolist(), size[0].int().tolist()
    level = torch.zeros(144, n, n)
    for i in range(n):
        for j in range(n):
            rows = slice(y + math.floor(i * height / n), y + math.ceil((i + 1) * height / n))
            columns = slice(x + math.floor(j * width / n), x + math.ceil((j + 1) * width / n))
            level[:, i, j] = feature[0, :, rows, columns].amax(dim=(1, 2))
    by_loops.append(level.flatten())
pooled = roi_spatial_pyramid_pool(feature, [torch.tensor([window])], (4, 2, 1), 1 / stride)
torch.testing.assert_close(pooled[0], torch.cat(by_loops))

# %% [markdown]
# ### 3.4 Pull the window about
#
# Drag the window, make it thin, make it tiny; switch levels and channels. What changes? What never does?

# %% tags=["widget", "nbval-ignore-output"]
from utils.widgets import PyramidExplorer

best_channel = int(feature[0].amax(dim=(1, 2)).argmax())
pyramid = PyramidExplorer(scene, feature[0], scene_target["boxes"][0].tolist(), levels=(4, 2, 1), stride=8, channel=best_channel)
pyramid

# %% tags=["static"]
show(pyramid.static(), alt="A window on a photograph with its 4 by 4, 2 by 2 and 1 by 1 bins, and below each the pooled values of one channel.")

# %% [markdown]
# ### 3.5 One pass for all windows
#
# The whole of SPPnet's difference to R-CNN is one method. Read it: pictures go through the backbone, windows through the pyramid.

# %% tags=["nbval-ignore-output"]
from lessons.detectors.sppnet import SPPNet

show_source(SPPNet.pool, SPPNet.describe)

# %%
# NBVAL_CHECK_OUTPUT
passes = []
hook = body.register_forward_hook(lambda *_: passes.append(1))
with torch.no_grad():
    features = detector.features(scene, proposals[0])
hook.remove()
one_by_one = torch.cat([roi_spatial_pyramid_pool(feature, [box[None]], detector.levels, 1 / 8) for box in proposals[0][:50]])
torch.testing.assert_close(features.pool5[:50], one_by_one)
print(f"{len(proposals[0])} windows, {len(passes)} pass of the convolutions; pyramids {tuple(features.pool5.shape)}, fc7 {tuple(features.fc7.shape)}")

# %% [markdown]
# ### 3.6 What is saved
#
# Count multiply-adds exactly, with the *same* network both ways: each of N regions warped to 64 × 64 pixels and convolved on its own (R-CNN), or the image convolved once and N windows pooled (SPPnet).
# The fully connected layers work once for each region in both. **Predict:** how does the ratio grow with N?

# %%
# NBVAL_CHECK_OUTPUT
from lessons.costs import count_multiply_adds

one_crop = count_multiply_adds(body, torch.zeros(1, 3, 64, 64))
one_image = count_multiply_adds(body, torch.zeros(1, 3, 160, 160))
one_region = count_multiply_adds(lambda pooled: detector.describe(pooled), torch.zeros(1, 50 * 144))
print(f"millions of multiply-adds: a crop {one_crop / 1e6:.1f}, the image {one_image / 1e6:.1f}, fc6 and fc7 of a region {one_region / 1e6:.2f}")
numbers_of = (1, 4, 16, 64, 200, 500, 2000)
separately = [n * (one_crop + one_region) for n in numbers_of]
shared = [one_image + n * one_region for n in numbers_of]
ratios = [a / b for a, b in zip(separately, shared)]
for n, a, b, ratio in zip(numbers_of, separately, shared, ratios):
    print(f"{n:5d} regions: separately {a / 1e6:10,.0f} M, shared {b / 1e6:7,.0f} M, ratio {ratio:6.1f}")
assert all(later > earlier for earlier, later in zip(ratios, ratios[1:]))

# %%
from utils.figures import curves_figure

figure = curves_figure(numbers_of, {"each region on its own": [a / 1e6 for a in separately], "shared map": [b / 1e6 for b in shared], "convolutions of the image alone": [one_image / 1e6] * len(numbers_of)},
                       xlabel="regions", ylabel="millions of multiply-adds", title="The price of N regions", log_x=True)
figure.axes[0].set_yscale("log")
show(figure, alt="Multiply-adds against number of regions on logarithmic axes: separate crops rise in proportion; the shared map is flat until some hundred regions, then the fully connected layers make it rise.")

# %% [markdown]
# At first the ratio grows in proportion to N; then it bends, because something is left that is *not* shared: fc6 and fc7 still run once for each region. Remember that for the next notebook, which attacks
# exactly these two layers. Counts are exact; clocks depend on the machine. Here is yours, without the proposals. ("Each on its own" only warps and convolves here, without fc6 and fc7: if anything, that is too kind to it.)

# %% tags=["nbval-ignore-output"]
import time

from lessons.detectors.rcnn import warp_crops

with torch.no_grad():
    began = time.perf_counter()
    detector.features(scene, proposals[0])
    together = time.perf_counter() - began
    began = time.perf_counter()
    body(normalise(warp_crops(scene, proposals[0], 64)))
    apart = time.perf_counter() - began
print(f"{len(proposals[0])} regions: shared {together * 1000:.0f} ms, each on its own {apart * 1000:.0f} ms")

# %% [markdown]
# ### 3.7 Several scales
#
# A small window has few cells: 24 pixels are two or three. SPPnet therefore looks at the image at several scales (five in the paper: short sides of 480, 576, 688, 864 and 1200 pixels) and takes each window from the one
# at which its area is nearest to that of a training picture. A pass of the convolutions more for each scale, still none for a window.

# %%
# NBVAL_CHECK_OUTPUT
from lessons.detectors.sppnet import nearest_scale

boxes = torch.tensor([[0.0, 0, 16, 16], [0, 0, 30, 40], [0, 0, 64, 64], [0, 0, 120, 90]])
at_scales = torch.stack([boxes, boxes * 2, boxes * 3])
by_hand = [min(range(3), key=lambda s: abs(w * h * (s + 1) ** 2 - 64**2)) for w, h in boxes[:, 2:].tolist()]
assert nearest_scale(at_scales, 64).tolist() == by_hand
print("factors 1, 2, 3; chosen for the four boxes:", [s + 1 for s in by_hand])

# %% [markdown]
# (Our shipped detector looks at one scale only, to be quick. Exercise 4 gives it a second one.)
#
# ## 4 Training
#
# The stages are R-CNN's: fine-tune a classifier of regions, then fit SVMs and box regression. The main difference: **the convolutions stay as they were pre-trained.** SPPnet's
# fine-tuning ends at the pyramid. (Two smaller ones of the paper, section 4.1, we do not follow: in fine-tuning, background has an IoU in [0.1, 0.5); and an SVM's negative that overlaps another by more than
# 70 % is dropped.) Here on 30 scenes (about 20 s; Selective Search takes half of it):

# %% tags=["nbval-ignore-output"]
from lessons.detection_training import open_with_proposals
from lessons.recipes import rcnn as stages
from lessons.recipes import sppnet as recipe
from lessons.recipes.small_resnet import start_from_pre_trained
from utils.live import LiveCurve

training = open_with_proposals("scenes", 30, 200)
model = recipe.build()
start_from_pre_trained(model.backbone.body)
before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
history = stages.fine_tune(model, training, steps=60, callbacks=[LiveCurve("Fine-tuning fc6 and fc7: cross-entropy of 32 objects and 96 backgrounds")])

# %%
# NBVAL_CHECK_OUTPUT
changed = sorted({name.split(".")[0] for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])})
print("fine-tuning changed", changed)
assert changed == ["fc6", "fc7", "fc8"]

# %% tags=["nbval-ignore-output"]
training.transform = None  # no mirroring
stages.fit(model, training, progress=False)  # one SVM and one box regression per class
model.eval()
found = [model.detect(image, *model.regions(image, boxes)) for (image, _), boxes in zip(shown, proposals)]

# %%
figure = detections_figure([image for image, _ in shown], found, CLASSES, threshold=-0.75, title="After some seconds of training on 30 scenes")
show(figure, alt="The four scenes of section 0 with the detections of the briefly trained SPPnet.")

# %% [markdown]
# ## 5 Results
#
# **The paper's numbers.** The abstract: 24 to 102 times faster than R-CNN at testing, better or comparable accuracy on PASCAL VOC 2007. The two ends do not belong together (sections 4.2 and 4.3; features on a GPU, without proposals).
# With the same network for both (ZF-5), *one* scale is 102 times faster and 1.2 points of mAP worse; *five* scales are 38 times faster, at comparable mAP. The 24 is five scales against R-CNN with its own, faster AlexNet. In mAP:
# five scales 59.2, one scale 58.0, R-CNN with AlexNet 58.5.
#
# The Fast R-CNN paper (Table 4) measured R-CNN and SPPnet side by side with VGG16:
#
# | VOC 2007, VGG16 | R-CNN | SPPnet |
# |---|---|---|
# | training, hours | 84 | 25 |
# | testing, seconds for an image (without proposals) | 47.0 | 2.3 |
# | mAP, percent | 66.0 | 63.1 |
#
# With so deep a network SPPnet *loses* three points: its convolutions are not fine-tuned.
#
# **Our measurements**, which have nothing to do with these, from the cards of the shipped checkpoints (200 scenes each; R-CNN's CNN is another and was fine-tuned on more scenes):

# %%
from lessons.checkpoints import load_checkpoint

cards = {name: load_checkpoint(zoo.CHECKPOINTS / f"{name}.safetensors")[1] for name in ("rcnn", "sppnet")}
print(f"{'our embedded scenes':36s} AP     AP50   AP75")
for name, card in cards.items():
    for split, words in (("val", "known objects"), ("val_unknown", "unknown objects")):
        numbers = card["metrics"][split]
        print(f"{name:8s} {words:27s}", "  ".join(f"{numbers[key]:.3f}" for key in ("AP", "AP50", "AP75")))

# %% [markdown]
# ## 6 A claim of the paper, reproduced in shape
#
# **Claim 1: sharing saves more, the more regions there are.** Section 3.6 has reproduced it by exact counts: the ratio rises with every region, and goes on rising at 2,000. It has a limit, (46.9 + 1.91) / 1.91, about 25.6, because
# fc6 and fc7 are not shared. And with 1 or 4 regions sharing loses: the whole image costs more than so few crops.

# %%
# NBVAL_CHECK_OUTPUT
at_64 = ratios[numbers_of.index(64)]
print(f"ratio at 64 regions {at_64:.1f}, at 2000 regions {ratios[-1]:.1f}")
assert at_64 > 5
assert ratios[-1] > 2 * at_64

# %% [markdown]
# **Claim 2: a pyramid beats a single level.** (In the paper not simply because it has more numbers: levels 4, 3, 2, 1 with 30 bins beat the 36 of one level, section 3.1.2.) A small classifier of regions learned on the pooled map
# of the frozen body, with six pyramids and three seeds (`python -m experiments sppnet_levels`); AP without box regression. **Predict** the order before you look.

# %%
# NBVAL_CHECK_OUTPUT
from experiments.record import load_result

by_levels = load_result("sppnet_levels")
for name, numbers in by_levels["mean"].items():
    bins = sum(int(n) ** 2 for n in name.split())
    print(f"levels {name:8s} {bins:3d} bins  AP {numbers['AP']:.3f} ± {by_levels['sd'][name]['AP']:.3f}  AP50 {numbers['AP50']:.3f}")
for statement, holds in by_levels["verdict"].items():
    print("yes" if holds else "no ", statement)
assert len(by_levels["seeds"]) >= 3
assert by_levels["verdict"]["6 3 2 1 beats 6 alone"]

# %%
from utils.figures import bars_figure

bars = {f"levels {name}": [one[name]["AP"] for one in by_levels["per_seed"].values()] for name in by_levels["mean"]}
show(bars_figure(bars, ylabel="AP", title="Pyramids on the same map (our scenes)"), alt="AP of region classifiers with six different pyramids; dots are seeds.")

# %% [markdown]
# **What came out.** Coarse levels alone are poor. (That 6 is ahead of 4 is within the noise of the seeds.) Does the *pyramid* add anything to its finest level? 6 3 2 1 is ahead of 6 alone; 4 2 1 and 4 alone are a tie. So half of the
# claim holds here. And 6 3 2 1 has more numbers than 6, 50 bins against 36: whether the levels or the numbers help, this does not tell; a pyramid with fewer, like the paper's 4 3 2 1, is not among the six.
# (The classifiers learned from 120 scenes, the body was never trained on windows.) Our detector uses 6 3 2 1.
#
# One more seed, live and in small:

# %% tags=["nbval-ignore-output"]
from experiments import sppnet_levels

live = sppnet_levels.run(seed=7, short=True)
print("live, 8 scenes to learn from:", {name: numbers["AP50"] for name, numbers in live.items()})

# %% [markdown]
# ## 7 Questions answered
#
# **Are the pyramid's levels weighted?** No: they are written one after the other, and fc6 learns what to make of them. What has it made? The size of fc6's weights for each level, and the
# detector's AP when a level's numbers are replaced by their mean over the regions:

# %%
from lessons.metrics import CocoMetrics

sizes = [144 * n * n for n in detector.levels]
columns = dict(zip((f"{n} x {n}" for n in detector.levels), torch.arange(sum(sizes)).split(sizes)))
held_back = [(image, target, selective_search(image)[:200]) for image, target in (validation[i] for i in range(100, 112))]
with torch.no_grad():
    described = [detector.features(image, boxes).pool5 for image, _, boxes in held_back]
mean = torch.cat(described).mean(dim=0)


def ap_without(level):
    metrics = CocoMetrics()
    for (image, target, boxes), pyramids in zip(held_back, described):
        seen = pyramids.clone()
        if level:
            seen[:, columns[level]] = mean[columns[level]]
        with torch.no_grad():
            new = detector.describe(seen)
        metrics.update([detector.detect(image, boxes, detector.score(new), detector.regress(new, boxes))], [target])
    return metrics.compute()["AP"]


for level in columns:
    weight = detector.fc6.weight[:, columns[level]].detach()
    print(f"{level}: mean size of a weight {weight.abs().mean():.4f}; AP without its content {ap_without(level):.3f}")
print(f"AP with everything {ap_without(None):.3f} (12 scenes)")

# %% [markdown]
# The level that hurts most when it is gone is the one on which the detector leans most. (It also holds most of the numbers. The box regression reads the pyramid, too, so that the drop is not fc6's alone. And fc6 was trained with
# all levels there: this is no substitute for training without a level, which section 6 does.)
#
# **Tiny proposals: do several bins look at the same cell?** Yes; nothing is undefined, but nothing is gained either. Count the *different bins* of the 4 × 4 level (two are the same if they span the same cells):

# %%
# NBVAL_CHECK_OUTPUT
from lessons.roi import bin_edges

sides = (8, 16, 24, 32, 48, 64, 96)
cells_seen = {}
for factor in (1, 2):
    seen = []
    for side in sides:
        window = torch.tensor([[40.0, 40, 40 + side, 40 + side]]) * factor / 8
        first, size = cells_between(window)
        rows, _ = bin_edges(first, size, (4, 4), (100, 100))
        seen.append(len({tuple(bin) for bin in rows[0].tolist()}) ** 2)
    cells_seen[factor] = seen
    print(f"image enlarged {factor} times:", {f"{side} px": f"{count} of 16" for side, count in zip(sides, seen)})
assert cells_seen[1][0] == 1
assert cells_seen[1][-1] == 16

# %%
figure = curves_figure(sides, {"at the image's size": cells_seen[1], "image enlarged twice": cells_seen[2]}, xlabel="side of the window, pixels", ylabel="different bins of 16", title="Small windows: bins that say the same")
show(figure, alt="Number of different bins among 16 against window size: one up to 16 pixels, all 16 from 32 pixels on; in an enlarged image from half that size.")

# %% [markdown]
# Different bins are not different cells: at 32 pixels the window has 3 × 3 = 9 cells, and yet all 16 bins differ, because bins overlap and differ in extent.
#
# That is why SPPnet takes small windows from an *enlarged* image (section 3.7).
#
# **Multi-size training: what about learning rate and statistics?** The notes ask how training alternates between sizes (in the paper a whole epoch with one size, the next with the other, the same weights). The
# weights, and so the learning rate, are shared, for the pyramid hides the size from fc6. Does it help at sizes never seen? Crops of unknown objects, shown at six sizes to a frozen body; a linear layer on the
# pyramid learns from 64 pixels alone, or from 64 and 48 in turn (`python -m experiments sppnet_sizes`):

# %%
# NBVAL_CHECK_OUTPUT
by_size = load_result("sppnet_sizes")
shown_sizes = list(by_size["mean"]["one size"])
for name in ("one size", "two sizes"):
    print(f"{name:10s}", "  ".join(f"{key}: {by_size['mean'][name][key]:.3f}" for key in shown_sizes))
for statement, holds in by_size["verdict"].items():
    print("yes" if holds else "no ", statement)

# %% [markdown]
# Two sizes are ahead everywhere, but by little: with every seed at 40, 56 and 64 pixels, with two seeds of three at 32, 48 and 80. They gain most, 0.016, at 64, which both saw. So learning at two sizes costs nothing here and helps
# a little; that it helps *more* at sizes never seen does not come out. Perhaps a frozen body and a linear layer leave too little to adapt; that is a guess.
#
# (The bins go by floor and ceiling, as where the paper *applies* its network, appendix A. By the rule for training, 3.2, maps of 6, 7 and 10 cells would lose cells at the border, and what looks like a matter of size would be one of lost cells.)

# %%
figure = curves_figure([int(key.split()[0]) for key in shown_sizes], {name: [by_size["mean"][name][key] for key in shown_sizes] for name in by_size["mean"]},
                       xlabel="crop shown at, pixels", ylabel="share classified rightly", spread={name: [by_size["sd"][name][key] for key in shown_sizes] for name in by_size["sd"]}, title="Trained at one size or at two (3 seeds)")
show(figure, alt="Accuracy against crop size for training at 64 pixels and for training at 64 and 48 pixels in turn.")

# %% [markdown]
# *Statistics*: the paper's networks have no batch normalisation. Ours has, and its statistics do depend on the size. Smaller pictures have relatively more border, and shrinking changes texture, too; the two are not told apart here.

# %% tags=["nbval-ignore-output"]
from lessons.data.scenes import compose_crop

crops = torch.stack([compose_crop("train", i, size=64)[0] for i in range(48)])
means = {}
for side in (64, 48, 32):
    pictures = torch.nn.functional.interpolate(crops, size=(side, side), mode="bilinear", antialias=True)
    with torch.no_grad():
        stage = body.body(normalise(pictures))[-1]
    means[side] = stage.mean(dim=(0, 2, 3))
for side in (48, 32):
    print(f"mean activations at {side} pixels differ from those at 64 by {((means[side] - means[64]).norm() / means[64].norm()):.0%}")

# %% [markdown]
# **Why did SPPnet not train its convolutions?** Its authors' own reason: "for simplicity we only fine-tune the fully-connected layers" (section 4.1). Nothing forbids a gradient through a maximum; ours passes it. The reason in the
# structure came later, with Fast R-CNN (section 2.3): a batch of 128 regions from 128 different images costs 128 whole passes, since a region's receptive field often covers the image. How much of the picture does a single bin feel?

# %%
# NBVAL_CHECK_OUTPUT
picture = normalise(scene)[None].requires_grad_()
roi_spatial_pyramid_pool(body(picture)[0], [torch.tensor([[60.0, 60, 100, 100]])], (1,), 1 / 8).sum().backward()
felt = picture.grad.abs().sum(dim=(0, 1)) > 0
rows, columns_felt = torch.where(felt)
span = [int(axis.max() - axis.min()) + 1 for axis in (columns_felt, rows)]
print(f"a window of 40 x 40 pixels feels {span[0]} x {span[1]} pixels of 160 x 160")
assert min(span) > 60

# %% [markdown]
# ## 8 Find the mistake
#
# Each cell holds a plausible mistake. Run, read the verdict, repair, run again.
#
# *"The pyramid 4, 2, 1 of k channels has (4 + 2 + 1) k numbers."*

# %%
# NBVAL_CHECK_OUTPUT
from utils.grading import check


def length_mistake_1(levels, channels):
    return sum(levels) * channels


check(length_mistake_1, lambda levels, channels: spatial_pyramid_pool(torch.zeros(1, channels, 9, 9), levels).shape[1], [((1,), 3), ((4, 2, 1), 256)])

# %% [markdown]
# *"For n × n bins use windows of ⌊a / n⌋ cells every ⌊a / n⌋ cells."* Try 5 cells and 2 bins: which cell is never looked at? (The right answer is the paper's rule for training. It covers all cells where at most one is left over,
# as with 13 cells and 3 bins; with 7 cells and 4 bins it, too, would lose two.)

# %%
# NBVAL_CHECK_OUTPUT
def windows_mistake_2(x, n):
    step = x.shape[-1] // n
    return torch.stack([x[i * step:(i + 1) * step].max() for i in range(n)])


def along_a_row(x, n):
    return spatial_pyramid_pool(x.expand(1, 1, n, -1), (n,)).view(n, n)[0]


check(windows_mistake_2, along_a_row, [(torch.tensor([3.0, 1, 4, 1]), 2), (torch.tensor([3.0, 1, 2, 1, 9]), 2)])

# %% [markdown]
# *"A window belongs to the cells ⌊x₁ / S⌋ to ⌈x₂ / S⌉ − 1, all that it touches."* SPPnet takes one less at the left and at the top (first cell, and how many):

# %%
# NBVAL_CHECK_OUTPUT
def cells_mistake_3(low, high, stride):
    first = math.floor(low / stride)
    return torch.tensor([first, math.ceil(high / stride) - first])


def cells_right(low, high, stride):
    first, size = cells_between(torch.tensor([[low, low, high, high]]) / stride)
    return torch.stack([first[0, 0], size[0, 0]])


check(cells_mistake_3, cells_right, [(37.0, 90.0, 8), (3.0, 5.0, 8)])

# %% [markdown]
# *"SPPnet is 24 to 102 times faster than R-CNN."* At what? Testing, the proposals not counted, with five scales or with one (section 5). Selective Search stays as slow as it was; here, on your machine:

# %% tags=["nbval-ignore-output"]
began = time.perf_counter()
selective_search(scene)
print(f"Selective Search {time.perf_counter() - began:.2f} s, everything else of SPPnet {together:.2f} s")

# %% [markdown]
# ## 9 Exercises
#
# **1.** How many numbers has a pyramid with the levels 6, 3, 2 and 1 on a map of 256 channels?

# %%
def numbers_in(levels, channels):
    ...


check(numbers_in, lambda levels, channels: sum(n * n for n in levels) * channels, [((6, 3, 2, 1), 256), ((4, 2, 1), 144)])

# %% [markdown]
# **2.** Multiply-adds of N regions with a shared map: `image` for the convolutions of the image, `region` for the layers that follow, once a region.

# %%
def shared_cost(n, image, region):
    ...


check(shared_cost, lambda n, image, region: image + n * region, [(1, 100, 3), (200, 100, 3)])

# %% [markdown]
# **3.** From how many regions on do the fully connected layers cost more than the convolutions of the image? Use the counts of section 3.6.
#
# **4.** Build `recipe.build(sides=(160, 320))`, load the shipped weights (`load_state_dict`), and measure AP_small with one and with two scales on `held_back`. Is it fair that fc6 never saw the second scale?
#
# **5.** *Think first.* SPPnet's pyramid has 6 × 6, 3 × 3, 2 × 2 and 1 bins. What would you lose with a single level of 7 × 7? (That is Fast R-CNN's choice.)
#
# ## 10 Summary, limits and what came next
#
# - Only fully connected layers want a fixed size. A pyramid of maxima gives them a vector of one length for any map.
# - So the image is convolved once, and windows are cut out of the map. The gain grows with the number of windows.
# - Windows are mapped to cells by rounding inwards; small ones share cells, which larger scales of the image mend.
# - Several levels describe a window at several degrees of coarseness.
#
# **Limits.** Training is still a chain of stages, with features on disk; SVMs and regressors know nothing of each other; the convolutions stay as they were pre-trained, which costs accuracy with deep networks; fc6 and fc7 run for
# every window; Selective Search takes its time.
#
# **What we did not reproduce:** the paper's classification results, its networks, five scales, and the timings on a GPU.
#
# **Next:** Fast R-CNN keeps the shared map, keeps one level of the pyramid, and melts all stages into one training that reaches the convolutions.
#
# *Paper: K. He, X. Zhang, S. Ren, J. Sun, ECCV 2014 and TPAMI 2015. Photographs: `data/CREDITS.csv`.*

# %% tags=["nbval-ignore-output"]
context.budget()
