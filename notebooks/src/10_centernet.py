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
# # 10 · CornerNet and CenterNet: objects as keypoints
#
# All detectors so far asked at many places: *is there an object here, and how far do its sides reach?* CornerNet asks another question: **where are corners?** A box is a top-left and a bottom-right corner that belong together; no anchor, no
# regressed size. CenterNet adds a third point, the **centre**: for a pair of corners alone never looks at what lies between them.
#
# You draw the heat maps that such a network learns, build its odd poolings (a corner of a box is mostly *not on the object*), pair corners by their tags, and let centres throw out the wrong pairs.
#
# *Everything runs offline on a laptop; the whole notebook takes about 90 seconds. Run the cells from top to bottom.*

# %%
import torch

from utils.setup import setup

context = setup("10", seed=0)

# %% [markdown]
# ## 0 First result
#
# CenterNet with the small body of the other notebooks, trained on our scenes; here on new ones (four on which it does well; section 5 measures 200):

# %%
from lessons import zoo
from lessons.data.scenes import CLASSES, Scenes
from utils.figures import detections_figure, show

detector = zoo.load("centernet", weights="lesson")
validation = Scenes("val", length=200)
shown = [validation[i] for i in (22, 24, 4, 2)]
with torch.no_grad():
    detections = detector([image for image, _ in shown])
figure = detections_figure([image for image, _ in shown], detections, CLASSES, threshold=0.25, title="CenterNet on four new scenes")
show(figure, alt="Four composed photographs with the boxes, class names and scores that CenterNet found; most boxes are right, and some objects have none.")

# %% [markdown]
# What it says is mostly right, but it misses objects and is sure of few: three points must be found for each, and a score is the mean of three doubts. (Here scores of at least 0.25 are shown; in notebooks 08 and 09 it was 0.4 and 0.5.)

# %% [markdown]
# ## 1 The papers
#
# | | CornerNet | CenterNet |
# |---|---|---|
# | Title | *CornerNet: Detecting Objects as Paired Keypoints* | *CenterNet: Keypoint Triplets for Object Detection* |
# | Authors | Hei Law, Jia Deng (University of Michigan) | Kaiwen Duan, Song Bai, Lingxi Xie, Honggang Qi, Qingming Huang, Qi Tian |
# | Venue | ECCV 2018 (arXiv 1808.01244) | ICCV 2019 (arXiv 1904.08189) |
# | Task | object detection on MS COCO | object detection on MS COCO |
#
# *Not to be confused with* "Objects as Points" (Zhou, Wang, Krähenbühl 2019), which is called CenterNet as well: it finds *one* point for each object and regresses the size.
#
# **Background.** One-stage detectors of 2017 need anchors: many, nearly all of them background, with sizes and shapes to choose. **Problem.** Can one do without? And, a year later: corners alone make many *wrong boxes*. Why, and what removes them cheaply?
#
# **Contributions of CornerNet.** (1) A box is a pair of corners, found in heat maps as joints are in human pose estimation, and paired by learned *tags*. (2) *Corner pooling*, which tells a corner what lies on the edges that begin there. (3) A loss that forgives corners a little beside the true ones.
# **Contributions of CenterNet.** (1) A *triplet*: a pair counts only if a centre keypoint lies in its middle. (2) *Centre pooling* and *cascade corner pooling*, which look into the object.

# %% [markdown]
# ## 2 The method in one picture
#
# ```mermaid
# %%{init: {"theme": "neutral"}}%%
# flowchart LR
#     accTitle: CornerNet and CenterNet
#     accDescr: A picture goes through the backbone to one map of stride 4. Three branches follow. Two with cascade corner pooling give heat, tags and offsets of top-left and bottom-right corners, the third with centre pooling gives heat and offsets of centres. Corners of one class with similar tags make boxes, a box stays if a centre lies in its middle, then soft-NMS.
#     I["image"] --> B["backbone<br/>(hourglass)"] --> M["one map<br/>stride 4"]
#     M --> TL["cascade corner pooling"] --> A["top-left corners<br/>heat, tags, offsets"]
#     M --> BR["cascade corner pooling"] --> C["bottom-right corners<br/>heat, tags, offsets"]
#     M --> CP["centre pooling"] --> D["centres<br/>heat, offsets"]
#     A & C --> P["pairs: same class,<br/>similar tags"]
#     P --> T{"a centre in<br/>the middle?"}
#     D --> T
#     T -->|yes| N["soft-NMS"]
# ```
#
# CornerNet is the same without the lowest branch, and with plain corner pooling.

# %% [markdown]
# ## 3 Building it, step by step
#
# ### 3.1 How many boxes do two maps hold?
#
# *Question.* Our map has 40 × 40 cells. How many boxes with corners on cells are there, and how many numbers does a network need to speak of all of them?

# %%
# NBVAL_CHECK_OUTPUT
cells = 40
boxes = (cells * (cells - 1) // 2) ** 2  # choose two columns and two rows
numbers = {"heat": 2 * 6, "tags": 2 * 1, "offsets": 2 * 2}
print(f"{boxes:,} boxes")
print(f"{sum(numbers.values()) * cells**2:,} numbers: at each cell {numbers}")

# %% [markdown]
# That is the paper's argument for corners: the square of the number of places in boxes, out of a number of outputs that only grows with the places. Anchors sample the boxes, corners span them. And a corner needs *two* sides of a box to be seen, a centre all four.
#
# ### 3.2 What the network shall draw
#
# A heat map for each class and each kind of keypoint: 1 at a true corner. But a corner one cell beside makes nearly as good a box, and should not be punished like one in the sky. How far beside is fine? As far as the box keeps an IoU of 0.3. Both corners are off by up to r in x and y; the worst case is one of three:
#
# | both corners move ... | shared area | IoU |
# |---|---|---|
# | alike | $(w - r)(h - r)$ | shared / ($2wh$ − shared) |
# | inwards | $(w - 2r)(h - 2r)$ | shared / $wh$ |
# | outwards | $wh$ | $wh / (w + 2r)(h + 2r)$ |
#
# Each is a quadratic equation in r. Let a search find the largest r for a box of 10 × 6 cells:

# %%
from lessons.boxes import box_iou
from lessons.heatmaps import gaussian_radius, keypoint_heat

width, height = 10.0, 6.0
box = torch.tensor([[0.0, 0, width, height]])
moves = torch.tensor([[1.0, 1, 1, 1], [1, 1, -1, -1], [-1, -1, 1, 1], [1, -1, 1, -1], [-1, 1, 1, -1]])
candidates = torch.arange(0, 3, 0.001)
worst = torch.stack([box_iou(box, box + r * moves).amin() for r in candidates])
by_hand = candidates[worst >= 0.3].max()
torch.testing.assert_close(gaussian_radius(torch.tensor([[width, height]]))[0], by_hand, rtol=0, atol=0.002)
print(f"{width:g} x {height:g} cells: corners may be {by_hand:.2f} cells off")

# %% tags=["nbval-ignore-output"]
from utils.source import show_source

show_source(gaussian_radius)

# %% [markdown]
# Inside this radius (rounded down to r) the target falls like a bell, $e^{-(dx^2 + dy^2) / 2\sigma^2}$ with $\sigma = (2r + 1) / 6$; outside it is 0. One bump by hand:

# %%
# NBVAL_CHECK_OUTPUT
import math

r, column, row = 2, 6, 4
by_hand = torch.zeros(9, 12)
for i in range(row - r, row + r + 1):
    for j in range(column - r, column + r + 1):
        by_hand[i, j] = math.exp(-((i - row) ** 2 + (j - column) ** 2) / (2 * ((2 * r + 1) / 6) ** 2))
found = keypoint_heat(torch.tensor([[column, row]]), torch.tensor([0]), torch.tensor([2.4]), (1, 9, 12))
torch.testing.assert_close(found[0], by_hand)
print(*(f"{value:.2f}" for value in by_hand[row, column - 3 : column + 4]))

# %% [markdown]
# **Look at it.** The targets of a scene, largest over the classes; the true boxes dashed. Before you run: which of the three kinds of points lie *on* an object?

# %%
from utils.figures import draw_boxes, draw_heat_map, new_figure

scene, scene_target = shown[0]
with torch.no_grad():
    maps, batch = detector.predict([scene])
places = detector.keypoints([scene_target])
wanted = {kind: detector.wanted_heat([p[0].floor().long().clamp(max=39)], [scene_target], maps[kind].heat) for kind, p in places.items()}
figure, axes = new_figure(columns=3, rows=2, width=3.8, height=3.5)
for row_axes, (source, heats) in zip(axes, (("target", wanted), ("found", {kind: one.heat for kind, one in maps.items()}))):
    for ax, (kind, heat) in zip(row_axes, heats.items()):
        draw_heat_map(ax, scene, heat[0].amax(dim=0), f"{kind.replace('_', ' ')}: {source}", opacity=0.75)
        draw_boxes(ax, scene_target["boxes"], colors=["#FFFFFF"], linestyle="--", linewidth=1.5)
show(figure, alt="Heat maps of top-left corners, bottom-right corners and centres of a scene: the targets above, small bells at the boxes' corners and centres, and below what the trained detector says.")

# %% [markdown]
# **The loss** is the focal loss of notebook 08 with one addition: a negative place under a bump counts less, by $(1 - y)^4$.
#
# $$L = -\frac{1}{N} \sum \begin{cases} (1 - p)^2 \log p & y = 1 \\ (1 - y)^4\, p^2 \log(1 - p) & \text{otherwise} \end{cases}$$

# %%
from lessons.losses import corner_focal_loss

logits, y = maps["top_left"].heat.logit(), wanted["top_left"]
p, terms = logits.sigmoid(), torch.zeros_like(y)
terms[y == 1] = (1 - p[y == 1]) ** 2 * p[y == 1].log()
terms[y < 1] = (1 - y[y < 1]) ** 4 * p[y < 1] ** 2 * (1 - p[y < 1]).log()
by_hand = -terms.sum() / (y == 1).sum()
torch.testing.assert_close(corner_focal_loss(logits, y), by_hand, rtol=1e-4, atol=1e-5)
print(f"heat loss of the top-left corners of this scene: {by_hand:.3f}")

# %% [markdown]
# **Offsets.** A cell is 4 pixels wide. Where in its cell a corner lies is regressed by smooth L1, at true corners only. Without it a side would be off by 2 pixels on average and by nearly 4 at worst, much for small objects.
#
# ### 3.3 Corner pooling
#
# *Question.* What is to be seen at the top-left corner of a bird? The sky. Everything that tells of the bird lies to the *right* (its topmost feather) and *below* (its leftmost). So let each cell look along its row and down its column, and take the largest value of each. Rows first, by hand:

# %%
# NBVAL_CHECK_OUTPUT
from lessons.corners import corner_pool

x = torch.tensor([[2.0, 1, 3, 0, 2], [0, 4, 0, 1, 0], [1, 0, 0, 0, 5]])
by_hand = torch.stack([torch.stack([x[i, j:].max() for j in range(5)]) for i in range(3)])
torch.testing.assert_close(corner_pool(x[None, None], "left")[0, 0], by_hand)
print(x[0].tolist(), "->", by_hand[0].tolist())

# %% [markdown]
# A running maximum from right to left. "left" is the authors' word: the pooling that finds a *left* edge; "top" runs from the bottom up. For a top-left corner both are added; for a bottom-right one, "right" and "bottom".

# %%
across = corner_pool(x[None, None], "left")[0, 0]
down = torch.stack([torch.stack([x[i:, j].max() for j in range(5)]) for i in range(3)])
torch.testing.assert_close(corner_pool(x[None, None], "top")[0, 0], down)
print((across + down).int().tolist())

# %% [markdown]
# **Cascade corner pooling** (CenterNet). An edge knows little of the object: the maximum along the top edge is perhaps an ear. So, from *where the maximum lies*, look a second time, into the object, at right angles; add both.
# **Centre pooling.** A centre may show nothing special either (a horse's belly). Look along its *whole* row and its *whole* column.

# %%
from lessons.corners import cascade_corner_pool, center_pool

row, column = 0, 1  # a cell
j = column + int(x[row, column:].argmax())  # along its row to the right; then from there down
i = row + int(x[row:, column].argmax())  # and down its column; then from there to the right
by_hand = (x[row, j] + x[row:, j].max()) + (x[i, column] + x[i, column:].max())
torch.testing.assert_close(cascade_corner_pool(x[None, None], "top_left")[0, 0, row, column], by_hand)
whole = x.max(dim=1, keepdim=True).values + x.max(dim=0, keepdim=True).values
torch.testing.assert_close(center_pool(x[None, None])[0, 0], whole)
print(f"cascade at row {row}, column {column}: {by_hand:.0f}; centre pooling there: {whole[row, column]:.0f}")

# %% tags=["nbval-ignore-output"]
show_source(cascade_corner_pool)

# %% [markdown]
# **Look, step by step.** The map is a channel that the trained detector pools for its top-left corners. Click a corner of an object, press *Next*, and compare the kinds. From where does the corner learn of its object?

# %% tags=["widget", "nbval-ignore-output"]
from utils.widgets import PoolingExplorer

with torch.no_grad():
    features = detector.backbone(batch.pixels)[0]
    channels = detector.heads[0]["top_left"].pooling.second(features)[0]
strongest = channels.flatten(1).amax(dim=1).argmax()
corner = (scene_target["boxes"][0, :2] / 4).int().tolist()
pooling = PoolingExplorer(scene, channels[strongest], cell=corner)
pooling.pooling, pooling.step = "cascade, top-left", 4
pooling

# %% tags=["static"]
show(pooling.static(), alt="A channel of the network's features over a scene, with four numbered lines from a chosen cell along its row, down from the maximum, down its column and to the right from that maximum; beside it the whole map after cascade corner pooling.")

# %% [markdown]
# **In the network** the poolings do not act on one map: two convolutions of the features, one pooled down, the other across, are added, and a third convolution follows (a residual block whose first layer is the pooling). The authors' cascade even looks inside *first* and along the edge *second*, with
# convolutions in between; the library's module follows their network, its function the paper's words. The centre's module by hand:

# %%
pooler = detector.heads[0]["centre"].pooling
with torch.no_grad():
    columns, rows = pooler.first(features), pooler.second(features)
    by_hand = columns.max(dim=2, keepdim=True).values + rows.max(dim=3, keepdim=True).values
    torch.testing.assert_close(pooler(features), by_hand)
print(tuple(columns.shape), "and", tuple(rows.shape), "->", tuple(by_hand.shape))

# %% [markdown]
# ### 3.4 Which corners belong together?
#
# Two birds give two top-left and two bottom-right corners: four possible boxes. Each corner therefore says a number, its **tag**. No target says which; only that the two of one object shall be *equal* (pull) and those of different objects at least 1 *apart* (push). With $e_k$ the mean of object k's two tags:
#
# $$L_{pull} = \frac{1}{N} \sum_k (e_{tk} - e_k)^2 + (e_{bk} - e_k)^2, \qquad L_{push} = \frac{1}{N(N-1)} \sum_k \sum_{j \ne k} \max(0, 1 - |e_k - e_j|)$$

# %%
from lessons.losses import pull_push_loss

cells_tl, cells_br = (places[kind][0].floor().long().clamp(max=39) for kind in ("top_left", "bottom_right"))
top_left = maps["top_left"].tags[0, 0, cells_tl[:, 1], cells_tl[:, 0]]
bottom_right = maps["bottom_right"].tags[0, 0, cells_br[:, 1], cells_br[:, 0]]
mean, count = (top_left + bottom_right) / 2, len(top_left)
pull = ((top_left - mean) ** 2 + (bottom_right - mean) ** 2).sum() / count
push = sum(max(0, 1 - abs(mean[k] - mean[j]).item()) for k in range(count) for j in range(count) if j != k) / max(count * (count - 1), 1)
torch.testing.assert_close(torch.stack(pull_push_loss(top_left, bottom_right)), torch.stack([pull, torch.tensor(push)]), rtol=1e-4, atol=1e-5)
for label, one, other in zip(scene_target["labels"], top_left, bottom_right):
    print(f"{CLASSES[label]:10s} top-left {one:6.2f}   bottom-right {other:6.2f}")

# %% [markdown]
# Tags come from *associative embedding* (Newell, Huang, Deng 2017), where they group the joints of people. The total loss: heat + offsets + 0.1 pull + 0.1 push, corners and centres together.
#
# ### 3.5 From maps to boxes
#
# A corner is a cell with no higher neighbour (a 3 × 3 maximum does it); the best 70 are taken (100 in CornerNet), over all classes. Every top-left and bottom-right of one class, the second right of and below the first, tags no further apart than 0.5, make a box; its score is the mean of the two.

# %%
from lessons.corners import decode_corners, find_peaks

first, second = (find_peaks(maps[kind], 0, top_k=70) for kind in ("top_left", "bottom_right"))
pairs = []
for a in range(len(first.scores)):
    for b in range(len(second.scores)):
        near = abs(first.tags[a] - second.tags[b]) <= 0.5
        if first.labels[a] == second.labels[b] and near and (first.places[a] < second.places[b]).all():
            pairs.append(((first.scores[a] + second.scores[b]) / 2).item())
(decoded,) = decode_corners(maps["top_left"], maps["bottom_right"], top_k=70)
torch.testing.assert_close(decoded["scores"], torch.tensor(sorted(pairs, reverse=True)))
print(f"{len(first.scores)} x {len(second.scores)} corners: {len(pairs)} pairs, {sum(score >= 0.1 for score in pairs)} of them with a score of at least 0.1")

# %% [markdown]
# ### 3.6 The centre's veto
#
# A wrong pair (the first bird's corner with the second bird's) is a box around something else, and *its middle* tells. CenterNet finds centres in a third heat map and keeps a box only if a centre of its class lies in its **central region**: the middle one of n × n parts. n is 3 for small boxes and 5 for large ones
# (above 150 pixels): a third of a large box would let too much pass, a fifth of a small one is smaller than the error of the centre.

# %%
from lessons.corners import central_region, centre_scores

box = torch.tensor([[30.0, 40, 90, 130]])
x1, y1, x2, y2 = box[0].tolist()
by_hand = [(2 * x1 + x2) / 3, (2 * y1 + y2) / 3, (x1 + 2 * x2) / 3, (y1 + 2 * y2) / 3]
torch.testing.assert_close(central_region(box, large=150)[0], torch.tensor(by_hand))
print("60 x 90 pixels, thirds:", by_hand, " fifths:", central_region(box, large=50)[0].tolist())

# %%
from lessons.corners import decode_triplets

centres = find_peaks(maps["centre"], 0, top_k=70)
best = centre_scores(decoded["boxes"], decoded["labels"], centres, large=37.5)  # 150 px in cells; 0 where there is none
kept = best > 0
by_hand = ((2 * decoded["scores"] + best) / 3)[kept].sort(descending=True).values  # the mean of three keypoints
(triplets,) = decode_triplets(*maps.values())
torch.testing.assert_close(triplets["scores"], by_hand)
print(f"{len(kept)} pairs, {int(kept.sum())} with a centre in their middle")

# %% [markdown]
# **Switch the test on and off.** Blue boxes are right, red ones wrong. Which wrong ones survive the test, and why? Click a row of the list to see a box's middle. Then let tags differ more: what do the tags do, once there are centres?

# %% tags=["widget", "nbval-ignore-output"]
from utils.widgets import TripletExplorer

grouping = TripletExplorer.from_detector(detector, *shown[0], CLASSES)
grouping.central = True
grouping

# %% tags=["static"]
show(grouping.static(), alt="A scene three times: boxes of all pairs of corners, right ones solid and wrong ones dashed; the boxes that a centre confirms; and one box with its central region and all keypoints.")

# %% [markdown]
# ### 3.7 Still not free of NMS
#
# A corner has neighbours that pass as corners too, and so a good box has good neighbours. Both papers end with **soft-NMS** (notebook 01): the score of an overlapping box falls by $e^{-o^2 / 0.5}$, o the IoU.

# %%
from lessons.nms import soft_nms

pixels, kept, scores = triplets["boxes"].clamp(0, 40) * 4, [], []
for label in triplets["labels"].unique():
    own = torch.where(triplets["labels"] == label)[0]
    left, score = soft_nms(pixels[own], triplets["scores"][own], sigma=0.5, method="gaussian")
    kept.append(own[left])
    scores.append(score)
best = torch.cat(scores).sort(descending=True).values[:100]
torch.testing.assert_close(detections[0]["scores"], best)
print(f"{len(triplets['scores'])} boxes; scores of at least 0.3 have {int((triplets['scores'] >= 0.3).sum())} before soft-NMS and {int((best >= 0.3).sum())} after")

# %% [markdown]
# ### 3.8 The backbone: an hourglass
#
# Heat maps need fine cells *and* the whole picture. The hourglass goes down to a few cells and back up, with a detour at every size. The papers stack two, with 104 layers. Ours below is tiny and untrained; the detector of this notebook uses the pyramid of notebook 06 instead, whose finest map has stride 4 as well and whose body was
# trained on crops.

# %%
# NBVAL_CHECK_OUTPUT
from lessons.backbones.hourglass import Hourglass, HourglassModule

module = HourglassModule((8, 12, 16), (1, 1, 1)).eval()
x = torch.rand(1, 8, 20, 20)
with torch.no_grad():
    low = module.up(module.middle(module.down(x)))  # (10, 10), and inside 5 x 5
    by_hand = module.skip(x) + low.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(module(x), by_hand)
with torch.device("meta"):  # shapes without numbers
    published = Hourglass()
print(f"the papers' two hourglasses: {sum(p.numel() for p in published.parameters()) / 1e6:.0f} million weights; our whole detector: {sum(p.numel() for p in detector.parameters()) / 1e6:.1f}")

# %% tags=["nbval-ignore-output"]
show_source(HourglassModule)

# %% [markdown]
# ## 4 Training
#
# The loop is the one of all notebooks; the losses are heat, offset, pull and push. The full training (10,800 scenes, 2700 steps of 4; `make checkpoints`) gave the checkpoint of section 0. Here: **20 steps** from the body that was pre-trained on crops.

# %% tags=["nbval-ignore-output"]
from lessons.detection_training import Plan, fit, open_for_training
from lessons.recipes import centernet as recipe
from lessons.recipes.small_resnet import start_from_pre_trained
from utils.live import LiveCurve

model = recipe.build()
start_from_pre_trained(model.backbone.body)
history = fit(model, open_for_training("scenes", 60), Plan(60, 20, 0, 4), device="cpu", progress=False, callbacks=[LiveCurve("Training CenterNet: heat, offsets, tags")])

# %% [markdown]
# ## 5 Results
#
# **The papers' numbers** (COCO, in percent; CornerNet's ablations on validation pictures, Hourglass-104; CenterNet's with Hourglass-52):
#
# | CornerNet | AP |
# |---|---|
# | without corner pooling | 36.5 |
# | with it | 38.4 |
# | targets: one cell alone / bumps of one size / bumps of the object's size | 32.9 / 35.6 / 38.4 |
# | test-dev, one scale / several | 40.5 / 42.1 |
#
# | CenterNet (511 pixels) | AP |
# |---|---|
# | CornerNet, the baseline | 37.6 |
# | with cascade corner pooling | 38.3 |
# | with centres and their test | 39.9 |
# | with centres, test and centre pooling | 40.8 |
# | with all three | 41.3 |
# | all, with the *true* centres | 56.5 |
# | test-dev, Hourglass-104, several scales | 47.0 |
#
# The test raises AP on small objects from 18.5 to 23.1 and leaves that on large ones as it was. **Our measurements** have nothing to do with these; from the cards of the shipped checkpoints:

# %%
from lessons.checkpoints import load_checkpoint

print(f"{'our embedded scenes':30s} AP    AP50   AP75   small  medium")
for split, words in (("val", "known objects"), ("val_unknown", "unknown objects")):
    for name, label in (("retinanet", "RetinaNet"), ("fcos", "FCOS"), ("centernet", "CenterNet")):
        numbers = load_checkpoint(zoo.CHECKPOINTS / f"{name}.safetensors")[1]["metrics"][split]
        print(f"{label + ', ' + words:30s}", "  ".join(f"{numbers[key]:.3f}" for key in ("AP", "AP50", "AP75", "AP_small", "AP_medium")))

# %% [markdown]
# On known objects ours is the weakest of the three; in the papers CenterNet is ahead, with a far larger backbone and 480,000 steps of 48 pictures. Ours saw 2700 steps of 4, half as many pictures as FCOS did, and three heat maps and the tags must all be right before there is a single box. But the boxes that
# it finds are good: AP75 is 55 % of AP50, with FCOS 53 % and with RetinaNet 48 %. On unknown objects none of the three is clearly ahead.

# %% [markdown]
# ## 6 A claim of the papers, reproduced in shape
#
# **Claim 1** (CenterNet, on false discoveries and on true centres): centres remove wrong boxes, the small ones most; with *true* centres the boxes would be much better still. **Predict:** which share of the wrong boxes stays?
#
# The shipped detector on 100 new scenes, three draws, nothing trained: the same maps, decoded in four ways, by `python -m experiments centernet_regions`.

# %%
from experiments.record import load_result
from utils.figures import bars_figure

result = load_result("centernet_regions")
bars = {name: [[one[name][key] for one in result["per_seed"].values()] for key in ("wrong, small", "wrong, larger")] for name in result["mean"]}
figure = bars_figure(bars, ylabel="wrong boxes a scene", title="What the centre's test removes (our scenes, 3 draws)", groups=("small boxes", "larger boxes"))
show(figure, alt="Wrong boxes a scene, small and larger ones, with corners alone, with centres in the middle third, in the middle fifth, and with true centres; dots are draws.")

# %%
# NBVAL_CHECK_OUTPUT
for name, numbers in result["mean"].items():
    print(f"{name:14s}", "  ".join(f"{key} {numbers[key]:.3f}" for key in ("AP", "wrong, small", "wrong, larger", "covered, small", "covered, larger")))
for statement, holds in result["verdict"].items():
    print("yes" if holds else "no ", statement)
assert len(result["seeds"]) >= 3
assert result["verdict"]["centres remove wrong boxes"]
assert result["verdict"]["true centres raise AP further"]

# %% [markdown]
# **What came out.** The claim holds in every draw. Asking for a centre in the middle third removes nine in ten of the small wrong boxes and half of the larger ones; AP rises from 0.218 to 0.306, and with true centres to 0.413: the centres that the network finds are the weakest part of it. It has its price: an object whose own centre was not found is lost
# with the wrong boxes. Of the small objects a box covers 71 % before the test and 59 % after it; with fifths, 46 %. That is why the region of small boxes has to be *large in proportion* (thirds, not fifths).
#
# **Claim 2** (CornerNet's ablation: 36.5 AP without corner pooling, 38.4 with it): corner pooling raises AP. To decide that in small takes nine trainings of 300 steps, about half an hour (`python -m experiments centernet_pooling`): CornerNet without pooling, with it, and with cascades, three seeds. So short a training hardly
# pairs corners, so look at the corners themselves: how many of the true ones are among the ten best of the map? **Predict** the order.

# %%
result = load_result("centernet_pooling")
kinds = ("no pooling", "corner pooling", "cascade corner pooling")
bars = {kind: [[one[kind]["corners found"] for one in result["per_seed"].values()], [10 * one[kind]["AP"] for one in result["per_seed"].values()]] for kind in kinds}
figure = bars_figure(bars, ylabel="share of corners, AP times ten", title="What corner pooling is good for (our scenes, 3 seeds)", groups=("corners found", "AP times ten"))
show(figure, alt="Corners found and AP without pooling, with corner pooling and with cascade corner pooling; dots are seeds.")

# %%
# NBVAL_CHECK_OUTPUT
for kind in kinds:
    print(f"{kind:23s}", "  ".join(f"{key} {result['mean'][kind][key]:.3f}" for key in ("corners found", "AP", "AP50", "AP75")))
for statement, holds in result["verdict"].items():
    print("yes" if holds else "no ", statement)
assert len(result["seeds"]) >= 3

# %% [markdown]
# **What came out.** The paper's order. With corner pooling more corners are found than without in every seed, and AP is higher in every seed; cascades are ahead of it in two seeds of three. But mind the size: after 300 steps all three have an AP near 0.01, and the gain (one corner in fifty) is about as large as the seeds differ. It says
# which way pooling pulls, not how far.
#
# The same comparison live, for three steps, only to see that it runs:

# %% tags=["nbval-ignore-output"]
from experiments import centernet_pooling

live = centernet_pooling.run(seed=7, short=True)
print("live, 3 steps:", {name: row["corners found"] for name, row in live.items()})

# %% [markdown]
# ## 7 Questions answered
#
# **How far does centre pooling look: inside a box, or over the whole map?** The paper's text speaks of the object; its network takes the whole row and the whole column of the *map*, for at this point there is no box. A change far outside an object changes its centre's features:

# %%
# NBVAL_CHECK_OUTPUT
before = torch.rand(1, 1, 10, 10, generator=torch.Generator().manual_seed(0))
after = before.clone()
after[0, 0, 3, 9] = 5.0  # far away, in the same row
changed = (center_pool(after) != center_pool(before))[0, 0]
print("changed cells:", int(changed.sum()), "; all of row 3:", bool(changed[3].all()), "; all of column 9:", bool(changed[:, 9].all()))

# %% [markdown]
# **Where is the cascade in cascade corner pooling?** Two poolings one after the other: along the edge, and from where the maximum lies into the object (section 3.3).
#
# **What is the difference of the "central region" and "centre pooling"?** The first is a *rule of decision* (is there a centre in the middle?), the second a *layer* that helps to find centres. The paper measures them apart: the rule gives 2.3 AP (37.6 to 39.9), centre pooling on top of it 0.9 (to 40.8).
#
# **Are tags still needed?** Let all tags pass, with centres as the only judges, and look at 40 scenes:

# %%
from lessons.metrics import CocoMetrics

scenes = [validation[i] for i in range(40)]
with torch.no_grad():
    seen = [detector.predict([image]) for image, _ in scenes]


def judged(model, decode=None):
    metrics = CocoMetrics()
    for (one, made), (_, target) in zip(seen, scenes):
        found = (decode or model.decode)(one)
        metrics.update([model.suppress(pairs, size) for pairs, size in zip(found, made.sizes)], [target])
    return metrics.compute()


# %%
ways = {"tags and centres": None, "centres alone": lambda one: decode_triplets(*one.values(), max_distance=99.0), "tags alone": lambda one: decode_corners(one["top_left"], one["bottom_right"], 70),
        "neither": lambda one: decode_corners(one["top_left"], one["bottom_right"], 70, max_distance=99.0)}
for name, decode in ways.items():
    numbers = judged(detector, decode)
    print(f"{name:18s} AP {numbers['AP']:.3f}  AP50 {numbers['AP50']:.3f}")

# %% [markdown]
# Hardly. Tags alone help a little (AP 0.209 to 0.239), centres alone much more (0.339), and with centres at hand the tags even take a little away: two corners whose tags do not quite agree are lost although a centre vouches for them. A centre says *what* lies between two corners, a tag only that they look
# alike. (The other *CenterNet* of that year, "Objects as Points", has the centre alone and no corners at all.)
#
# **Is CenterNet free of NMS, then?** Nothing in its training asks for one box for each object. Without soft-NMS (or with one so narrow that nothing falls) on the same scenes:

# %%
for name, sigma in (("soft-NMS", 0.5), ("none", 1e9)):
    detector.nms_sigma = sigma
    numbers = judged(detector)
    print(f"{name:10s} AP {numbers['AP']:.3f}  AP50 {numbers['AP50']:.3f}  AP75 {numbers['AP75']:.3f}")
detector.nms_sigma = 0.5

# %% [markdown]
# No: without it AP falls from 0.319 to 0.247. Neighbouring corners make nearly the same box, and the same centre vouches for all of them. (DETR, notebook 11, trains for one box for each object.)
#
# ## 8 Find the mistake
#
# The first stood in real notes, the second in published code, the others are ours. Run, read the verdict, repair, run again.
#
# *"Centre pooling takes the maximum in the row and in the column inside the object's box."* Let that box be the 3 × 3 cells around its centre:

# %%
# NBVAL_CHECK_OUTPUT
from utils.grading import check


def centre_pooling_mistake_1(values, row, column):
    return values[row, column - 1 : column + 2].max() + values[row - 1 : row + 2, column].max()


check(centre_pooling_mistake_1, lambda values, row, column: values[row].max() + values[:, column].max(), [(torch.tensor([[3.0, 1, 0, 5], [0, 2, 1, 4], [6, 0, 1, 2]]), 1, 1)])

# %% [markdown]
# *The radius for "both corners inwards", as the solution of* $4r^2 - 2(w + h)r + (1 - o)wh = 0$. (With such roots, and an IoU of 0.7, CornerNet's code came to bumps nearly as wide as the right roots give at 0.3.)

# %%
# NBVAL_CHECK_OUTPUT
def radius_mistake_2(width, height, min_iou):
    a, b, c = 4, 2 * (width + height), (1 - min_iou) * width * height
    return (b + math.sqrt(b * b - 4 * a * c)) / 2


def right_radius(width, height, min_iou):
    a, b, c = 4, 2 * (width + height), (1 - min_iou) * width * height
    return (b - math.sqrt(b * b - 4 * a * c)) / (2 * a)


check(radius_mistake_2, right_radius, [(10.0, 10.0, 0.3), (30.0, 12.0, 0.7)])

# %% [markdown]
# *"For a top-left corner, take the maximum of the cells to its left and of those above it."*

# %%
# NBVAL_CHECK_OUTPUT
def top_left_mistake_3(values, row, column):
    return values[row, : column + 1].max() + values[: row + 1, column].max()


check(top_left_mistake_3, lambda values, row, column: values[row, column:].max() + values[row:, column].max(), [(torch.tensor([[3.0, 1, 5], [0, 2, 7], [6, 4, 0]]), 1, 1)])

# %% [markdown]
# *"The triplet needs no NMS: a centre confirms each object once."* Two boxes of one object, both with the same centre in their middle: how many stay?

# %%
# NBVAL_CHECK_OUTPUT
def boxes_left_mistake_4(boxes, centre):
    return 1


def boxes_left(boxes, centre):
    region = central_region(boxes, large=150)
    return int(((centre > region[:, :2]) & (centre < region[:, 2:])).all(dim=1).sum())


check(boxes_left_mistake_4, boxes_left, [(torch.tensor([[10.0, 10, 70, 70], [12, 8, 72, 70]]), torch.tensor([40.0, 40]))])

# %% [markdown]
# *Some notes say that the paper gives no number for all three parts together.* It does: 41.3 (section 5). (Nothing to run.)
#
# ## 9 Exercises
#
# **1.** Corner pooling "bottom" of one column, without `cummax`: each value becomes the largest of itself and all *above* it.

# %%
def bottom_pool(column):
    ...


check(bottom_pool, lambda column: [max(column[: i + 1]) for i in range(len(column))], [([1, 3, 2, 5, 4],), ([7],)])

# %% [markdown]
# **2.** Given tags of top-left and of bottom-right corners of one class, which pairs are made, as (i, j)? (Tags no further apart than 0.5; leave the places aside.)

# %%
def paired(top_left, bottom_right):
    ...


check(paired, lambda a, b: [(i, j) for i in range(len(a)) for j in range(len(b)) if abs(a[i] - b[j]) <= 0.5], [([0.0, 2.0], [0.3, 1.6, 5.0]), ([], [1.0])])

# %% [markdown]
# **3.** What share of a box's area is its central region, for n = 3 and n = 5? How likely does a centre that lies anywhere in a *wrong* box, at random, confirm it?
#
# **4.** Change `detector.max_distance` and `detector.top_k` and measure as in section 7. What is gained by 100 corners in place of 70, and by 10?
#
# **5.** Train CornerNet for 300 steps with targets of one cell alone (`min_iou = 1`), as in `experiments/centernet_pooling.py`. How many corners does it find?
#
# **6.** *Think first.* Two objects of one class have the same centre, one inside the other. What do heat maps, tags and centres do with them? What did anchors do?
#
# ## 10 Summary, limits and what came next
#
# - An object is **two corners** that say the same tag, found in heat maps; **no anchors**, no matching by IoU.
# - A corner lies outside the object: **corner pooling** brings what lies on its edges, cascades what lies inside.
# - Corners alone never look at the middle. **A centre there, or the box goes.** Its region is a third, for large boxes a fifth.
# - Bumps in the targets forgive what leaves the IoU high; offsets repair the stride.
# - Soft-NMS remains.
#
# **Limits.** Three keypoints must all be found; one lost, the object is lost. Pairs are quadratic in the corners. Objects with the same centre and class confuse it. Hourglass-104 is slow and large; CornerNet's was trained on ten GPUs.
#
# **What we did not reproduce:** the papers' numbers (COCO, Hourglass-104), tests at several scales and mirrored, the authors' random crops, and 480,000 steps.
#
# **Next:** DETR: a set of boxes at once, each object once, without NMS.
#
# *Papers: H. Law, J. Deng, ECCV 2018; K. Duan, S. Bai, L. Xie, H. Qi, Q. Huang, Q. Tian, ICCV 2019. Photographs: `data/CREDITS.csv`.*

# %% tags=["nbval-ignore-output"]
context.budget()
