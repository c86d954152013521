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
# # 07 · Mask R-CNN: an outline for every object
#
# A box says where an object is, but much of what it holds may be something else. Mask R-CNN adds one small branch to Faster R-CNN that draws each object's outline, and in
# doing so it finds a flaw of the older detectors: features were cut out of the map with *rounded* coordinates. For the name of an object a few pixels do not matter. For its outline they do.
#
# You build it here: RoIAlign, the mask branch and its loss, the way back into the photograph, and the same branch finding keypoints.
#
# *Everything runs offline on a laptop; the whole notebook takes about 90 seconds. Run the cells from top to bottom.*

# %%
import torch

from utils.setup import setup

context = setup("07", seed=0)

# %% [markdown]
# ## 0 First result
#
# A finished Mask R-CNN, trained with the code of this notebook, on scenes it has never seen: new arrangements on new backgrounds, of objects that it knows.

# %%
from lessons import zoo
from lessons.data.scenes import CLASSES, Scenes

detector = zoo.load("mask_rcnn", weights="lesson")
validation = Scenes("val", length=200)
shown = [validation[i] for i in (1, 4, 8, 17)]
with torch.no_grad():
    detections = detector([image for image, _ in shown])

# %%
from utils.figures import detections_figure, show

figure = detections_figure([image for image, _ in shown], detections, CLASSES, threshold=0.5, title="Mask R-CNN on four new scenes")
show(figure, alt="Four composed photographs with boxes, class names, scores and coloured masks that Mask R-CNN drew.")

# %% [markdown]
# Look at the borders, not at the middles: where does the mask follow the object, and what does it miss? Thin parts (legs, tails, stalks) are a good place to look. Section 7 measures how
# much of that is the fault of the mask's small resolution.

# %% [markdown]
# ## 1 The paper
#
# | | |
# |---|---|
# | Title | *Mask R-CNN* |
# | Authors | Kaiming He, Georgia Gkioxari, Piotr Dollár, Ross Girshick (Facebook AI Research) |
# | Venue | ICCV 2017 (arXiv 1703.06870) |
# | Task | instance segmentation and detection on MS COCO; person keypoints |
#
# **Background.** Two lines of work had matured: Faster R-CNN for boxes, fully convolutional networks for labelling pixels. **Problem.** *Instance segmentation* needs both: an outline for each single object. Its leading systems
# segmented first and recognised afterwards, or predicted position-sensitive maps (FCIS) that make systematic mistakes where objects overlap.
#
# **Contributions.** (1) A third branch, parallel to class and box, that draws a mask in each region: small, fast, convolutional. (2) *RoIAlign*, pooling without rounding. (3) *Decoupling*: each class has its own mask with a
# sigmoid per pixel, and the class branch alone decides which one counts. (4) The same design finds human keypoints with hardly a change.

# %% [markdown]
# ## 2 The method in one picture
#
# ```mermaid
# %%{init: {"theme": "neutral"}}%%
# flowchart LR
#     accTitle: The Mask R-CNN pipeline
#     accDescr: An image passes through backbone and pyramid; the region proposal network proposes boxes; RoIAlign cuts 7 by 7 features for the box branch, which gives class and box, and 14 by 14 features of the detected boxes for the mask branch, which gives one mask per class; the mask of the detected class is pasted into the box.
#     A["image"] --> B["backbone<br/>and pyramid"]
#     B --> C["RPN:<br/>proposals"]
#     C --> D["RoIAlign<br/>7 × 7"]
#     D --> E["class and box"]
#     E --> F["NMS, best 100"]
#     F --> G["RoIAlign<br/>14 × 14"]
#     B --> G
#     G --> H["convolutions, × 2:<br/>K masks of 28 × 28"]
#     H --> I["take the class's mask,<br/>paste it into the box"]
# ```
#
# $$L = \underbrace{L^{\text{RPN}}_{\text{cls}} + L^{\text{RPN}}_{\text{box}}}_{\text{proposals}} + L_{\text{cls}} + L_{\text{box}} + L_{\text{mask}}$$
#
# In training the branches run side by side on the proposals. In detection they run one after the other: masks are drawn only for the boxes that survived, which fit better and are few.

# %% [markdown]
# ## 3 Building it, step by step
#
# ### 3.1 What RoIPool rounds away
#
# *Question.* A region reaches from pixel 37 to pixel 101; the feature map has one cell for 16 pixels. Which cells belong to the region?
#
# 37 / 16 = 2.31 and 101 / 16 = 6.31. RoIPool needs whole cells: 2 to 6. Then it cuts five cells into two bins, and 5 / 2 has to be rounded again. **Predict:** by how many pixels do its bins miss the true halves?

# %%
# NBVAL_CHECK_OUTPUT
left, right, stride = 37, 101, 16
first, last = round(left / stride), round(right / stride)
count = last - first + 1  # both ends belong to the region
pool_bins = [[first + count * i // 2, first + -(-count * (i + 1) // 2)] for i in range(2)]  # floor and ceil: they overlap
true_bins = [[left + (right - left) * i / 2, left + (right - left) * (i + 1) / 2] for i in range(2)]
for (a, b), (x1, x2) in zip(pool_bins, true_bins):
    print(f"RoIPool's bin: cells {a} to {b - 1}, pixels {a * stride} to {b * stride}; the true half: pixels {x1:.0f} to {x2:.0f}")

# %% [markdown]
# The library does the same: on a map whose cells hold their own number, the largest value in a bin is its last cell.

# %%
from lessons.roi import roi_pool

numbers = torch.arange(10.0).expand(1, 1, 10, 10)
region = torch.tensor([[37.0, 37.0, 101.0, 101.0]])
found = roi_pool(numbers, [region], 2, 1 / stride)[0, 0, 0]
torch.testing.assert_close(found, torch.tensor([b - 1.0 for _, b in pool_bins]))

# %% [markdown]
# **Drag the region** (mouse or arrow keys: a pixel is a sixteenth of a cell). Watch what changes on the left, where RoIPool jumps from cell to cell, and on the right, where RoIAlign follows. Does RoIPool's result change at all
# while the region moves by half a cell?

# %% tags=["widget", "nbval-ignore-output"]
from utils.widgets import RoiPoolingExplorer

coarse = torch.rand(1, 1, 4, 4, generator=torch.Generator().manual_seed(3))
feature_map = torch.nn.functional.interpolate(coarse, size=(8, 8), mode="bilinear")[0, 0]
pooling = RoiPoolingExplorer(feature_map, [26, 37, 91, 102], stride=16, bins=2)
pooling

# %% tags=["static"]
show(pooling.static(), alt="A feature map with a region that lies across cells: RoIPool's bins on whole cells miss it, RoIAlign's sampling points lie inside; right, the pooled values of both.")

# %% [markdown]
# ### 3.2 RoIAlign: round nothing, read between the cells
#
# RoIAlign (section 3 of the paper) keeps 2.31 as it is. Each bin gets four sampling points, evenly spread; at each the map is read by *bilinear interpolation* between the four cells around it; the bin is their average.
# By hand, one bin of one region:

# %%
# NBVAL_CHECK_OUTPUT
small = torch.tensor([[1.0, 3, 2, 0], [0, 4, 8, 6], [2, 2, 5, 7], [1, 0, 3, 9]])
x1, y1, x2, y2 = 0.6, 0.9, 2.2, 2.5  # in cells; one bin
samples = []
for y in (y1 + 0.25 * (y2 - y1), y1 + 0.75 * (y2 - y1)):
    for x in (x1 + 0.25 * (x2 - x1), x1 + 0.75 * (x2 - x1)):
        row, column, dy, dx = int(y), int(x), y % 1, x % 1
        above = (1 - dx) * small[row, column] + dx * small[row, column + 1]
        below = (1 - dx) * small[row + 1, column] + dx * small[row + 1, column + 1]
        samples.append(float((1 - dy) * above + dy * below))
print("four samples:", [round(value, 2) for value in samples], "mean", round(sum(samples) / 4, 4))

# %% tags=["nbval-ignore-output"]
from lessons.roi import roi_align
from utils.source import show_source

show_source(roi_align)

# %%
found = roi_align(small[None, None], [torch.tensor([[x1, y1, x2, y2]])], 1, 1.0, sampling_ratio=2)
torch.testing.assert_close(found.item(), sum(samples) / 4, atol=1e-6, rtol=0)

# %% [markdown]
# ### 3.3 How large is the error, exactly?
#
# A trick makes it visible without any training: let each cell of the map hold *its own place* in pixels (a ramp). What a bin then returns is where it believes to be. True is the bin's middle. The place of cell $i$ is here $i$ times the
# stride, its first pixel: that is how RoIAlign without `aligned` counts. (Counted from the cells' middles, everything moves by half a cell, the same for all bins.) RoIPool's maximum always
# looks at the far end, a constant shift that a network could learn to expect; so the figure shows its error with the mean shift taken off, too. That rest is what no network can know.

# %%
def place_error(pool, stride, boxes):
    """|what 7 bins believe - their middles|, pixels: all of it, and what is left without the mean shift of each bin."""
    ramp = (torch.arange(512 // stride) * float(stride)).expand(1, 1, 512 // stride, -1)
    believed = pool(ramp, [boxes], 7, 1 / stride)[:, 0, 0]  # (N, 7)
    middles = boxes[:, :1] + (torch.arange(7) + 0.5) / 7 * (boxes[:, 2:3] - boxes[:, :1])
    error = believed - middles
    return error.abs().mean().item(), (error - error.mean(0)).abs().mean().item()


corner = 32 + torch.rand(500, 2, generator=context.generator) * 200
boxes = torch.cat([corner, corner + 60 + torch.rand(500, 2, generator=context.generator) * 160], dim=1)
strides = (4, 8, 16, 32)
errors = {"RoIPool": [place_error(roi_pool, s, boxes)[0] for s in strides],
          "RoIPool, mean shift taken off": [place_error(roi_pool, s, boxes)[1] for s in strides],
          "RoIAlign": [place_error(lambda *given: roi_align(*given, 2), s, boxes)[0] for s in strides]}

# %%
# NBVAL_CHECK_OUTPUT
for name, values in errors.items():
    print(f"{name:30s}", "  ".join(f"stride {s}: {value:5.1f} px" for s, value in zip(strides, values)))
assert max(errors["RoIAlign"]) < 1e-3
assert errors["RoIPool, mean shift taken off"] == sorted(errors["RoIPool, mean shift taken off"])
by_hand = roi_pool(torch.arange(10.0).mul(16).expand(1, 1, 10, 10), [region], 2, 1 / 16)[0, 0, 0] - torch.tensor([53.0, 85.0])
assert by_hand.tolist() == [11.0, 11.0]  # section 3.1: bins end in cells 4 and 6, pixels 64 and 96; the middles are 53 and 85

# %%
from utils.figures import curves_figure

figure = curves_figure(strides, errors, xlabel="stride of the map, pixels", ylabel="mean error, pixels", title="Where a bin believes to be (500 boxes of 60 to 220 px)", log_x=True)
show(figure, alt="Mean error of a bin's place against the stride: RoIPool's is about ten pixels; with its mean shift taken off it grows with the stride; RoIAlign's is zero.")

# %% [markdown]
# What is left without the shift grows with the stride; RoIAlign, with places counted so, has no error at all: nothing in it depends on where a box happens to lie between cells. So a prediction, tested in section 6: *the coarser the map, the more RoIAlign gains*.
#
# ### 3.4 What the branch shall draw
#
# *Question.* Objects have all sizes, the branch draws squares of 28 × 28. And a proposal does not fit its object. What is the right answer for such a square?
#
# The target is **the part of the true mask inside the proposal, squeezed into the square**: RoIAlign again, this time of the mask itself.

# %%
from lessons.masks import project_masks

scene, target = shown[1]
tight = target["boxes"][:1]
loose = tight + torch.tensor([[-12.0, 10, 16, -8]])
square = project_masks(target["masks"], loose, torch.tensor([0]), 28)
by_hand = torch.zeros(28, 28)
x1, y1, x2, y2 = loose[0].tolist()
for row in range(28):
    for column in range(28):  # the library averages several samples in a large cell; here one, the cell's middle
        y, x = y1 + (row + 0.5) / 28 * (y2 - y1), x1 + (column + 0.5) / 28 * (x2 - x1)
        by_hand[row, column] = target["masks"][0, min(round(y), 159), min(round(x), 159)]
print(f"cells that differ by more than a half: {int(((square[0] - by_hand).abs() > 0.5).sum())} of 784")
assert ((square[0] - by_hand).abs() > 0.5).sum() < 16  # a few along the outline

# %%
from utils.figures import draw_boxes, draw_masks, images_figure

figure, axes = images_figure([scene, square[0], project_masks(target["masks"], tight, torch.tensor([0]), 28)[0]],
                             ["true mask, true box, a proposal (dashed)", "target for the proposal", "target for the true box"], columns=3, width=3.8)
draw_masks(axes[0], target["masks"][:1])
draw_boxes(axes[0], tight, colors=["#0072B2"])
draw_boxes(axes[0], loose, colors=["#FFFFFF"], linestyle="--")
show(figure, alt="A scene with an object's true mask, its box and a shifted proposal; beside it the squares of 28 by 28 that the mask branch should draw for the proposal and for the true box.")

# %% [markdown]
# ### 3.5 The branch and its loss: classes do not compete
#
# Four convolutions (here two, narrower), one transposed convolution that doubles the side, and a 1 × 1 convolution to **K masks, one for each class**. No fully connected layer: a fully connected layer forgets where things are.

# %% tags=["nbval-ignore-output"]
from lessons.detectors.mask_rcnn import MaskHead

show_source(MaskHead)

# %% [markdown]
# The loss looks at *one* of the K masks, that of the true class: a sigmoid and a binary cross-entropy per pixel, averaged. By hand for two regions, against the library:

# %%
from lessons.masks import mask_loss

generator = torch.Generator().manual_seed(0)
logits = torch.randn(2, len(CLASSES), 28, 28, generator=generator).requires_grad_()
proposals, matched = torch.cat([tight, loose]), torch.tensor([0, 0])
by_hand = 0.0
for i, goal in enumerate(project_masks(target["masks"], proposals, matched, 28)):
    p = logits[i, target["labels"][0]].sigmoid()
    by_hand = by_hand - (goal * p.log() + (1 - goal) * (1 - p).log()).mean() / 2
loss = mask_loss(logits, [proposals], [target["masks"]], [target["labels"]], [matched])
torch.testing.assert_close(loss, by_hand)

# %%
# NBVAL_CHECK_OUTPUT
loss.backward()
learns = logits.grad[0].abs().flatten(1).sum(1) > 0
print("the object is a", CLASSES[target["labels"][0]] + "; masks that learn from it:", [CLASSES[i] for i in learns.nonzero().flatten().tolist()])

# %% [markdown]
# With a softmax over the classes every mask would be pushed: up for the right class, down for all others. Then a pixel that is both a bit bird and a bit fruit gets a poor mask for both. Here the question "which class?" has been
# answered by the other branch, and the mask only says "of this, where?".
#
# ### 3.6 Back into the photograph
#
# Detection takes the square of the detected class, **stretches it over the box** and cuts it at 0.5. By hand for one detection: pad the square with a border of zeros so that it can fade out, let the box grow with it, round it, resize.

# %%
import torch.nn.functional as F

from lessons.masks import mask_probabilities, paste_masks

with torch.no_grad():
    batch, _ = detector.prepare([scene])
    features = detector.backbone(batch.pixels)
    found = detector.find(features, batch)[0]
    regions = detector.box_head.pool(features, [found["boxes"]], detector.mask_head.side)
    squares = mask_probabilities(detector.mask_head(regions), [found["labels"]])[0]  # (N, 1, 28, 28), of each one's class

# %%
import math

side = squares.shape[-1]
x1, y1, x2, y2 = found["boxes"][0].tolist()
half_width, half_height = (x2 - x1) / 2 * (side + 2) / side, (y2 - y1) / 2 * (side + 2) / side
x, y = math.trunc((x1 + x2) / 2 - half_width), math.trunc((y1 + y2) / 2 - half_height)
width = math.trunc((x1 + x2) / 2 + half_width) - x + 1
height = math.trunc((y1 + y2) / 2 + half_height) - y + 1
large = F.interpolate(F.pad(squares[:1], (1, 1, 1, 1)), size=(height, width), mode="bilinear", align_corners=False)[0, 0]
by_hand = torch.zeros(160 + 320, 160 + 320)  # room for what hangs over the edge
by_hand[160 + y : 160 + y + height, 160 + x : 160 + x + width] = large
pasted = paste_masks(squares, found["boxes"], (160, 160))
torch.testing.assert_close(pasted[0, 0], by_hand[160:320, 160:320], atol=1e-4, rtol=0)

# %% [markdown]
# **Move the threshold.** Left the mask in the photograph, right what the branch really drew. Which threshold would you choose, and does it differ between a compact object and a thin one?

# %% tags=["widget", "nbval-ignore-output"]
from utils.widgets import MaskPaste

clear = found["scores"] > 0.5
pasting = MaskPaste(scene, squares[clear, 0], {key: found[key][clear] for key in ("boxes", "labels")}, CLASSES)
pasting

# %% tags=["static"]
show(pasting.static(), alt="The square of numbers that the mask branch drew, and the mask pasted into its box on the photograph at three thresholds.")

# %% [markdown]
# ### 3.7 The detector, whole
#
# Mask R-CNN *is* the Faster R-CNN of the last lesson with two methods more. Read them; the loop above was `detect`.

# %% tags=["nbval-ignore-output"]
from lessons.detectors.mask_rcnn import MaskRCNN

show_source(MaskRCNN)

# %%
with torch.no_grad():
    whole = detector([scene])[0]
torch.testing.assert_close(whole["masks"], pasted)
torch.testing.assert_close(whole["scores"], found["scores"])

# %% [markdown]
# ### 3.8 Keypoints: a mask with one bright pixel
#
# *Question.* Could the same branch find a person's elbows? A mask with a single pixel set would be a hard target for a sigmoid per pixel: 3135 zeros, one 1.
#
# The paper turns it round: the cells **compete**. Each keypoint has a map of 56 × 56 cells and a softmax over all 3136: *which cell?* is a classification. Our scenes have no elbows; their keypoints are each object's ends: top, left, bottom and right.

# %%
# NBVAL_CHECK_OUTPUT
from lessons.keypoints import keypoint_loss, keypoints_to_heatmap

box, top = torch.tensor([[40.0, 20.0, 96.0, 132.0]]), torch.tensor([[[61.3, 20.0, 2.0]]])  # x, y, visible
column, row = int((61.3 - 40) / (96 - 40) * 56), int((20.0 - 20) / (132 - 20) * 56)
cell, valid = keypoints_to_heatmap(top, box, 56)
assert cell.item() == row * 56 + column
maps = torch.randn(1, 1, 56, 56, generator=torch.Generator().manual_seed(1))
by_hand = -(maps.flatten().softmax(0)[row * 56 + column]).log()
torch.testing.assert_close(keypoint_loss(maps, [box], [top], [torch.tensor([0])]), by_hand)
print(f"row {row}, column {column}: cell {cell.item()} of 3136; a branch that knows nothing pays log 3136 = {math.log(3136):.2f}")

# %%
point_detector = zoo.load("keypoint_rcnn", weights="lesson")
with torch.no_grad():
    with_points = point_detector([image for image, _ in shown])
    batch, _ = point_detector.prepare([scene])
    features = point_detector.backbone(batch.pixels)
    best = point_detector.find(features, batch)[0]["boxes"][:1]
    heat = point_detector.keypoint_head(point_detector.box_head.pool(features, [best], 14))[0]  # (4, 56, 56)

# %%
figure = detections_figure([image for image, _ in shown], with_points, CLASSES, threshold=0.5, title="Keypoint R-CNN: ● top, ■ left, ▲ bottom, ◆ right")
show(figure, alt="Four scenes with boxes and four markers on each object: circle at its top end, square at its left, triangle at its bottom, diamond at its right.")

# %%
from lessons.recipes.keypoint_rcnn import POINTS

probabilities = heat.flatten(1).softmax(1).view_as(heat)
figure, _ = images_figure([one / one.max() for one in probabilities], [f"where is the {name}?" for name in POINTS], width=2.8)
show(figure, alt="Four maps of 56 by 56 cells for the best detection: each has one bright spot, at the top, left, bottom and right edge of the region.")

# %% [markdown]
# ### 3.9 The price
#
# One region costs, in multiply-adds, exactly:

# %%
# NBVAL_CHECK_OUTPUT
from lessons.costs import count_multiply_adds

channels = detector.backbone.out_channels
body = count_multiply_adds(detector.backbone, torch.zeros(1, 3, 160, 160))
one_mask = count_multiply_adds(detector.mask_head, torch.zeros(1, channels, 14, 14))
one_box = count_multiply_adds(lambda x: detector.box_head.fc7(detector.box_head.fc6(x)), torch.zeros(1, channels * 49))
print(f"backbone and pyramid, once: {body / 1e6:6.0f} million; box branch, each proposal: {one_box / 1e6:.1f} million; mask branch, each detection: {one_mask / 1e6:.1f} million")
print(f"100 proposals and 5 detections: box branch {100 * one_box / 1e6:.0f} million, mask branch {5 * one_mask / 1e6:.0f} million")

# %% [markdown]
# A mask costs many times as much as a box. That is why masks are drawn **after** NMS, for the detections alone. (The paper: 195 ms a picture with ResNet-101-FPN on an Nvidia Tesla M40.)

# %% [markdown]
# ## 4 Training
#
# All five losses are added up and trained together. The shipped detector began as lesson 06's and went on with the new branch; `make checkpoints` does it in full. Here you train **one part and watch it learn**: the
# shipped detector gets a mask branch that knows nothing yet; all else stays as it is. (Expected time: 25 s.)

# %% tags=["nbval-ignore-output"]
import copy

from lessons.data.transforms import RandomMirror
from lessons.detection_training import Plan, fit
from lessons.order import seeded
from lessons.recipes import mask_rcnn as recipe
from utils.live import LiveCurve

model = copy.deepcopy(detector).requires_grad_(False)
with seeded(1):
    model.mask_head = MaskHead(channels, len(CLASSES), recipe.HIDDEN, recipe.DEPTH)
for module in model.modules():
    if isinstance(module, torch.nn.BatchNorm2d):
        module.momentum = 0.0  # the body's statistics stay what they are
training = Scenes("train", length=64)
training.transform = RandomMirror()
trainer = fit(model, training, Plan(64, 40, 0, learning_rate=4e-3), device="cpu", progress=False, callbacks=[LiveCurve("A new mask branch on a finished detector")])

# %%
with torch.no_grad():
    now = model.eval()([image for image, _ in shown])
figure = detections_figure([image for image, _ in shown], now, CLASSES, threshold=0.5, title="A mask branch after 40 steps (boxes by the shipped detector)")
show(figure, alt="The four scenes of section 0 with masks of a branch that was trained for 40 steps: about the right places, with coarse outlines.")

# %% [markdown]
# ## 5 Results
#
# **The paper's numbers** (COCO, in percent):
#
# | | mask AP | source |
# |---|---|---|
# | FCIS+++, the best before | 33.6 | Table 1, test-dev |
# | Mask R-CNN, ResNet-101-FPN | 35.7 | Table 1, test-dev |
# | one softmax over classes → a sigmoid per class | 24.8 → 30.3 | Table 2b |
# | ResNet-50-**C4**, stride 16: RoIPool → RoIWarp → RoIAlign | 26.9 → 27.2 → 30.2 | Table **2c** |
# | ResNet-50-**C5**, stride 32: RoIPool → RoIAlign | 23.6 → 30.9 | Table **2d** |
# | with a pyramid, RoIPool → RoIAlign | 1.5 more | section 4.2 |
# | fully connected mask branch → convolutions | 31.5 → 33.6 | Table 2e |
#
# Keypoints: 62.7 AP, with masks trained along 63.1 (Table 4); RoIPool → RoIAlign 59.8 → 64.2 (Table 6). Boxes gain, too: 37.3 → 38.2 box AP from training masks along (Table 3).
#
# **Our measurements** have nothing to do with these: other pictures, other classes, a small network. They are read from the cards of the shipped checkpoints:

# %%
from lessons.checkpoints import load_checkpoint

print(f"{'our embedded scenes':42s} AP    AP50   AP75   small  medium")
for name, kind in (("mask_rcnn", "masks"), ("keypoint_rcnn", "keypoints")):
    card = load_checkpoint(zoo.CHECKPOINTS / f"{name}.safetensors")[1]
    for split in ("val", "val_unknown"):
        for what, key in (("boxes", split), (kind, f"{split} {kind}")):
            found_numbers = "  ".join(f"{card['metrics'][key][n]:.3f}" if n in card["metrics"][key] else "  -  " for n in ("AP", "AP50", "AP75", "AP_small", "AP_medium"))
            print(f"{name + ', ' + split + ', ' + what:42s}", found_numbers)

# %% [markdown]
# *val* has objects that the detector knows, in new scenes; *val_unknown* has objects it has never seen. Both rows are shown wherever this collection reports results.
#
# The keypoints score low beside the boxes. (COCO measures no small objects' keypoints: the dashes.) Too little training may be one reason. Is another that an end is often no point? Along a pig's back every pixel
# is nearly the topmost, and the measure, which allows an error in any direction, does not know that. If so, the top should be right in its height and wrong along the back. **Predict**, then look at how far from the truth the points of the
# objects are that were found, *across* the object's edge (up and down for top and bottom) and *along* it, in parts of the root of the box's area. (Expected time: 5 s.)

# %%
from lessons.boxes import box_iou
from lessons.data.transforms import extreme_points
from lessons.recipes.keypoint_rcnn import SIGMAS

offsets = []
for image, truth in (extreme_points(*validation[i]) for i in range(30)):
    with torch.no_grad():
        objects = point_detector([image])[0]
    iou = box_iou(truth["boxes"], objects["boxes"]) * (truth["labels"][:, None] == objects["labels"])
    for each, row in enumerate(iou):
        if len(row) and row.max() >= 0.5:
            size = (truth["boxes"][each, 2:] - truth["boxes"][each, :2]).prod().sqrt()
            offsets.append((objects["keypoints"][row.argmax(), :, :2] - truth["keypoints"][each, :, :2]).abs() / size)
offsets = torch.stack(offsets)  # (objects, 4 ends, x and y)
across = torch.stack([offsets[:, 0::2, 1], offsets[:, 1::2, 0]], dim=2).flatten(1)  # top, left, bottom, right
along = torch.stack([offsets[:, 0::2, 0], offsets[:, 1::2, 1]], dim=2).flatten(1)
print(f"{len(offsets)} objects, median error    {'   '.join(f'{name:>6}' for name in POINTS)}")
for what, errors in (("across the edge", across), ("along the edge", along)):
    print(f"{what:30s} {'   '.join(f'{value:6.3f}' for value in errors.median(dim=0).values)}")
for what, squares in (("as they are", across**2 + along**2), ("errors along the edge forgiven", across**2), ("errors across it forgiven", along**2)):
    similarity = (-squares / (2 * (2 * SIGMAS[0]) ** 2)).exp().mean(dim=1)  # COCO's, but with the area of the box
    print(f"objects with a similarity of at least 0.75, {what:30s} {(similarity >= 0.75).float().mean():.0%}")
assert along.median() > across.median()

# %% [markdown]
# **What came out.** The points lie 0.03 of the object's size from its edge, and half as far again along it. It is the errors along the edge that cost: were they forgiven, more than twice as many objects would reach a similarity of 0.75, while forgiving the others helps a little. So a good part of the riddle is in the question, "where is the topmost pixel of a back?",
# which has no good answer. An elbow has a better one; and COCO allows each kind of keypoint its own error, measured by how far people's marks of it differ.
#
# **Did the masks help the boxes?** The paper says so, +0.9. Our cards cannot tell: both shipped detectors went on from lesson 06's, so their boxes have had more training, too, and Keypoint R-CNN's, with four times as many further steps, the most: its boxes are the best. An honest comparison
# would train both for as long, with and without masks, and more than once (exercise 4).

# %% [markdown]
# ## 6 A claim of the paper, reproduced in shape
#
# **Claim** (Tables 2c and 2d): RoIAlign beats RoIPool, by 3.3 points of mask AP at stride 16 and by 7.3 at stride 32. Section 3.3 said why. **Predict:** what happens at strides 4 and 8?
#
# The experiment holds everything else still: the pre-trained body does not learn, boxes are the true ones (shaken in training), and the same small mask branch learns on regions cut out in one way or the other. Three seeds; `python -m experiments mask_roi`.
# One more line is for comparison: "mean shape" draws in every box the mean mask of the box's class *without looking at the picture*. What a branch draws better than that, it has read from the map.

# %%
from experiments.record import load_result

result = load_result("mask_roi")
names = {"align": "RoIAlign", "pool": "RoIPool"}

def pooling_figure(result, key, ylabel, pictures):
    """Both poolings by the stride of the map, and what is drawn without looking."""
    curves, spread = ({name: [result[part][f"{kind} {s}"][key] for s in strides] for kind, name in names.items()} for part in ("mean", "sd"))
    for part, lines in (("mean", curves), ("sd", spread)):
        lines["mean shape, not looking"] = [result[part]["mean shape"][key]] * len(strides)
    title = f"Masks in true boxes, {pictures}, {len(result['seeds'])} seeds"
    return curves_figure(strides, curves, xlabel="stride of the map, pixels", ylabel=ylabel, spread=spread, title=title, log_x=True)

figure = pooling_figure(result, "IoU", "mean IoU of the masks", "our scenes")
show(figure, alt="Mean IoU of masks against the stride of the map: RoIAlign is above RoIPool at every stride; both fall towards stride 32, where the seeds differ most. RoIPool meets the level line of the mean shape at stride 8, RoIAlign at stride 16.")

# %%
# NBVAL_CHECK_OUTPUT
for s in strides:
    gains = [one[f"align {s}"]["IoU"] - one[f"pool {s}"]["IoU"] for one in result["per_seed"].values()]
    print(f"stride {s:2d}: gain in IoU by seed", "  ".join(f"{gain:+.3f}" for gain in gains), f"  in mask AP, mean {result['mean'][f'align {s}']['AP'] - result['mean'][f'pool {s}']['AP']:+.3f}")
for statement, holds in result["verdict"].items():
    print("yes" if holds else "no ", statement)
assert len(result["seeds"]) >= 3
assert all(one[f"align {s}"]["IoU"] > one[f"pool {s}"]["IoU"] for one in result["per_seed"].values() for s in strides)

# %% [markdown]
# RoIAlign wins at every stride and with every seed, mostly by two or three hundredths of IoU. The paper's *growth* with the stride does not come out: on average the gap is widest at stride 32, but one seed makes it so, and in mask AP the gain there is the smallest.
#
# **Why not?** The level line gives a hint. What is there to lose is above all what the branch has *read from the map*, and on our coarse maps its masks are no better than without reading: our objects measure 24 to 106 pixels, one to three cells at stride 32, where even RoIAlign's branch draws worse than the mean shape.
# (Many of COCO's objects are hundreds of pixels large, and a map of stride 32 shows their parts.) So measure the loss against what there is to lose:

# %%
# NBVAL_CHECK_OUTPUT
from experiments.mask_roi import share_lost

def print_added(result, key):
    """How much better than the mean shape the masks are, for both poolings, and what share RoIPool loses of it."""
    for s in strides:
        aligned, pooled = (result["mean"][f"{kind} {s}"][key] - result["mean"]["mean shape"][key] for kind in names)
        lost = f", which loses {share_lost([*result['per_seed'].values()], s, key):.0%} of it" if aligned > 0.01 else ""
        print(f"stride {s:2d}: {key} above the mean shape's by {aligned:+.3f} with RoIAlign, {pooled:+.3f} with RoIPool{lost}")

print_added(result, "IoU")

# %% [markdown]
# Seen so, rounding costs more at stride 8 than at stride 4. That is in the direction of the paper, which compares strides 16 and 32, by the AP itself. From stride 16 on a share has no meaning; there RoIPool's masks are even *worse* than the mean shape: rounding also shifts what the branch draws. (We came upon this way of counting when the growth did not come out; it was not planned.) One more seed, live, in small:

# %% tags=["nbval-ignore-output"]
from experiments import mask_roi, mask_training

size = mask_training.size_of(short=True)  # one more seed, live, in small: 24 scenes, 30 steps (10 s)
for kind in ("pool", "align"):
    train, val = (mask_training.scenes(split, n, 7, 16) for split, n in (("train", size.images), ("val", size.measured)))
    head = mask_training.fit(mask_training.new_head(train.maps.shape[1], 7), mask_roi.POOLINGS[kind], train, 16, size.steps, 7)
    print(f"{names[kind]:9s} at stride 16, live: {mask_training.measure(head, mask_roi.POOLINGS[kind], val, 16)}")

# %% [markdown]
# **And on real photographs?** The same experiment on nuclei under the microscope, mask AP, three seeds. The photographs are not part of the lessons, but what came out is stored with them; `python -m lessons.data.download nuclei` and `python -m experiments mask_roi_nuclei` make it again.

# %%
nuclei = load_result("mask_roi_nuclei")
figure = pooling_figure(nuclei, "AP", "AP of the masks", "real nuclei")
show(figure, alt="Mask AP of real nuclei against the stride of the map: RoIAlign is above RoIPool at every stride; both fall from stride 8 on. RoIPool meets the level line of the mean shape at stride 16, RoIAlign at stride 32.")

# %%
# NBVAL_CHECK_OUTPUT
for s in strides:
    gains = [one[f"align {s}"]["AP"] - one[f"pool {s}"]["AP"] for one in nuclei["per_seed"].values()]
    print(f"stride {s:2d}: RoIAlign {nuclei['mean'][f'align {s}']['AP']:.3f}, RoIPool {nuclei['mean'][f'pool {s}']['AP']:.3f}; gain by seed", "  ".join(f"{gain:+.3f}" for gain in gains))
print_added(nuclei, "AP")
for statement, holds in nuclei["verdict"].items():
    print("yes" if holds else "no ", statement)

# %% [markdown]
# RoIAlign wins here, too, at every stride and with every seed, by 0.03 to 0.055 of mask AP, and again the gain itself does not grow. Nuclei are round and fill their boxes alike, so that a mean shape is a good mask already (0.55), and at stride 32, about one cell to a nucleus, RoIAlign's masks are hardly better and RoIPool's are worse.
# Of what RoIAlign's masks are better, rounding destroys a third at stride 4, more than two fifths at stride 8 and all of it at stride 16. This share grows because there is less and less to lose, not because more is lost; on large objects, as COCO has them, the paper saw the loss itself grow.

# %% [markdown]
# ## 7 Questions answered
#
# **Is bilinear interpolation the best way, and why average?** The paper's answer is in Table 2c: RoIWarp is bilinear, too, but starts from a rounded region, and gains next to nothing (27.2 against 26.9). Maximum or average makes no difference (30.2 and 30.3).
# What counts is that nothing is *rounded*. Ours, at stride 16, adds a pooling that reads the nearest cell, but at the unrounded places:

# %%
from utils.figures import bars_figure

kinds = {"RoIPool": "pool 16", "RoIWarp": "warp 16", "nearest,\nnot rounded": "nearest 16", "RoIAlign,\nmaximum": "max 16", "RoIAlign,\naverage": "align 16"}
bars = {name: [one[key]["IoU"] for one in result["per_seed"].values()] for name, key in kinds.items()}
show(bars_figure(bars, ylabel="mean IoU of the masks", title="What is rounded, and what is read (stride 16, our scenes)"), alt="Mean IoU of masks at stride 16 for RoIPool, RoIWarp, nearest samples, RoIAlign with maximum and with average; dots are seeds.")

# %% [markdown]
# Maximum and average tie, as in the paper. Reading the *nearest* cell at unrounded places is better than RoIPool and worse than bilinear reading: both halves of RoIAlign count. RoIWarp comes closer to RoIAlign here than in the paper; a guess at the reason: our
# branch learns on shaken boxes, and so gets used to corners that are a little off. A *learned* alignment is not tested here. (The paper finds that neither the places of the samples nor their number matter much, as long as nothing is rounded.)
#
# **How deep must the branch be? Why convolutions?** The paper uses four and compares with fully connected layers only (Table 2e: 31.5 against 33.6). **Do classes have to compete? Does each need a mask of its own?** (Table 2b; one mask for all classes: 29.7 against 30.3.) **What do the weights of the losses do?** The paper takes 1 for all.
# Ours, on a map of stride 8, three seeds (`python -m experiments mask_head`); in the last three rows a shared convolution learns classes and masks together:

# %%
# NBVAL_CHECK_OUTPUT
heads = load_result("mask_head")
for name, row in heads["mean"].items():
    classes = f"   classes right {row['classes']:.3f} ± {heads['sd'][name]['classes']:.3f}" if "classes" in row else ""
    print(f"{name:26s} IoU {row['IoU']:.3f} ± {heads['sd'][name]['IoU']:.3f}   AP {row['AP']:.3f}{classes}")
for statement, holds in heads["verdict"].items():
    print("yes" if holds else "no ", statement)

# %% [markdown]
# **Answers.** *Depth:* each doubling helps, by a hundredth or two; the paper's four is a reasonable end. *Convolutions* beat fully connected layers, as in the paper: they keep places. *Competition:* a softmax over classes is far worse than in the paper (where it costs 5.5 points): we did not
# look why. Part of it may be the measure: a pixel counts only where one of seven classes has more than half. *One mask for all classes* loses more than the paper's 0.6. *Weights:* more weight on masks gives better masks; ten times as much costs classes in one seed of three. The paper's 1 for all lies between; that it is the best is nowhere claimed.
#
# **How much do 28 × 28 cells lose on thin and winding shapes?** This can be measured without a network: squeeze each *true* mask into the square, paste it back, compare. A branch that draws exactly what it is taught gets no further.

# %%
def ceiling(data, side, shift=0.0):
    """IoU of each true mask with itself after a stay in side x side cells, and the share of its pixels at its edge."""
    overlaps, thinness = [], []
    for _, target in data:
        masks, boxes = target["masks"], target["boxes"]
        squares = project_masks(masks, boxes - shift, torch.arange(len(boxes)), side)
        back = paste_masks(squares[:, None], boxes, masks.shape[-2:])[:, 0] >= 0.5
        overlaps.append(mask_training.mask_iou(back, masks))
        inner = -F.max_pool2d(-masks[:, None].float(), 3, 1, 1)[:, 0]  # the mask without its outermost pixels
        thinness.append(1 - inner.flatten(1).sum(1) / masks.flatten(1).sum(1))
    return torch.cat(overlaps), torch.cat(thinness)


usual, enlarged = [validation[i] for i in range(40)], [Scenes("val", 12, size=480)[i] for i in range(12)]

# %%
# NBVAL_CHECK_OUTPUT
means = {}
for name, data, shift in (("160 px", usual, 0.0), ("480 px", enlarged, 0.0), ("160 px, cut half a pixel to the left and up", usual, 0.5)):
    for side in (7, 14, 28, 56):
        overlap, thin = ceiling(data, side, shift)
        order, third = thin.argsort(), len(thin) // 3
        means[name, side] = overlap.mean().item()
        print(f"{side:2d} × {side:2d}: IoU of perfect squares {means[name, side]:.3f}; compact third {overlap[order[:third]].mean():.3f}, thin third {overlap[order[-third:]].mean():.3f}; scenes of {name}")
assert means["480 px", 56] > means["480 px", 28] > means["480 px", 14] > means["480 px", 7]
assert means["160 px, cut half a pixel to the left and up", 28] > means["160 px", 28]

# %% [markdown]
# Thin shapes lose most, at every resolution. How much 28 × 28 costs depends on the object's size in pixels: at 480 pixels a scene, where objects are three times as large, each doubling still helps.
#
# And one surprise, which only an exact experiment shows: at 160 pixels the step from 28 to 56 cells seems to bring nothing. The reason is no lack of cells but **half a pixel**. RoIAlign as torchvision uses it here
# (`aligned=False`) takes the corner of a pixel for its middle: the target is cut half a pixel too far to the right and below, and is pasted where the box is. The last four rows cut it where it belongs. This lesson is about rounding;
# here is a last half pixel of it, in the reference itself, which our models keep in order to be equal to it.

# %%
overlap, _ = ceiling(enlarged, 28)
everything = [(image, mask[None], box[None]) for image, target in enlarged for mask, box in zip(target["masks"], target["boxes"])]
image, one, box = everything[overlap.argmin()]
back = paste_masks(project_masks(one, box, torch.tensor([0]), 28)[:, None], box, one.shape[-2:])[:, 0] >= 0.5
x1, y1, x2, y2 = box[0].int().tolist()
figure, axes = images_figure([image[:, y1:y2, x1:x2]] * 2, ["the true mask", f"through 28 × 28 cells: IoU {overlap.min():.2f}"], columns=2, width=4.5)
for ax, mask in zip(axes, (one, back)):
    draw_masks(ax, mask[:, y1:y2, x1:x2])
show(figure, alt="The object that loses most: left its true mask, right what is left of it after being squeezed into 28 by 28 cells and pasted back.")

# %% [markdown]
# ## 8 Find the mistake
#
# Each of these stood in real lecture notes. Run, read the verdict, repair, run again.
#
# *"RoIAlign: max-pool each sub-region."* The paper tried both and uses the average, as does the library:

# %%
# NBVAL_CHECK_OUTPUT
from utils.grading import check

cases = [(small[None, None], torch.tensor([[x, 0.9, x + 1.6, 2.5]])) for x in (0.6, 1.1)]


def align_mistake_1(features, box):
    samples = roi_align(features, [box], 2, 1.0, sampling_ratio=1)  # one bin's four samples, as four bins
    return samples.amax(dim=(2, 3))


check(align_mistake_1, lambda features, box: roi_align(features, [box], 1, 1.0, sampling_ratio=2)[..., 0, 0], cases)

# %% [markdown]
# *"... the value at the centre of each region."* One sample at the centre is not four around it:

# %%
# NBVAL_CHECK_OUTPUT
def align_mistake_2(features, box):
    return roi_align(features, [box], 1, 1.0, sampling_ratio=1)[..., 0, 0]


check(align_mistake_2, lambda features, box: roi_align(features, [box], 1, 1.0, sampling_ratio=2)[..., 0, 0], cases)

# %% [markdown]
# *"The loss of Mask R-CNN is $L_{RPN} + L_{Faster\,R\text{-}CNN} + L_{mask}$."* What does Faster R-CNN's loss already hold?

# %%
# NBVAL_CHECK_OUTPUT
five = {"loss_objectness": 0.2, "loss_rpn_box_reg": 0.1, "loss_classifier": 0.5, "loss_box_reg": 0.3, "loss_mask": 0.4}


def loss_mistake_3(losses):
    rpn = losses["loss_objectness"] + losses["loss_rpn_box_reg"]
    faster_rcnn = rpn + losses["loss_classifier"] + losses["loss_box_reg"]
    return rpn + faster_rcnn + losses["loss_mask"]


check(loss_mistake_3, lambda losses: sum(losses.values()), [(five,)])

# %% [markdown]
# *"At test time the mask is upsampled to the size of the image."* To the size of its **box**:

# %%
# NBVAL_CHECK_OUTPUT
def paste_mistake_4(mask, box, size):
    return F.interpolate(mask, size=size, mode="bilinear", align_corners=False) >= 0.5


check(paste_mistake_4, lambda mask, box, size: paste_masks(mask, box, size) >= 0.5, [(torch.ones(1, 1, 2, 2), torch.tensor([[2.0, 2, 6, 6]]), (8, 8))])

# %% [markdown]
# *"Table 2c, ResNet-50-C4: RoIAlign raises mask AP from 23.6 to 30.9, by 7.3 points."* Which line of section 5 is that? Give RoIAlign's gain for ResNet-50-C4 at stride 16:

# %%
# NBVAL_CHECK_OUTPUT
def gain_mistake_5(stride):
    return 30.9 - 23.6


check(gain_mistake_5, lambda stride: {16: 30.2 - 26.9, 32: 30.9 - 23.6}[stride], [(16,), (32,)])

# %% [markdown]
# ## 9 Exercises
#
# **1.** Read a map (H, W) between its cells: the bilinear value at (x, y), both inside the map.

# %%
def bilinear(values, x, y):
    ...


check(bilinear, lambda values, x, y: F.grid_sample(values[None, None], torch.tensor([[[[2 * x / 3 - 1, 2 * y / 3 - 1]]]]), align_corners=True)[0, 0, 0, 0], [(small, 1.5, 0.5), (small, 0.25, 2.0)])

# %% [markdown]
# **2.** By how many pixels can rounding move a corner, at most, on a map of a given stride?

# %%
def largest_shift(stride):
    ...


check(largest_shift, lambda stride: stride / 2, [(16,), (32,)])

# %% [markdown]
# **3.** How many numbers does the mask branch predict for K classes in m × m cells, for N regions, and how many of them does the loss look at?

# %%
def predicted_and_used(n, k, m):
    ...


check(predicted_and_used, lambda n, k, m: torch.tensor([n * k * m * m, n * m * m]), [(4, 80, 28), (1, 6, 14)])

# %% [markdown]
# **4.** Do masks help boxes? Let lesson 06's detector go on for as long as the shipped Mask R-CNN did, without masks (`start_from_lesson` and `fit` in `lessons.detection_training`), and compare box AP. How many seeds do you need?
#
# **5.** Draw the masks of section 3.6 for the *proposals* (`detector.rpn`) instead of the detections. How do they differ, and what does it cost?
#
# **6.** *Think first.* Two objects of one class overlap in one box. What does the mask branch see, and what can it do? Try with a scene in which two birds touch.
#
# **7.** *Think first.* The RPN still rounds nothing, NMS works on boxes: what would have to change if you suppressed by the overlap of masks instead?
#
# ## 10 Summary, limits and what came next
#
# - One small convolutional branch more, and each detection has an outline: a square of 28 × 28 for its class, pasted into its box.
# - RoIAlign rounds nothing. The error of RoIPool, its mean shift taken off, grows with the stride; in our masks RoIAlign wins at every stride, though not by more at the coarse ones.
# - Classes do not compete for pixels: the class branch names, the mask branch draws.
# - Keypoints are masks with one bright pixel; there the cells compete.
#
# **Limits.** A mask is no finer than 28 × 28, and never better than its box; what NMS removed gets no mask; two stages, region by region.
#
# **What we did not reproduce:** COCO, the paper's numbers, human keypoints. Real photographs of nuclei are five or six minutes of training on two cores: `python -m lessons.training mask_rcnn --dataset nuclei --profile full` reached a mask AP of 0.60 on ours. Models of the paper's size take torchvision's published weights: `zoo.load("maskrcnn_resnet50_fpn", "published")` gives torchvision's detections.
#
# **Next:** RetinaNet asks whether the second stage is needed at all.
#
# *Paper: K. He, G. Gkioxari, P. Dollár, R. Girshick, ICCV 2017. RoIWarp: J. Dai, K. He, J. Sun, CVPR 2016. Extreme points: X. Zhou, J. Zhuo, P. Krähenbühl, CVPR 2019. Photographs: `data/CREDITS.csv`.*

# %% tags=["nbval-ignore-output"]
context.budget()
