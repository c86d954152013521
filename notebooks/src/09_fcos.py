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
# # 09 · FCOS: every point inside an object answers for it
#
# Anchors were a crutch: boxes laid over the picture so that there is something to correct, with sizes, shapes and thresholds chosen by hand. **FCOS** throws them away. A cell of the feature map is a *point* in the picture. If it lies inside an object, it says what
# the object is and how far away its four sides are. The pyramid decides which points look after which sizes, and a third output, the **centre-ness**, admits when a point sits too near the rim to know.
#
# You assign points to objects here, count the quarrels, and find out what the centre-ness is worth.
#
# *Everything runs offline on a laptop; the whole notebook takes about 90 seconds. Run the cells from top to bottom.*

# %%
import torch

from utils.setup import setup

context = setup("09", seed=0)

# %% [markdown]
# ## 0 First result
#
# The pyramid of notebook 08, no anchors; on new scenes of objects that it knows (four on which it does well; section 5 measures 200):

# %%
from lessons import zoo
from lessons.data.scenes import CLASSES, Scenes
from utils.figures import detections_figure, show

detector = zoo.load("fcos", weights="lesson")
validation = Scenes("val", length=200)
shown = [validation[i] for i in (6, 14, 11, 0)]
with torch.no_grad():
    detections = detector([image for image, _ in shown])
figure = detections_figure([image for image, _ in shown], detections, CLASSES, threshold=0.5, title="FCOS on four new scenes")
show(figure, alt="Four composed photographs with the boxes, class names and scores that FCOS found.")

# %% [markdown]
# ## 1 The paper
#
# | | |
# |---|---|
# | Title | *FCOS: Fully Convolutional One-Stage Object Detection* |
# | Authors | Zhi Tian, Chunhua Shen, Hao Chen, Tong He (The University of Adelaide) |
# | Venue | ICCV 2019 (arXiv 1904.01355); extended in TPAMI 2020 |
# | Task | object detection on MS COCO |
#
# **Background.** Since Faster R-CNN nearly all detectors start from anchors. **Problem.** Their sizes and shapes must be chosen for each data set, most of the thousands are background, and for each an IoU has to be computed. A network for segmentation needs none of
# that: it answers at every pixel. Why not a detector? Because of two doubts: points in *two* boxes would not know what to say, and points far from the centre draw poor boxes.
#
# **Contributions.** (1) Detection *point by point*, like segmentation, without anchors. (2) The *pyramid* takes the first doubt away: objects that overlap mostly differ in size, and sizes live on different levels. (3) The *centre-ness* takes away the second.

# %% [markdown]
# ## 2 The method in one picture
#
# ```mermaid
# %%{init: {"theme": "neutral"}}%%
# flowchart LR
#     accTitle: The FCOS pipeline
#     accDescr: An image passes a backbone and a feature pyramid. On every level the same head slides over the map. One tower gives K class probabilities for each point, the other four distances to the sides of the object and the centre-ness. Class and centre-ness together are the score; after NMS the boxes are the detections.
#     I["image"] --> B["backbone"] --> P["feature pyramid<br/>P3 ... P7"]
#     P --> C["class tower<br/>4 × (3×3, norm, ReLU)"]
#     P --> R["box tower<br/>4 × (3×3, norm, ReLU)"]
#     C -->|"K sigmoids a point<br/>focal loss"| S(("score"))
#     R -->|"centre-ness<br/>cross-entropy"| S
#     R -->|"l, t, r, b<br/>IoU loss"| D["NMS in each class"]
#     S --> D
#     D --> O["boxes, classes, scores"]
# ```

# %% [markdown]
# ## 3 Building it, step by step
#
# ### 3.1 A cell is a point
#
# *Question.* How many numbers must a cell give, with nine anchors and without, for COCO's 80 classes?

# %%
# NBVAL_CHECK_OUTPUT
for classes, where in ((80, "COCO"), (6, "our scenes")):
    anchors_numbers, point_numbers = 9 * (classes + 4), classes + 4 + 1
    print(f"{where}: RetinaNet {anchors_numbers} numbers a cell, FCOS {point_numbers}: {anchors_numbers / point_numbers:.1f} times fewer")

# %% [markdown]
# Cell (i, j) of a level with stride s stands for the point (s·j, s·i) of the picture, half a stride more in the paper. If it belongs to the object with the box (x₁, y₁, x₂, y₂), it shall give its distances to the four sides:
#
# $$l = x - x_1, \qquad t = y - y_1, \qquad r = x_2 - x, \qquad b = y_2 - y$$
#
# All four are positive, because the point lies inside. By hand, for one point and one box, and back again:

# %%
# NBVAL_CHECK_OUTPUT
from lessons.coding import decode_ltrb, encode_ltrb

scene, scene_target = shown[3]
box = scene_target["boxes"][0].tolist()
x, y, stride = 80.0, 64.0, 16
by_hand = [x - box[0], y - box[1], box[2] - x, box[3] - y]
square = torch.tensor([[x - stride / 2, y - stride / 2, x + stride / 2, y + stride / 2]])  # a square of a stride stands for the point
sides = encode_ltrb(scene_target["boxes"][:1], square, normalize_by_size=False)
torch.testing.assert_close(sides, torch.tensor([by_hand]))
torch.testing.assert_close(decode_ltrb(sides / stride, square), scene_target["boxes"][:1])
print(f"box {[round(side) for side in box]} seen from ({x:.0f}, {y:.0f}): l, t, r, b = {[round(side) for side in by_hand]}; in strides {[round(side / stride, 2) for side in by_hand]}")

# %% [markdown]
# The network gives distances in strides, so that a level's numbers are of one size. In the paper it takes $\exp(s_l x)$ of its output, with a factor $s_l$ learned for each level; later versions, torchvision's and ours take a ReLU.
#
# ### 3.2 Who answers for what?
#
# Three rules. A point learns an object if (1) it lies *inside* its box; (2) the farthest of the four sides is a length for which its *level* is responsible; and (3) if several objects are left, the one with the *smallest area*. A later improvement
# of the authors, here and in torchvision: (1′) it lies within 1.5 strides of the box's *centre*. In words of Python, one point after the other:

# %%
def assign_by_hand(boxes, points, strides, ranges, radius):
    answers = []
    for (x, y), stride, (low, high) in zip(points.tolist(), strides.tolist(), ranges.tolist()):
        best, smallest = -1, float("inf")
        for number, (x1, y1, x2, y2) in enumerate(boxes.tolist()):
            sides = x - x1, y - y1, x2 - x, y2 - y
            off_centre = max(abs(x - (x1 + x2) / 2), abs(y - (y1 + y2) / 2))
            fits = min(sides) > 0 and low < max(sides) < high and off_centre < radius * stride
            if fits and (x2 - x1) * (y2 - y1) < smallest:
                best, smallest = number, (x2 - x1) * (y2 - y1)
        answers.append(best)
    return answers


# %%
from lessons.matching import fcos_ranges, fcos_targets

batch, _ = detector.prepare([scene])
with torch.no_grad():
    features = detector.backbone(batch.pixels)
squares = torch.cat(detector.anchors(features, batch))
points, strides = (squares[:, :2] + squares[:, 2:]) / 2, squares[:, 2] - squares[:, 0]
ranges = fcos_ranges(strides, detector.reach)
answers = detector.assign(detector.anchors(features, batch), scene_target["boxes"])
assert answers.tolist() == assign_by_hand(scene_target["boxes"], points, strides, ranges, detector.radius)
print(f"{len(points)} points, {int((answers >= 0).sum())} learn an object, {len(answers[answers >= 0].unique())} of {len(scene_target['boxes'])} objects are learnt")

# %% tags=["nbval-ignore-output"]
from lessons.matching import fcos_fits
from utils.source import show_source

show_source(fcos_targets, fcos_fits)

# %% [markdown]
# **Which lengths belong to which level?** In the paper 0 to 64 pixels to P3, 64 to 128 to P4, and so on, P7 without an end: four to eight strides. Our objects are smaller, and so is our reach:

# %%
# NBVAL_CHECK_OUTPUT
paper = fcos_ranges(torch.tensor([8.0, 16, 32, 64, 128]))
print("the paper:", [f"P{level}: {low:.0f} to {high:.0f}" for level, (low, high) in enumerate(paper.tolist(), start=3)])
print("ours:     ", [f"P{level}: {low:.0f} to {high:.0f}" for level, (low, high) in enumerate(ranges[[0, 400, 500]].tolist(), start=3)])

# %% [markdown]
# **Click into the picture** (or Tab to the ring and use the arrow keys): which object, which level, which distances? Crosses are the points with two objects. Then take the pyramid away, and let all points inside a box learn it, not only those near its centre.
# What happens to the crosses?

# %% tags=["widget", "nbval-ignore-output"]
from utils.widgets import LocationExplorer

names = [CLASSES[label] for label in scene_target["labels"].tolist()]
locating = LocationExplorer(scene, scene_target["boxes"], names, detector.strides, detector.reach, detector.radius, pixel=(48, 72))
locating

# %% tags=["static"]
show(locating.static(), alt="The points of P3, P4 and P5 over a scene with overlapping objects, coloured by the object that they learn, crosses where two objects meet; on the right the four distances of the chosen point.")

# %% [markdown]
# ### 3.3 Quarrels: how many points lie in two boxes?
#
# *Question.* The first doubt of section 1. It needs no training: the true boxes decide. **Predict** for our scenes, of 1 to 5 objects: how many of the points inside some object lie in more than one? First with one level for all sizes and the rule "anywhere inside", as in the paper's
# comparison, on our scenes at 640 pixels, where sizes spread over the paper's levels:

# %%
targets = [target for _, target in (validation[i] for i in range(200))]


def quarrels(strides, side, reach, radius):
    """Shares of points with an object that could learn two, two of different classes; share of objects learnt."""
    grid = torch.cat([anchor_grid((side // s, side // s), s, (s,), (1.0,)) for s in strides])
    stride = grid[:, 2] - grid[:, 0]
    places = (grid[:, :2] + grid[:, 2:]) / 2, stride, fcos_ranges(stride, reach), radius
    positive = two = different = learnt = 0
    for target in targets:
        boxes = target["boxes"] * side / 160
        fits, matches = fcos_fits(boxes, *places), fcos_targets(boxes, *places)
        kinds = torch.stack([fits[:, target["labels"] == label].any(1) for label in target["labels"].unique()])
        positive, two, different = positive + (matches >= 0).sum(), two + (fits.sum(1) > 1).sum(), different + (kinds.sum(0) > 1).sum()
        learnt += len(matches[matches >= 0].unique())
    return two.item() / positive.item(), different.item() / positive.item(), learnt / sum(len(target["boxes"]) for target in targets)


# %%
# NBVAL_CHECK_OUTPUT
from lessons.anchors import anchor_grid

inf = float("inf")
quarrel = {}
for name, strides_of in (("P4 alone", (16,)), ("P3 to P7", (8, 16, 32, 64, 128))):
    quarrel[name] = quarrels(strides_of, 640, 8, inf)
    print(f"{name}: {quarrel[name][0]:6.2%} of the points with an object lie in two, {quarrel[name][1]:.2%} in two of different classes")
assert quarrel["P3 to P7"][0] < quarrel["P4 alone"][0] / 2

# %% [markdown]
# The paper, on COCO: 23.16 % with P4 alone, 7.14 % with the pyramid (3.75 % of different classes). Different pictures, the same shape: the pyramid takes two thirds of the quarrels away, since objects that lie over each other often differ in size. And what is left does
# little harm as a rule: a point that learns the smaller object leaves the larger one to its other points.
#
# **Best possible recall**: is there *any* point for each object? Without one it could never be learnt.

# %%
# NBVAL_CHECK_OUTPUT
print(f"P4 alone {quarrel['P4 alone'][2]:.2%}, P3 to P7 {quarrel['P3 to P7'][2]:.2%} of {sum(len(target['boxes']) for target in targets)} objects have a point at 640 px")
for words, settings in (("the lesson's levels", ((8, 16, 32), 160, detector.reach, detector.radius)), ("the same, anywhere inside", ((8, 16, 32), 160, detector.reach, inf)),
                        ("the paper's reach of 8 strides", ((8, 16, 32), 160, 8, detector.radius)), ("the same, anywhere inside", ((8, 16, 32), 160, 8, inf))):
    two, different, learnt = quarrels(*settings)
    print(f"at 160 px, {words:31s}: {two:6.2%} in two, {learnt:.2%} of the objects have a point")

# %% [markdown]
# The paper: 95.55 % with P4 alone, 98.40 % with the pyramid. Ours are near 100 %, because our scenes have no tiny objects.
#
# So much for the pyramid; the *radius* helps as well: at the paper's reach it takes five sixths of the quarrels away, at ours a quarter. And the reach is a trade at our size: with 8 strides nine of ten points would be P3's, which see least of the picture; with the
# lesson's 4 two of three are P4's. Is there an object without any point? And why?

# %%
# NBVAL_CHECK_OUTPUT
level_squares = detector.anchors(features, batch)
for index, target in enumerate(targets):
    answers_here = detector.assign(level_squares, target["boxes"])
    for number in set(range(len(target["boxes"]))) - set(answers_here.tolist()):
        alone = detector.assign(level_squares, target["boxes"][number : number + 1]) >= 0
        winners = answers_here[alone].unique().tolist()
        print(f"scene {index}, a {CLASSES[target['labels'][number]]}: {int(alone.sum())} points fit it; all of them learn {', '.join('a smaller ' + CLASSES[target['labels'][other]] for other in winners)}")
        assert alone.any()
        assert -1 not in winners

# %% [markdown]
# There it is, the quarrel that is not settled: an object stands behind another, all of its points go to the smaller one, and no loss ever asks for it. The rule "the smallest wins" has a price, if a small one.
#
# ### 3.4 The head
#
# Two towers as in notebook 08, with group normalisation, shared by all levels. The class tower gives K sigmoids, one for each class; nobody asks "object or not?" separately. The box tower gives the four distances and, from the same features, the centre-ness. One point by hand:

# %%
head = detector.head
with torch.no_grad():
    logits, distances, centreness = head(features)
    around = head.box_tower(features[1])[0, :, 2:5, 3:6]  # what the last layers see about row 3, column 4 of P4
    by_hand = torch.relu((head.bbox_reg.weight * around).sum((1, 2, 3)) + head.bbox_reg.bias)
    central = (head.bbox_ctrness.weight[0] * around).sum() + head.bbox_ctrness.bias[0]
torch.testing.assert_close(distances[1][0, 3 * 10 + 4], by_hand, rtol=1e-3, atol=1e-4)
torch.testing.assert_close(centreness[1][0, 3 * 10 + 4, 0], central, rtol=1e-3, atol=1e-4)
print("logits", [tuple(one.shape) for one in logits], "distances", [tuple(one.shape) for one in distances], "centre-ness", [tuple(one.shape) for one in centreness])

# %% tags=["nbval-ignore-output"]
show_source(type(head))

# %% [markdown]
# ### 3.5 Centre-ness
#
# *Question.* A point near the rim of a bird sees its tail and the sky. How good a box will it draw? The paper found out that such points spoil the result: many sure scores, poor boxes. So each point also learns how central it is:
#
# $$\text{centre-ness} = \sqrt{\frac{\min(l, r)}{\max(l, r)} \cdot \frac{\min(t, b)}{\max(t, b)}}$$

# %%
# NBVAL_CHECK_OUTPUT
import math

from lessons.boxes import box_area
from lessons.detectors.fcos import centreness_of

for l, t, r, b in ((20, 30, 20, 30), (10, 30, 30, 30), (10, 15, 30, 45), (1, 30, 39, 30)):
    by_hand = math.sqrt(min(l, r) / max(l, r) * min(t, b) / max(t, b))
    torch.testing.assert_close(centreness_of(torch.tensor([[l, t, r, b]], dtype=torch.float32)), torch.tensor([by_hand]))
    print(f"l {l}, t {t}, r {r}, b {b}: {by_hand:.3f}")

# %% [markdown]
# 1 in the middle, 0 on the rim, and the root slows its fall. **What has the network learned of it?** Its centre-ness on P4, its class probability, and the score made of both, beside the truth, on a scene with fewer quarrels; look at the rims:

# %%
from utils.figures import draw_boxes, draw_heat_map, new_figure

calm, calm_target = shown[1]
true_central = torch.zeros(400)
fine = squares[:400]  # P3's squares, for a fine picture of the truth
for box in calm_target["boxes"][box_area(calm_target["boxes"]).argsort(descending=True)]:
    sides = encode_ltrb(box.expand(400, 4), fine, normalize_by_size=False)
    inside = (sides > 0).all(1)
    true_central[inside] = centreness_of(sides[inside])  # the smallest box last, so that it wins
with torch.no_grad():
    on_p4 = [levels[1][0] for levels in head(detector.backbone(detector.prepare([calm])[0].pixels))]
maps = {"true centre-ness": true_central, "learnt, P4": on_p4[2][:, 0].sigmoid(), "class, P4": on_p4[0].sigmoid().amax(1), "score, P4": detector.scored(on_p4).amax(1)}
figure, axes = new_figure(columns=4, width=3.6, height=3.4)
for ax, (name, heat) in zip(axes[0], maps.items()):
    side = math.isqrt(len(heat))
    draw_boxes(draw_heat_map(ax, calm, heat.view(side, side), name), calm_target["boxes"], colors=["#FFFFFF"], linestyle="--", linewidth=1.5)
show(figure, alt="Four maps over a scene: the true centre-ness with its hills in the middle of the boxes, the learnt centre-ness of P4, the highest class probability of P4, and the score made of both.")

# %% [markdown]
# ### 3.6 The loss
#
# At every point the focal loss of notebook 08. At points with an object: 1 − GIoU of the box that their distances make (the paper began with the IoU), and the cross-entropy of the centre-ness, which is a number between 0 and 1 here, not a yes or no. All three are divided by the number of points with an object.

# %%
with torch.no_grad():
    outputs = tuple(torch.cat(levels, dim=1) for levels in (logits, distances, centreness))
    losses = detector.losses(outputs, detector.anchors(features, batch), [scene_target])
own = torch.where(answers >= 0)[0]
truth = scene_target["boxes"][answers[own]]
found = decode_ltrb(outputs[1][0, own], squares[own])
overlap_width = torch.minimum(found[:, 2:], truth[:, 2:]) - torch.maximum(found[:, :2], truth[:, :2])
both = overlap_width.clamp(min=0).prod(1)
union = (found[:, 2:] - found[:, :2]).prod(1) + (truth[:, 2:] - truth[:, :2]).prod(1) - both
around = (torch.maximum(found[:, 2:], truth[:, 2:]) - torch.minimum(found[:, :2], truth[:, :2])).prod(1)
torch.testing.assert_close(losses["bbox_regression"], (1 - both / union + (around - union) / around).mean())

# %%
from lessons.losses import sigmoid_focal_loss

goal = centreness_of(encode_ltrb(truth, squares[own], normalize_by_size=False))
q = outputs[2][0, own, 0].sigmoid()
torch.testing.assert_close(losses["bbox_ctrness"], -(goal * q.log() + (1 - goal) * (1 - q).log()).mean())
wanted = torch.zeros(len(squares), 7)
wanted[own, scene_target["labels"][answers[own]]] = 1
torch.testing.assert_close(losses["classification"], sigmoid_focal_loss(outputs[0][0], wanted, reduction="sum") / len(own))
print({name: round(loss.item(), 3) for name, loss in losses.items()}, f"from {len(own)} points with an object")

# %% tags=["nbval-ignore-output"]
show_source(type(detector).losses)

# %% [markdown]
# ### 3.7 The score
#
# In the paper the final score is the *product* of class probability and centre-ness. Its authors' later code, torchvision's and ours take the square root of that, which keeps the order, and so the result of NMS, and makes scores of a usual size. By hand, to the end:

# %%
from lessons.boxes import clip_boxes_to_image
from lessons.nms import nms

score = (outputs[0][0].sigmoid() * outputs[2][0].sigmoid()).sqrt()
boxes = clip_boxes_to_image(decode_ltrb(outputs[1][0], squares), (160, 160))
by_hand = []
for label in range(1, 7):
    likely = torch.where(score[:, label] > detector.score_threshold)[0]
    kept = likely[nms(boxes[likely], score[likely, label], 0.6)]
    by_hand += [(score[i, label].item(), label, boxes[i].tolist()) for i in kept]
by_hand = sorted(by_hand, reverse=True)[: detector.max_detections]
with torch.no_grad():
    whole = detector([scene])[0]
torch.testing.assert_close(whole["boxes"], torch.tensor([box for _, _, box in by_hand]).reshape(-1, 4))
print(f"{int((score > detector.score_threshold).sum())} scores above {detector.score_threshold} -> {len(by_hand)} detections; the best: {CLASSES[by_hand[0][1]]} {by_hand[0][0]:.2f}")

# %% [markdown]
# ## 4 Training
#
# Three losses, added up. The full training (20,000 scenes, 2500 steps; `make checkpoints`) gave the checkpoint of section 0. Here: **40 steps** from the body that was pre-trained on crops. (Expected time: 25 s.)

# %% tags=["nbval-ignore-output"]
from lessons.detection_training import Plan, fit, open_for_training
from lessons.recipes import fcos as recipe
from lessons.recipes.small_resnet import start_from_pre_trained
from utils.live import LiveCurve

model = recipe.build()
start_from_pre_trained(model.backbone.body)
history = fit(model, open_for_training("scenes", 100), Plan(100, 40, 0), device="cpu", progress=False, callbacks=[LiveCurve("FCOS: three losses and their sum")])

# %% [markdown]
# After 40 steps no class is sure. But ask the points that lie near the middle of an object for its *box*: are the distances learned already?

# %%
from lessons.boxes import box_iou

scenes = [validation[i] for i in range(40)]


def boxes_of_assigned_points(one):
    """Mean IoU of the boxes that points draw of the objects they answer for."""
    overlaps = []
    for image, target in scenes:
        seen, _ = one.prepare([image])
        maps = one.backbone(seen.pixels)
        grids = one.anchors(maps, seen)
        mine = one.assign(grids, target["boxes"])
        drawn = decode_ltrb(torch.cat(one.head(maps)[1], dim=1)[0], torch.cat(grids))
        overlaps.append(torch.diag(box_iou(drawn[mine >= 0], target["boxes"][mine[mine >= 0]])))
    return torch.cat(overlaps)


with torch.no_grad():
    for name, one in (("after 40 steps", model.eval()), ("shipped", detector)):
        overlaps = boxes_of_assigned_points(one)
        print(f"{name:15s} mean IoU {overlaps.mean():.2f} of the boxes that {len(overlaps)} points draw of their objects")

# %% [markdown]
# ## 5 Results
#
# **The paper's numbers** (COCO, in percent; ResNet-50 unless said, after a detailed note on the paper):
#
# | | without | with |
# |---|---|---|
# | pyramid: points in two boxes | 23.16 | 7.14 |
# | pyramid: best possible recall | 95.55 | 98.40 |
# | centre-ness: AP | 33.5 | 37.1 |
# | centre-ness computed from the predicted box: AP | 33.5 | 33.5 |
#
# RetinaNet 35.9, FCOS 37.1, with the same backbone; ResNet-101 41.5; ResNeXt-101 43.2, improved 44.7. **Our measurements** have nothing to do with these. From the cards of the shipped checkpoints:

# %%
from lessons.checkpoints import load_checkpoint

print(f"{'our embedded scenes':42s} AP    AP50   AP75   small  medium")
for split, words in (("val", "known objects"), ("val_unknown", "unknown objects")):
    for name, label in (("fpn", "Faster R-CNN, pyramid"), ("retinanet", "RetinaNet"), ("fcos", "FCOS")):
        numbers = load_checkpoint(zoo.CHECKPOINTS / f"{name}.safetensors")[1]["metrics"][split]
        print(f"{label + ', ' + words:42s}", "  ".join(f"{numbers[key]:.3f}" for key in ("AP", "AP50", "AP75", "AP_small", "AP_medium")))

# %% [markdown]
# ## 6 A claim of the paper, reproduced in shape
#
# **Claim 1, exact** (section 4.1.1): the pyramid takes away most quarrels. That was section 3.3, from the true boxes alone.
#
# **Claim 2** (section 4.1.2, Table 4): the centre-ness raises AP, because it puts good boxes before poor ones; so it should help most where boxes are judged strictly, and the *rank correlation* of score and IoU should rise. Nothing needs to be trained: the shipped detector's boxes are put in order
# in several ways, on three sets of 100 scenes (`python -m experiments fcos_centreness`). **Predict** what becomes of AP50 and of AP75.

# %%
from experiments.record import load_result
from utils.figures import bars_figure

result = load_result("fcos_centreness")
orders = ("class alone", "with centre-ness", "centre-ness of the predicted box")
bars = {name: [[one[name][key] for one in result["per_seed"].values()] for key in ("AP50", "AP75", "best box", "rank correlation")] for name in orders}
figure = bars_figure(bars, ylabel="", title="What the centre-ness is worth (our scenes, 3 seeds)", groups=("AP50", "AP75", "IoU of each\nobject's best box", "rank correlation\nof score and IoU"))
show(figure, alt="AP50, AP75, the IoU of each object's highest-scored box and the rank correlation of score and IoU, with scores by the class alone, with the learnt centre-ness and with one computed from the predicted box; dots are seeds.")

# %%
# NBVAL_CHECK_OUTPUT
for name, row in result["mean"].items():
    print(f"{name:33s}", "  ".join(f"{key} {row[key]:.3f} ± {result['sd'][name][key]:.3f}" for key in ("AP", "AP50", "AP75", "best box")))
for statement, holds in result["verdict"].items():
    print("yes" if holds else "no ", statement)
assert len(result["seeds"]) >= 3
assert result["verdict"]["centre-ness raises AP"]
assert result["verdict"]["it raises AP75"]
assert result["verdict"]["the learnt one beats the computed one"]

# %% [markdown]
# **What came out.** In every seed AP rises, as much as in the paper (3.7 points, there 3.6), and a centre-ness computed from the predicted box gives nothing, as in the paper. AP75 gains fewer points than AP50, though more in proportion. But scores do *not* follow the IoU better: over all boxes the rank
# correlation even falls. Is the centre-ness no judge of boxes, then? Look at two kinds of points apart: those that answer for an object in training, and all others that are sure of a class:

# %%
# NBVAL_CHECK_OUTPUT
for name, row in result["mean"].items():
    print(f"{name:33s} rank correlation {row['rank correlation']:5.2f}: at trained points {row['at trained points']:5.2f}, at others {row['at others']:5.2f}; IoU of the best box {row['best box']:.3f}")
assert result["verdict"]["where it is trained, centre-ness follows the IoU better than elsewhere"]
assert result["verdict"]["the box that NMS keeps is better"]

# %% [markdown]
# By itself the centre-ness follows the IoU a little where it was *trained*, within 1.5 strides of the centre, and not at all elsewhere; and most boxes come from elsewhere (next but one cell). In both places the class is the better judge, for it has learned that points further out are no birds: that is what the
# radius does, and the paper's first version, in which every point inside was trained, had none. So mixing the two costs rank correlation. What raises AP, then? NMS keeps, of all the boxes of *one* object, the one with the highest score, and with the centre-ness it is a better one, by a little. And AP looks
# at the boxes that *survive* NMS, the rank correlation at all before it. Of the best survivors of forty scenes, as many as there are objects, which are right?

# %%
from experiments.faster_rcnn_proposals import variant
from experiments.fcos_centreness import by_class_alone, scores_and_overlaps
from lessons.error_breakdown import error_breakdown

truth = [target for _, target in scenes]
count = sum(len(target["labels"]) for target in truth)
ways = {"class alone": variant(detector, scored=by_class_alone), "with centre-ness": detector}
for name, one in ways.items():
    with torch.no_grad():
        found = one([image for image, _ in scenes])
    least = torch.cat([boxes["scores"] for boxes in found]).sort(descending=True).values[count - 1]
    best = [{key: value[boxes["scores"] >= least] for key, value in boxes.items()} for boxes in found]
    print(f"{name:16s} the {count} best boxes: {error_breakdown(best, truth)}")

# %% [markdown]
# More are right (81 of 110 in place of 74), fewer poorly placed (3 for 7); as many as before lie on the background. On two other draws of scenes it is the same, and most of the gain there is in *duplicates*: 4 for 14 and 6 for 15. So what the centre-ness does here is less to judge boxes than to let one point
# of each object speak for all, which is what NMS needs.
#
# Score and IoU of all boxes of these scenes before NMS, as in the paper's appendix.

# %%
from utils.figures import BLUE, finish_axes

figure, axes = new_figure(columns=2, width=4.6, height=3.8)
for ax, (name, one) in zip(axes[0], ways.items()):
    pairs = torch.cat([scores_and_overlaps(one, image, target) for image, target in scenes])
    ax.plot(pairs[:, 0], pairs[:, 1], ".", color=BLUE, alpha=0.3)
    ax.set(xlim=(0, 1), ylim=(0, 1))
    finish_axes(ax, "score", "IoU with the object", name, legend=False)
show(figure, alt="Two clouds of points, the IoU of each box against its score, on the left by the class alone, on the right with the centre-ness.")
print(f"{pairs[:, 3].mean():.0%} of {len(pairs)} boxes come from points that answer for an object")

# %% [markdown]
# **Claim 3** (equation 2, and UnitBox before it): a loss on the overlap draws better boxes than L2 on the four distances. Three losses, each with the same short training (200 steps of 4 scenes), three seeds, by `python -m experiments fcos_box_loss`:

# %%
# NBVAL_CHECK_OUTPUT
box_loss = load_result("fcos_box_loss")
for name, row in box_loss["mean"].items():
    print(f"{name:5s}", "  ".join(f"{key} {row[key]:.3f} ± {box_loss['sd'][name][key]:.3f}" for key in ("AP", "AP50", "AP75", "AP_small", "AP_medium")))
for statement, holds in box_loss["verdict"].items():
    print("yes" if holds else "no ", statement)
assert len(box_loss["seeds"]) >= 3

# %% [markdown]
# **What came out.** In every seed GIoU gives the higher AP, by a third (0.081 against 0.061 for both others; the spread of seeds is 0.007 to 0.009). At IoU 0.75, where it should show most, the three are alike within the spread, so that "yes" says little: after 200 steps hardly any box is that good.
#
# **Why should it?** Exactly: the same error of a tenth of the size, for a small box and for one four times as large.

# %%
# NBVAL_CHECK_OUTPUT
from lessons.losses import generalized_box_iou_loss

costs = {}
for size in (20.0, 80.0):
    right, shifted = torch.tensor([[0, 0, size, size]]), torch.tensor([[0, 0, size, size]]) + size / 10
    costs[size] = 0.5 * (shifted - right).square().sum().item(), generalized_box_iou_loss(shifted, right).item()
    print(f"a box of {size:.0f} px, shifted by a tenth: L2 {costs[size][0]:6.1f}, 1 - GIoU {costs[size][1]:.3f}")
assert abs(costs[80.0][0] / costs[20.0][0] - 16) < 1e-4
assert abs(costs[80.0][1] - costs[20.0][1]) < 1e-6

# %% [markdown]
# ## 7 Questions answered
#
# **Do we need anchors?** Compare sections 3 here and in 08: sizes, thirds of an octave, three shapes, thresholds 0.5 and 0.4, and "the best anchor of each object", against ranges of levels and a radius. Not nothing, but less. And how do they share out the objects? Points or anchors that learn each object, by its size:

# %%
# NBVAL_CHECK_OUTPUT
retinanet = zoo.load("retinanet", weights="lesson")
grids = retinanet.anchors(features, batch)
taken = {"RetinaNet's anchors": [], "FCOS's points": []}
for target in targets:
    for name, matches in (("RetinaNet's anchors", retinanet.assign(grids, target["boxes"])), ("FCOS's points", detector.assign(detector.anchors(features, batch), target["boxes"]))):
        taken[name].append((matches[:, None] == torch.arange(len(target["boxes"]))).sum(0))
size = box_area(torch.cat([target["boxes"] for target in targets])).sqrt()
for name, counts in taken.items():
    count = torch.cat(counts).float()
    groups = ", ".join(f"{low} to {high} px: {count[(size >= low) & (size < high)].mean():.1f}" for low, high in ((0, 32), (32, 48), (48, 64), (64, 200)))
    print(f"{name:20s} {groups}; none for {int((count == 0).sum())} of {len(count)} objects")

# %% [markdown]
# **Why only points near the centre?** The first version let every point inside a box learn it. Those at the rim look at background and shall say "bird". The centre-ness lowers their scores afterwards; the radius of 1.5 strides does not train them at all. Both together is the authors' later version.
#
# **Why can't the centre-ness be computed from the predicted box?** It was the paper's own control (33.5, no gain), and ours above. A point at the rim that draws a *wrong* box with itself in the middle would call itself central. The learnt one judges from the picture.
#
# **Two birds, one behind the other, same size: what then?** The pyramid cannot part them, they live on one level; points in both learn the smaller. And NMS takes the second if the boxes overlap by more than 0.6. Here are the true boxes that a *perfect* detector would lose to NMS:

# %%
# NBVAL_CHECK_OUTPUT
for threshold in (0.5, 0.6, 0.7):
    lost = 0
    for target in targets:
        same = target["labels"][:, None] == target["labels"]
        lost += int(((box_iou(target["boxes"], target["boxes"]) * same).triu(diagonal=1) > threshold).any(0).sum())
    print(f"NMS at {threshold}: {lost} of {len(size)} true boxes would be lost, each class by itself")

# %% [markdown]
# **Do we need a second stage, then?** In the paper FCOS, one stage without anchors, beats two-stage detectors of its time with the same backbones. Ours does not (section 5): on known objects the two stages of notebook 06 are ahead, though they were trained for
# longer, 3200 steps against 2500; on unknown objects all are alike.
#
# ## 8 Find the mistake
#
# The first three stood in real lecture notes, the others are ours. Run, read the verdict, repair, run again.
#
# *"The box regression of FCOS uses the L2 loss."* What does the paper's first loss, −ln IoU, cost a box that covers half of the object and nothing else?

# %%
# NBVAL_CHECK_OUTPUT
from utils.grading import check


def box_cost_mistake_1(found, truth):
    return (found - truth).square().sum()


check(box_cost_mistake_1, lambda found, truth: -box_iou(found[None], truth[None])[0, 0].log(), [(torch.tensor([0.0, 0, 10, 20]), torch.tensor([0.0, 0, 20, 20])), (torch.tensor([0.0, 0, 40, 80]), torch.tensor([0.0, 0, 80, 80]))])

# %% [markdown]
# *"Each location is classified as positive or negative, and a separate head names the class."* How many numbers does the class branch give at each point, for C classes, and how many has the point in all?

# %%
# NBVAL_CHECK_OUTPUT
def numbers_mistake_2(classes):
    return [2 + classes, 2 + classes + 4]


check(numbers_mistake_2, lambda classes: [classes, classes + 4 + 1], [(80,), (6,)])

# %% [markdown]
# *"A location in several boxes belongs to the nearest centre."* The point and the boxes that it fits, as arguments:

# %%
# NBVAL_CHECK_OUTPUT
def answers_mistake_3(point, boxes):
    return ((boxes[:, :2] + boxes[:, 2:]) / 2 - point).square().sum(1).argmin()


check(answers_mistake_3, lambda point, boxes: box_area(boxes).argmin(), [(torch.tensor([30.0, 30]), torch.tensor([[0.0, 0, 60, 60], [20, 20, 50, 50]])), (torch.tensor([12.0, 12]), torch.tensor([[0.0, 0, 24, 24], [10, 10, 14, 90]]))])

# %% [markdown]
# *"The level is chosen by the area of the box, as in the FPN."* Which level of the paper's does a point with these four distances belong to? (3 for P3.)

# %%
# NBVAL_CHECK_OUTPUT
def level_mistake_4(l, t, r, b):
    return min(max(math.floor(4 + math.log2(math.sqrt((l + r) * (t + b)) / 224)), 3), 7)


check(level_mistake_4, lambda l, t, r, b: min(max(math.ceil(math.log2(max(l, t, r, b) / 8)), 3), 7), [(20, 20, 20, 20), (100, 10, 4, 10), (5, 30, 300, 30)])

# %% [markdown]
# *"Centre-ness is the product of the two ratios."*

# %%
# NBVAL_CHECK_OUTPUT
def central_mistake_5(sides):
    l, t, r, b = sides.unbind(1)
    return torch.minimum(l, r) / torch.maximum(l, r) * torch.minimum(t, b) / torch.maximum(t, b)


check(central_mistake_5, centreness_of, [(torch.tensor([[10.0, 20, 10, 20]]),), (torch.tensor([[10.0, 20, 40, 20]]),)])

# %% [markdown]
# *"The class loss learns class times centre-ness, for that is the score."* What does the class output of a point with this centre-ness learn?

# %%
# NBVAL_CHECK_OUTPUT
def goal_mistake_6(is_inside, central):
    return is_inside * central


check(goal_mistake_6, lambda is_inside, central: float(is_inside), [(True, 1.0), (True, 0.2), (False, 0.0)])

# %% [markdown]
# ## 9 Exercises
#
# **1.** The boxes (N, 4) that distances l, t, r, b (N, 4), in strides, make of points (N, 2) of a level of stride s:

# %%
def boxes_from(points, distances, s):
    ...


check(boxes_from, lambda points, distances, s: torch.cat([points - distances[:, :2] * s, points + distances[:, 2:] * s], 1), [(torch.tensor([[80.0, 64.0]]), torch.tensor([[1.0, 2, 3, 4]]), 8)])

# %% [markdown]
# **2.** For a box of width w and height h, and points close together: which share of its area has a centre-ness of at least c? (Count it on a fine grid: a check by numbers is enough.)

# %%
def share_central(c):
    ...


def share_central_solved(c):
    u = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    ratio = torch.minimum(u, 1 - u) / torch.maximum(u, 1 - u)
    return ((ratio[:, None] * ratio).sqrt() >= c).double().mean().item()


check(share_central, share_central_solved, [(0.1,), (0.5,), (0.9,)], tolerance=0.01)

# %% [markdown]
# **3.** Set `detector.radius` to infinity and to 0.5 and count as in section 3.3. Which objects have no point at all with 0.5?
#
# **4.** Train 40 steps with `model.reach = 8`, the paper's. More points learn; on which level? What does the mean IoU of section 4 say?
#
# **5.** *Think first.* Four distances from one point, and the point must guess sides that it cannot see. Who sees the corners of an object best? (That is CornerNet.)
#
# ## 10 Summary, limits and what came next
#
# - A cell is a **point**. Inside an object it learns its class and **l, t, r, b**; there are no anchors, no IoU thresholds, nine times fewer outputs.
# - **Levels by size** part most objects that overlap; of those that are left the **smallest** wins.
# - **Centre-ness** knows which points draw poor boxes; class and centre-ness together are the score.
# - Focal loss for classes, IoU or GIoU for boxes, cross-entropy for the centre-ness.
#
# **Limits.** Ranges and radius are chosen by hand. Two objects of one size on one place still quarrel. NMS.
#
# **What we did not reproduce:** the paper's numbers (COCO, ResNet-50 and -101, ResNeXt), levels P6 and P7, the learned factor of each level, FCOS as a proposal network.
#
# **Next:** CornerNet and CenterNet: an object is a pair of corners, or three points.
#
# *Paper: Z. Tian, C. Shen, H. Chen, T. He, ICCV 2019 and TPAMI 2020. Photographs: `data/CREDITS.csv`.*

# %% tags=["nbval-ignore-output"]
context.budget()
