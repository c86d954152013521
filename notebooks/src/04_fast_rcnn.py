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
# # 04 · Fast R-CNN: one network, one loss
#
# R-CNN and SPPnet are chains: fine-tune, store features, fit SVMs, fit regressors. No link knows of the next. Fast R-CNN keeps SPPnet's shared map and turns everything behind it into
# **one head with one loss**, so that a single training reaches every layer, down to the convolutions.
#
# You build RoI pooling and its gradient, the sampling, the multi-task loss, the detector, and make its slowest layers thin.
#
# *Everything runs offline on a laptop; the whole notebook takes about 70 seconds. Run the cells from top to bottom.*

# %%
import torch

from utils.setup import setup

context = setup("04", seed=0)

# %% [markdown]
# ## 0 First result
#
# A finished Fast R-CNN on new scenes. Scores are probabilities now, no SVM's margins.

# %%
from lessons import zoo
from lessons.data.scenes import CLASSES, Scenes
from lessons.proposals import selective_search

detector = zoo.load("fast_rcnn", weights="lesson")
validation = Scenes("val", length=200)
shown = [validation[i] for i in (5, 6, 13, 22)]
proposals = [selective_search(image)[:200] for image, _ in shown]
with torch.no_grad():
    detections = detector([image for image, _ in shown], proposals=proposals)

# %%
from utils.figures import detections_figure, show

figure = detections_figure([image for image, _ in shown], detections, CLASSES, threshold=0.5, title="Fast R-CNN on four new scenes")
show(figure, alt="Four composed photographs with the Fast R-CNN's boxes, class names and probabilities.")

# %% [markdown]
# Which probability would you ask for before you believe a box?

# %% tags=["widget", "nbval-ignore-output"]
from utils.widgets import DetectionThreshold

threshold_slider = DetectionThreshold(shown[0][0], detections[0], CLASSES, threshold=0.5)
threshold_slider

# %% tags=["static"]
show(threshold_slider.static(), alt="One scene with the Fast R-CNN's detections above the score threshold.")

# %% [markdown]
# ## 1 The paper
#
# | | |
# |---|---|
# | Title | *Fast R-CNN* |
# | Author | Ross Girshick (Microsoft Research) |
# | Venue | ICCV 2015 (arXiv 1504.08083) |
# | Task | object detection on PASCAL VOC and COCO |
#
# **Background.** R-CNN is slow because nothing is shared; SPPnet shares the convolutions but can no longer train them. Both train in stages and keep gigabytes of features on disk. **Problem.** Can detection
# be *one* network, trained in *one* go, all layers of it, and still share the map?
#
# **Contributions.** (1) Higher mAP than R-CNN and SPPnet with VGG16. (2) Training in a single stage with a multi-task loss. (3) Training updates all layers. (4) No features on disk.

# %% [markdown]
# ## 2 The method in one picture
#
# ```mermaid
# %%{init: {"theme": "neutral"}}%%
# flowchart LR
#     accTitle: Fast R-CNN
#     accDescr: The image goes through the convolutions once. Proposals from outside select regions of the map; RoI pooling makes each a grid of 7 by 7; two fully connected layers lead to two outputs, class probabilities by softmax and four box corrections for each class. One loss trains all of it.
#     A["image"] --> B["convolutions,<br/>once"]
#     P["proposals<br/>(Selective Search)"] --> D
#     B --> D["RoI pooling<br/>7 × 7"]
#     D --> E["fc6 → fc7"]
#     E --> F["softmax over<br/>K + 1 classes"]
#     E --> G["4 numbers<br/>for each class"]
#     F --> L["one loss"]
#     G --> L
#     L -. "gradient" .-> B
# ```
#
# What SPPnet did with SVMs and regressors are two linear layers here, side by side. The dashed arrow is the news.

# %% [markdown]
# ## 3 Building it, step by step
#
# ### 3.1 RoI pooling
#
# *Question.* SPPnet pools each window with several grids. If you could keep only one, which? Fast R-CNN keeps one of 7 × 7: "RoI pooling is a pyramid with one level". A region's corners are rounded to cells,
# the cells divided into h × w bins, each bin gives its maximum. By hand on a map of 6 × 6 with a box in cells (stride 1), 2 × 2 bins. **Predict** the four maxima.

# %%
# NBVAL_CHECK_OUTPUT
tiny = torch.arange(36.0).reshape(1, 1, 6, 6)
box = torch.tensor([[1.0, 1.0, 3.0, 4.0]])  # columns 1 to 3, rows 1 to 4, both ends belong to it
print(tiny[0, 0].int().tolist())
by_hand = [tiny[0, 0, rows, columns].max().item() for rows in (slice(1, 3), slice(3, 5)) for columns in (slice(1, 3), slice(2, 4))]  # 3 columns in 2 bins: they share column 2
print(by_hand)

# %%
from lessons.roi import roi_pool
from utils.source import show_source

torch.testing.assert_close(roi_pool(tiny, [box], 2).flatten(), torch.tensor(by_hand))

# %% tags=["nbval-ignore-output"]
show_source(roi_pool)

# %% [markdown]
# **A region smaller than the grid?** (The notes ask.) Bin i of n spans the cells ⌊i·s/n⌋ to ⌈(i+1)·s/n⌉: floor below, ceiling above, so every bin has a cell, and neighbours repeat it. Only bins outside the map have none; they are 0.

# %%
# NBVAL_CHECK_OUTPUT
one_cell = torch.tensor([[2.0, 2.0, 2.0, 2.0]])
print("one cell in 3 x 3 bins:", roi_pool(tiny, [one_cell], 3).flatten().tolist())
print("a region beyond the map:", roi_pool(tiny, [torch.tensor([[4.0, 4.0, 9.0, 9.0]])], 3).flatten().tolist())
assert roi_pool(tiny, [one_cell], 3).eq(tiny[0, 0, 2, 2]).all()

# %% [markdown]
# ### 3.2 Its gradient
#
# *Question.* A maximum passes the gradient to the winner only. What if the same cell wins in two bins, or in two regions? Equation 4 of the paper: it **adds up**. **Predict** the gradient below, for three
# overlapping regions with 1 bin each, on a map whose largest cell lies in two of them.

# %%
# NBVAL_CHECK_OUTPUT
values = torch.tensor([[[[1.0, 5.0, 2.0], [0.0, 3.0, 9.0], [4.0, 1.0, 0.0]]]], dtype=torch.float64, requires_grad=True)
regions = [torch.tensor([[0.0, 0, 2, 1], [1.0, 1, 2, 2], [0.0, 1, 1, 2]], dtype=torch.float64)]  # the 9 wins in the first two, the 4 in the third
roi_pool(values, regions, 1).sum().backward()
print(values.grad[0, 0].tolist())

# %% [markdown]
# Is that "approximate", as one set of notes says? No. Wherever there is one largest cell, it is the exact derivative with respect to the **features**; finite differences agree. What RoI pooling does not have is a gradient with respect to
# the **box**: corners are rounded to cells, and between two roundings nothing changes.

# %%
# NBVAL_CHECK_OUTPUT
random_map = torch.rand(1, 2, 6, 6, generator=context.generator, dtype=torch.float64, requires_grad=True)
many = [torch.tensor([[0.0, 0, 4, 5], [1.0, 2, 5, 5], [3.0, 3, 3, 3]], dtype=torch.float64)]
assert torch.autograd.gradcheck(lambda x: roi_pool(x, many, 2), (random_map,))
moved = [roi_pool(random_map, [many[0] + shift], 2) for shift in (0.0, 0.2, 0.4, 0.6)]
print("boxes moved by 0.2 and 0.4 cells give the same:", all(torch.equal(moved[0], other) for other in moved[1:3]), "- by 0.6:", torch.equal(moved[0], moved[3]))

# %% [markdown]
# ### 3.3 Which regions to learn from
#
# *Question.* R-CNN drew 128 regions at random, from about as many images. Why does Fast R-CNN draw **two images and 64 regions of each**? Count the convolutions that one step costs:

# %%
# NBVAL_CHECK_OUTPUT
from lessons.costs import count_multiply_adds

body = detector.backbone
one_image = count_multiply_adds(body, torch.zeros(1, 3, 160, 160))
for images in (128, 2):
    print(f"128 regions of {images:3d} images: {images * one_image / 1e9:7.2f} billion multiply-adds of convolutions")
print("ratio", 128 // 2)

# %% [markdown]
# (The fear that regions of one image are too much alike did not come true, says the paper.) Of the 64 a quarter are objects, IoU ≥ 0.5. Background is drawn from IoU in **[0.1, 0.5)**, as in SPPnet (its section 4.1): below 0.1 it
# would be too easy.

# %%
from lessons.boxes import box_iou
from lessons.detectors.fast_rcnn import FastRCNNHead

head, (scene, target) = detector.box_head, shown[1]
with torch.random.fork_rng():
    torch.manual_seed(0)
    samples = head.sample([proposals[1]], [target])
overlap = box_iou(samples.proposals[0], target["boxes"]).amax(dim=1)
labels = samples.labels[0]
print(f"{len(labels)} regions: {int((labels > 0).sum())} objects with IoU from {overlap[labels > 0].min():.2f}, {int((labels == 0).sum())} backgrounds with IoU {overlap[labels == 0].min():.2f} to {overlap[labels == 0].max():.2f}")
assert overlap[labels > 0].min() >= 0.5
assert 0.1 <= overlap[labels == 0].min() <= overlap[labels == 0].max() < 0.5

# %% tags=["nbval-ignore-output"]
show_source(FastRCNNHead.sample)

# %%
from utils.figures import draw_boxes, images_figure

all_overlaps = box_iou(proposals[1], target["boxes"]).amax(dim=1)
groups = {"IoU ≥ 0.5: an object": all_overlaps >= 0.5, "0.1 ≤ IoU < 0.5: background": (all_overlaps >= 0.1) & (all_overlaps < 0.5), "IoU < 0.1: left out": all_overlaps < 0.1}
figure, axes = images_figure([scene] * 3, [f"{name} ({int(chosen.sum())})" for name, chosen in groups.items()], columns=3, width=3.8)
for ax, chosen, color in zip(axes, groups.values(), ("#009E73", "#E69F00", "#CC79A7")):
    draw_boxes(ax, proposals[1][chosen][:25], colors=[color], linewidth=1)
    draw_boxes(ax, target["boxes"], colors=["#FFFFFF"], linestyle="--", linewidth=1.5)
show(figure, alt="The proposals of one scene in three groups by overlap with the true boxes, which are dashed white: objects, background that is learnt from, and background that is left out.")

# %% [markdown]
# ### 3.4 The multi-task loss
#
# For a region with true class u and box target v, predicted probabilities p and box corrections $t^u$:
#
# $$L(p, u, t^u, v) = \underbrace{-\log p_u}_{\text{what}} + \lambda\,[u \ge 1] \underbrace{\sum_{i \in \{x, y, w, h\}} \mathrm{smooth}_{L_1}(t^u_i - v_i)}_{\text{where}}
# \qquad \mathrm{smooth}_{L_1}(x) = \begin{cases} 0.5\,x^2 & |x| < 1 \\ |x| - 0.5 & \text{otherwise} \end{cases}$$
#
# $[u \ge 1]$: background has no box to learn. λ = 1. Near 0 the loss is round, so corrections settle; far out it is straight, so that one bad pair cannot rule the batch. The targets v are scaled to a variance of about 1
# (the paper: "zero mean and unit variance"; the code divides by 0.1, 0.1, 0.2, 0.2), without which λ = 1 would not balance the two terms. **Predict:** the gradient of smooth L1 at x = 0.5, 2 and 200.

# %%
# NBVAL_CHECK_OUTPUT
from lessons.losses import smooth_l1_loss

x = torch.tensor([0.5, 2.0, 200.0], requires_grad=True)
smooth_l1_loss(x, torch.zeros(3), beta=1.0, reduction="sum").backward()
by_hand = [0.5 * 0.5**2, 2 - 0.5, 200 - 0.5]
torch.testing.assert_close(smooth_l1_loss(x, torch.zeros(3), beta=1.0, reduction="none"), torch.tensor(by_hand))
print("values", by_hand, "gradients", x.grad.tolist(), "- of the square they would be", [0.5, 2.0, 200.0])

# %% [markdown]
# Now the whole loss, region by region with the formula, against the library's head on the samples drawn above:

# %%
with torch.no_grad():
    features = body(detector.prepare([scene])[0].pixels)
    logits, deltas = head(features, samples.proposals)
    library = head.loss(features, samples)
what, where = 0.0, 0.0
for region, u in enumerate(labels.tolist()):
    what += -torch.log(logits[region].exp()[u] / logits[region].exp().sum())
    if u >= 1:
        difference = deltas[region, 4 * u:4 * u + 4] - samples.deltas[0][region]  # the four numbers of class u
        where += torch.where(difference.abs() < 1, 0.5 * difference**2, difference.abs() - 0.5).sum()
torch.testing.assert_close(what / len(labels), library["loss_classifier"])
torch.testing.assert_close(where / len(labels), library["loss_box_reg"])

# %% tags=["nbval-ignore-output"]
show_source(FastRCNNHead.loss)

# %%
from utils.figures import curves_figure

line = torch.linspace(-3, 3, 61)
curves = {"squared: 0.5 x²": (0.5 * line**2).tolist(), "smooth L1": smooth_l1_loss(line, torch.zeros(61), beta=1.0, reduction="none").tolist(), "absolute: |x|": line.abs().tolist()}
show(curves_figure(line.tolist(), curves, xlabel="error x", ylabel="loss", title="Round near 0, straight far out"), alt="Three losses against the error: the square grows fastest, the absolute value has a kink at 0, smooth L1 is round at 0 and straight beyond 1.")

# %% [markdown]
# ### 3.5 The detector, whole
#
# A backbone, a head, proposals from outside. Read the forward pass: it is the figure of section 2.

# %% tags=["nbval-ignore-output"]
from lessons.detectors.fast_rcnn import FastRCNN

show_source(FastRCNN.forward, FastRCNNHead.forward)

# %% [markdown]
# For every region the head gives K + 1 probabilities and **4 numbers for each class**: a box may be corrected one way if it is a bird, another way if it is a bottle. (The paper counts 4K outputs; background needs
# none. The code, like most, makes 4(K + 1) and never looks at the first four.) By hand, the last steps of detection (our last NMS has torchvision's threshold, 0.5; the paper's code has 0.3):

# %%
# NBVAL_CHECK_OUTPUT
from lessons.boxes import clip_boxes_to_image
from lessons.coding import decode_boxes
from lessons.nms import batched_nms

print("outputs of a region:", logits.shape[1], "class scores and", deltas.shape[1], "box numbers")
with torch.no_grad():
    logits, deltas = head(features, [proposals[1]])
probabilities = logits.softmax(dim=1)[:, 1:]
boxes = decode_boxes(deltas, proposals[1], head.weights).view(len(deltas), 7, 4)[:, 1:]
row, column = (probabilities > head.score_threshold).nonzero(as_tuple=True)
candidates = clip_boxes_to_image(boxes[row, column], (160, 160))
kept = batched_nms(candidates, probabilities[row, column], column, head.nms_threshold)[:100]
torch.testing.assert_close(detections[1]["boxes"], candidates[kept], atol=1e-3, rtol=0)
assert detections[1]["labels"].tolist() == (column[kept] + 1).tolist()

# %% [markdown]
# ### 3.6 Thin layers: truncated SVD
#
# *Question.* The convolutions run once, the fully connected layers once for **each region**. Where is most of the work now?

# %%
# NBVAL_CHECK_OUTPUT
from lessons.costs import multiply_adds_by_module


class OnProposals(torch.nn.Module):
    """The detector with its proposals given, to be counted."""

    def __init__(self, count):
        super().__init__()
        self.detector, self.count = detector, count

    def forward(self, image):
        return self.detector([image], proposals=[proposals[1].repeat(10, 1)[: self.count]])


for count in (200, 2000):
    counts = multiply_adds_by_module(OnProposals(count), scene)
    parts = {name: counts[f"detector.{name}"] for name in ("backbone", "box_head.fc6", "box_head.fc7", "box_head.cls_score", "box_head.bbox_pred")}
    print(f"{count} regions:", "  ".join(f"{name.split('.')[-1]} {part / sum(parts.values()):.0%}" for name, part in parts.items()))

# %% [markdown]
# (In the paper, with VGG16 and 2000 regions, nearly half of the forward pass is spent in the fully connected layers.) A layer's weights W of u × v numbers are often *nearly* of low rank. Singular value decomposition finds the best approximation with t directions:
# $W \approx U \Sigma_t V^\top$. One layer of u·v multiply-adds becomes two, of t·(u + v) together. By hand on 4 × 6 weights:

# %%
# NBVAL_CHECK_OUTPUT
from lessons.detectors.fast_rcnn import compress_linear

layer = torch.nn.Linear(6, 4)
u, s, vt = torch.linalg.svd(layer.weight.detach(), full_matrices=False)
by_hand = u[:, :2] @ torch.diag(s[:2]) @ vt[:2]
thin = compress_linear(layer, rank=2)
torch.testing.assert_close(thin[1].weight @ thin[0].weight, by_hand)
missing = torch.linalg.matrix_norm(layer.weight.detach() - by_hand, 2)
torch.testing.assert_close(missing, s[2])  # the largest thing left out is the next singular value
print("multiply-adds", count_multiply_adds(layer, torch.zeros(1, 6)), "->", count_multiply_adds(thin, torch.zeros(1, 6)), f"(fewer while t (u + v) < u v: here for t < {24 / 10})")

# %%
singular = torch.linalg.svdvals(head.fc6.weight.detach())
share = (singular.square().cumsum(0) / singular.square().sum()).tolist()
chosen = (1, 2, 4, 8, 16, 32, 64, 128, 192)
untrained = torch.linalg.svdvals(torch.nn.Linear(7056, 192).weight.detach())
random_share = (untrained.square().cumsum(0) / untrained.square().sum()).tolist()
figure = curves_figure(chosen, {"fc6, trained": [share[t - 1] for t in chosen], "a random layer": [random_share[t - 1] for t in chosen]}, xlabel="directions kept, t", ylabel="share of the squared weights", title="What t directions of 192 hold", log_x=True)
show(figure, alt="Share of fc6's squared weights that the largest t singular values hold, rising faster than for a random layer.")

# %% [markdown]
# A trained layer uses few directions, a random one all alike. Section 7 measures what thin layers cost in AP, but on detectors that were trained for 140 steps only, not on this one.
#
# ## 4 Training
#
# One training, one loss, every layer. Thirty scenes, some seconds, from the pre-trained body, exactly as the shipped detector was trained for longer. (Expected time: 25 s.)

# %% tags=["nbval-ignore-output"]
from lessons.detection_training import Plan, fit, open_with_proposals
from lessons.recipes import fast_rcnn as recipe
from lessons.recipes.small_resnet import start_from_pre_trained
from utils.live import LiveCurve

training = open_with_proposals("scenes", 30, 200)  # mirrored at random, with their proposals
model = recipe.build()
start_from_pre_trained(model.backbone.body)
before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
history = fit(model, training, Plan(30, 50, 0, batch_size=4), callbacks=[LiveCurve("Fast R-CNN: what (classifier) and where (box_reg)")])

# %%
# NBVAL_CHECK_OUTPUT
changed = sorted({name.split(".")[0] for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])})
print("training changed", changed)
assert changed == ["backbone", "box_head"]

# %%
model.eval()
with torch.no_grad():
    found = model([image for image, _ in shown], proposals=proposals)
figure = detections_figure([image for image, _ in shown], found, CLASSES, threshold=0.4, title="After some seconds of training on 30 scenes")
show(figure, alt="The four scenes of section 0 with the detections of the briefly trained Fast R-CNN.")

# %% [markdown]
# ## 5 Results
#
# **The paper's numbers** (Table 4: VOC 2007, three networks of growing depth; times without proposals):
#
# | | R-CNN S | M | L (VGG16) | SPPnet L | Fast R-CNN S | M | L (VGG16) |
# |---|---|---|---|---|---|---|---|
# | training, hours | 22 | 28 | 84 | 25 | 1.2 | 2.0 | 9.5 |
# | testing, s / image | 9.8 | 12.1 | 47.0 | 2.3 | 0.10 | 0.15 | 0.32 |
# | the same with truncated SVD | | | | | 0.06 | 0.08 | 0.22 |
# | mAP, percent | 58.5 | 60.2 | 66.0 | 63.1 | 57.1 | 59.2 | 66.9 |
# | the same with truncated SVD | | | | | 56.5 | 58.7 | 66.6 |
#
# Read closely: *more accurate than R-CNN* holds for VGG16 only; with the small networks Fast R-CNN is slightly behind. And the famous **213 times faster** is *with* SVD:

# %%
# NBVAL_CHECK_OUTPUT
for name, seconds in (("without SVD", 0.32), ("with truncated SVD", 0.22)):
    print(f"{name:20s} 47.0 / {seconds} = {47.0 / seconds:.0f}")

# %% [markdown]
# (The paper, from unrounded times, has 146 and 213.)
#
# **Our measurements**, which have nothing to do with these, from the cards of the shipped checkpoints (200 scenes each). SPPnet and Fast R-CNN began with the same body and saw the same scenes:

# %%
from lessons.checkpoints import load_checkpoint

cards = {name: load_checkpoint(zoo.CHECKPOINTS / f"{name}.safetensors")[1] for name in ("rcnn", "sppnet", "fast_rcnn")}
print(f"{'our embedded scenes':36s} AP     AP50   AP75")
for name, card in cards.items():
    for split, words in (("val", "known objects"), ("val_unknown", "unknown objects")):
        numbers = card["metrics"][split]
        print(f"{name:10s} {words:25s}", "  ".join(f"{numbers[key]:.3f}" for key in ("AP", "AP50", "AP75")))
assert cards["fast_rcnn"]["metrics"]["val"]["AP"] > cards["sppnet"]["metrics"]["val"]["AP"]

# %% [markdown]
# ## 6 A claim of the paper, reproduced in shape
#
# **Claim** (section 5.5, Figure 3): more proposals are *not* simply better. With their number mAP rises, **then falls a little**, although ever more objects are covered.
#
# Three seeds of short trainings (`python -m experiments fast_rcnn_proposals`; each detector was trained on 200 proposals a scene and measured on the first n, where the paper trains anew for each number). **Predict** both curves.

# %%
from experiments.record import load_result

amounts = load_result("fast_rcnn_proposals")
numbers_of = [int(name.split()[0]) for name in amounts["mean"]]
curves = {label: [numbers[key] for numbers in amounts["mean"].values()] for label, key in (("recall at IoU 0.5", "recall"), ("AP50", "AP50"), ("AP", "AP"))}
spread = {label: [numbers[key] for numbers in amounts["sd"].values()] for label, key in (("recall at IoU 0.5", "recall"), ("AP50", "AP50"), ("AP", "AP"))}
show(curves_figure(numbers_of, curves, xlabel="proposals", ylabel="share", spread=spread, title="More proposals (our scenes, 3 seeds)", log_x=True), alt="Recall, AP50 and AP against the number of proposals: recall keeps rising, AP is highest at a hundred and falls a little after.")

# %%
# NBVAL_CHECK_OUTPUT
for name, numbers in amounts["mean"].items():
    print(f"{name:10s} recall {numbers['recall']:.3f}  AP {numbers['AP']:.3f}  by seed", [one[name]["AP"] for one in amounts["per_seed"].values()])
for statement, holds in amounts["verdict"].items():
    print("yes" if holds else "no ", statement)
assert len(amounts["seeds"]) >= 3
assert amounts["verdict"]["100 boxes beat 25"]
assert amounts["verdict"]["100 boxes beat 400"]
assert amounts["verdict"]["400 boxes cover more objects than 100"]

# %% [markdown]
# As in the paper, AP falls at the end, although the last proposals cover a few objects more. That they bring more false alarms than objects is a guess: they are not counted here. And these detectors never learnt from more than 200.
# One more seed, live and in miniature (its training is far too short for good boxes):

# %% tags=["nbval-ignore-output"]
from experiments import fast_rcnn_proposals

live = fast_rcnn_proposals.run(seed=7, short=True)
print("live, 8 scenes to learn from:", {name: numbers["AP50"] for name, numbers in live.items()})

# %% [markdown]
# ## 7 Questions answered
#
# **Is one training better than two?** (Section 5.1, Table 6.) In the paper the multi-task loss raises mAP by 0.8 to 1.1 points **even where the regressed boxes are not used**, and beats the stage-wise way (first
# classes, then a box layer on frozen features). Ours, three seeds of short trainings (560 looks at scenes, each of the 120 seen about five times). **Predict** the order of the four bars.

# %%
# NBVAL_CHECK_OUTPUT
tasks = load_result("fast_rcnn_multi_task")
for name, numbers in tasks["mean"].items():
    print(f"{name:28s} AP {numbers['AP']:.3f} ± {tasks['sd'][name]['AP']:.3f}   AP50 {numbers['AP50']:.3f}   AP75 {numbers['AP75']:.3f}")
for statement, holds in tasks["verdict"].items():
    print("yes" if holds else "no ", statement)

# %%
from utils.figures import bars_figure

bars = {name.replace(", ", ",\n"): [one[name]["AP"] for one in tasks["per_seed"].values()] for name in tasks["mean"]}
show(bars_figure(bars, ylabel="AP", title="One training or two (our scenes)"), alt="AP of four ways to train: classes only, stage-wise, multi-task without using its boxes, and multi-task; dots are seeds.")

# %% [markdown]
# **Not reproduced.** The four lie within the spread of the seeds; classes alone are slightly ahead. Regressed boxes are now ahead and now behind up to IoU 0.75, where they still help on the mean (trained apart 0.106 to 0.114, together
# 0.098 to 0.103). From 0.8 to 0.9 they lose: at 0.85 (in the record, not printed) 0.042 to 0.033 and 0.037 to 0.025. What is different here? Our trainings are short. The rest is guessed: the proposals of composed scenes often fit to the
# pixel, where the paper's need repair; and RoI pooling rounds to cells of 8 pixels, so that objects of 24 to 106 pixels cannot be placed finer than it sees. Look at the shipped detector, too, which was trained for longer: its boxes
# against the bare proposals, strict and loose.

# %%
# NBVAL_CHECK_OUTPUT
from lessons.metrics import CocoMetrics

held_back = [(image, target, selective_search(image)[:200]) for image, target in (validation[i] for i in range(100, 124))]


def strict_and_loose(one):
    metrics = CocoMetrics()
    with torch.no_grad():
        for image, target, boxes in held_back:
            metrics.update(one([image], proposals=[boxes]), [target])
    return metrics.compute()


bare = recipe.build().eval()
bare.load_state_dict(detector.state_dict())
for parameter in bare.box_head.bbox_pred.parameters():
    torch.nn.init.zeros_(parameter)  # every correction is 0: boxes stay where they were proposed
results = {"regressed boxes": strict_and_loose(detector), "bare proposals": strict_and_loose(bare)}
difference = {key: results["regressed boxes"][key] - results["bare proposals"][key] for key in ("AP50", "AP75")}
print("regressing helps at IoU 0.5:", difference["AP50"] > 0, "- at 0.75:", difference["AP75"] > 0)

# %% [markdown]
# Here, on 24 scenes, it no longer helps at 0.75. Regression seems to repair what was off by much and to blur what was right. Is rounding the cause? That is a guess; the remedy to try is finer pooling, RoIAlign (exercise 3; notebook 07).
#
# **Which layers must learn?** SPPnet trained its fully connected layers only. The paper's Table 5 (VGG16): those alone 61.4 mAP, all convolutions from the third group on 66.9, from the second 67.2. Ours:

# %%
# NBVAL_CHECK_OUTPUT
layers = load_result("fast_rcnn_layers")
for name, numbers in layers["mean"].items():
    print(f"{name:20s} AP {numbers['AP']:.3f} ± {layers['sd'][name]['AP']:.3f}   AP50 {numbers['AP50']:.3f}")
for statement, holds in layers["verdict"].items():
    print("yes" if holds else "no ", statement)

# %%
bars = {name: [one[name]["AP"] for one in layers["per_seed"].values()] for name in layers["mean"]}
show(bars_figure(bars, ylabel="AP", title="What learns (our scenes)"), alt="AP where only the head learns, head and last stage, and everything; dots are seeds.")

# %% [markdown]
# A tie, in spite of the first "yes": everything is ahead of the head alone by 0.004, the seeds spread by 0.014 and 0.017, and one of the three has it the other way round. Head and last stage, 0.136, is ahead of both. The trainings
# were short (560 looks at scenes).
#
# Trained for longer, the shipped Fast R-CNN is well ahead of the shipped SPPnet on known objects (their rows in section 5). Both began with the same body and had the same scenes and number of steps. But more than the training of the
# convolutions is different: the pooling (7 × 7 bins; a pyramid of 50), the width of fc6 and fc7 (192; 256), dropout (SPPnet's alone), how regions are sampled, and all that follows fc7. So the gap cannot be put down to the convolutions alone.
#
# **What does truncated SVD cost?** The paper: more than 30 % less time for 0.3 points of mAP (ranks 1024 and 256 for fc6 and fc7). Ours, with the same rank for both:

# %%
# NBVAL_CHECK_OUTPUT
svd = load_result("fast_rcnn_svd")
full = svd["mean"]["full"]
for name, numbers in svd["mean"].items():
    print(f"{name:8s} {numbers['multiply-adds']:12,.0f} multiply-adds a region ({full['multiply-adds'] / numbers['multiply-adds']:5.1f} times fewer)   AP {numbers['AP']:.3f}")
for statement, holds in svd["verdict"].items():
    print("yes" if holds else "no ", statement)

# %%
costs = [numbers["multiply-adds"] / 1e3 for numbers in svd["mean"].values()][::-1]
figure = curves_figure(costs, {key: [numbers[key] for numbers in svd["mean"].values()][::-1] for key in ("AP50", "AP")}, xlabel="thousands of multiply-adds of fc6 and fc7 for a region", ylabel="", title="Thinner and thinner layers (our scenes, 3 seeds)")
figure.axes[0].set_xscale("log")
show(figure, alt="AP and AP50 against the cost of the two fully connected layers: the fewer multiply-adds, the lower both.")

# %% [markdown]
# The work falls, and so does AP, at once. Two explanations, not told apart here: a fc6 of 192 outputs has no 4096 to spare; or 140 steps of training were too few to leave the random start, which uses all directions alike. So *that a
# compressed layer loses hardly anything* is not reproduced, and whether longer training would change that stays open. The shape that does carry over is the trade.
#
# **Softmax or SVMs?** R-CNN needed SVMs; here softmax is ahead by 0.1 to 0.8 points in the paper (Table 8). Ours, both on the same features:

# %%
# NBVAL_CHECK_OUTPUT
scores = load_result("fast_rcnn_svm")
for name, numbers in scores["mean"].items():
    print(f"{name:8s} AP {numbers['AP']:.3f} ± {scores['sd'][name]['AP']:.3f}   AP50 {numbers['AP50']:.3f}")
for statement, holds in scores["verdict"].items():
    print("yes" if holds else "no ", statement)

# %% [markdown]
# Here the SVMs are slightly ahead, in two of three seeds. It is not quite like for like: softmax reports boxes with p > 0.05, at most 100 of a scene; the SVMs all with a margin > −1, up to 100 *of each class*.
# A guess at the reason, not tested here: training that was cut so short leaves poor probabilities, and SVMs, fitted afterwards with hard negatives, catch up on it. Few would train SVMs for that:
# one training that goes on a little longer is simpler.
#
# **Why background from [0.1, 0.5)?** The paper took the band over from SPPnet; its lower end, it says, appears to act as a heuristic for mining hard examples. It shows no numbers. Ours, three starts of the band:

# %%
# NBVAL_CHECK_OUTPUT
band = load_result("fast_rcnn_background")
for name, numbers in band["mean"].items():
    print(f"{name:10s} AP {numbers['AP']:.3f} ± {band['sd'][name]['AP']:.3f}   AP50 {numbers['AP50']:.3f}   by seed", [one[name]["AP"] for one in band["per_seed"].values()])
for statement, holds in band["verdict"].items():
    print("yes" if holds else "no ", statement)

# %% [markdown]
# 0 and 0.1 are a tie: they differ by less than 0.001, whatever the "yes" says. 0.3 is behind on the mean, in two of three seeds. Perhaps proposals that touch no object are easy, but leaving out too many teaches nothing about open
# background. For our scenes the heuristic neither helps nor harms.
#
# ## 8 Find the mistake
#
# Most of these stood in real lecture notes. Run, read the verdict, repair, run again.
#
# *"RoI pooling's gradient is shared among the cells of a bin."* (The notes: "approximate".) For one region, one bin:

# %%
# NBVAL_CHECK_OUTPUT
from utils.grading import check


def gradient_mistake_1(values):
    return torch.full_like(values, 1 / values.numel())


def gradient_of_maximum(values):
    x = values.clone()[None, None].requires_grad_()
    roi_pool(x, [torch.tensor([[0.0, 0, values.shape[1] - 1, values.shape[0] - 1]])], 1).sum().backward()
    return x.grad[0, 0]


check(gradient_mistake_1, gradient_of_maximum, [(torch.tensor([[7.0]]),), (torch.tensor([[1.0, 5.0], [2.0, 0.0]]),)])

# %% [markdown]
# *"Positives are regions with IoU > 0.5, all others are background."* What of IoU below 0.1? (−1 means left out.)

# %%
# NBVAL_CHECK_OUTPUT
def band_mistake_2(overlap):
    return torch.where(overlap >= 0.5, 1, 0)


def band_of_the_paper(overlap):
    return torch.where(overlap >= 0.5, 1, torch.where(overlap >= 0.1, 0, -1))


check(band_mistake_2, band_of_the_paper, [(torch.tensor([0.9, 0.3]),), (torch.tensor([0.5, 0.1, 0.05, 0.0]),)])

# %% [markdown]
# *"The box loss is smooth L1 between predicted and true corrections, summed over all regions."* One thing is missing in the formula (labels, predicted and wanted corrections):

# %%
# NBVAL_CHECK_OUTPUT
def box_loss_mistake_3(labels, predicted, wanted):
    return smooth_l1_loss(predicted, wanted, beta=1.0, reduction="sum") / len(labels)


def box_loss(labels, predicted, wanted):
    return smooth_l1_loss(predicted[labels >= 1], wanted[labels >= 1], beta=1.0, reduction="sum") / len(labels)


check(box_loss_mistake_3, box_loss, [(torch.tensor([2, 1]), torch.ones(2, 4), torch.zeros(2, 4)), (torch.tensor([2, 0]), torch.ones(2, 4), torch.zeros(2, 4))])

# %% [markdown]
# *"The targets are $t_x = (G_x - P_x) / P_w$, ..., and that is all."* Which step do the notes leave out, and why does λ = 1 depend on it? (Proposal, object; cx, cy, w, h.)

# %%
# NBVAL_CHECK_OUTPUT
from lessons.coding import encode_boxes


def targets_mistake_4(proposal, goal):
    return encode_boxes(goal, proposal)


near, goal = torch.tensor([[10.0, 10, 50, 50]]), torch.tensor([[12.0, 10, 56, 48]])
check(targets_mistake_4, lambda p, g: encode_boxes(g, p, head.weights), [(near, near), (near, goal)], tolerance=1e-4)

# %% [markdown]
# *"Fast R-CNN tests 213 times faster than R-CNN, in 0.32 seconds."* Two true numbers that do not belong together. Given the seconds for a picture, R-CNN's and Fast R-CNN's without and with truncated SVD (section 5): how many times faster is it *with* SVD, and how
# many seconds does it take then?

# %%
# NBVAL_CHECK_OUTPUT
def speed_mistake_5(before, without_svd, with_svd):
    return [before / with_svd, without_svd]


check(speed_mistake_5, lambda before, without_svd, with_svd: [before / with_svd, with_svd], [(47.0, 0.32, 0.22), (9.8, 0.10, 0.06)])

# %% [markdown]
# *"With N classes the last layers have N + 1 and 4 (N + 1) outputs."* So has our code, and torchvision's: four for the background, too, which nothing learns. How many has the **paper** of scores and of box corrections, with N classes besides the background?

# %%
# NBVAL_CHECK_OUTPUT
def outputs_mistake_6(n):
    return [n + 1, 4 * (n + 1)]


check(outputs_mistake_6, lambda n: [n + 1, 4 * n], [(20,), (80,)])

# %% [markdown]
# ## 9 Exercises
#
# **1.** Smooth L1 with a threshold β: $0.5 x^2 / β$ below, and beyond it straight, so that neither value nor slope jumps.

# %%
def smooth_l1(x, beta):
    ...


check(smooth_l1, lambda x, beta: smooth_l1_loss(x, torch.zeros_like(x), beta=beta, reduction="none"), [(torch.tensor([0.05, -2.0]), 1.0), (torch.tensor([0.05, -2.0, 0.2]), 1 / 9)])

# %% [markdown]
# **2.** The largest rank at which truncated SVD of u × v weights still saves multiply-adds.

# %%
def largest_rank(u, v):
    ...


check(largest_rank, lambda u, v: (u * v - 1) // (u + v), [(4, 6), (4096, 25088), (192, 7056)])

# %% [markdown]
# **3.** `head.pooling = multiscale_roi_align` (from `lessons.roi`) on the shipped detector, which was trained with RoI pooling: does AP change? And after training with it?
#
# **4.** Raise the IoU threshold of the last NMS from 0.5 to 0.8 (`head.nms_threshold`). Which of AP50 and AR100 changes, and how?
#
# **5.** *Think first.* After all this sharing, what is the slowest part of Fast R-CNN? Measure `selective_search(scene)` against `detector([scene], proposals=...)`. How would you use the map to propose regions? (That is Faster R-CNN.)
#
# ## 10 Summary, limits and what came next
#
# - RoI pooling is a pyramid with one level; its gradient goes to each bin's largest cell and adds up over regions.
# - One head says what (softmax) and where (four numbers for each class); one loss with smooth L1 trains both, and the convolutions with them.
# - Regions of few images make a step cheap; a quarter are objects, background comes from near ones.
# - Per-region layers can be made thin by truncated SVD.
#
# **Limits.** Proposals still come from outside: they take far longer than the network, and no gradient reaches them. RoI pooling rounds twice, which costs place. One map of one stride serves small and large objects alike.
#
# **What we did not reproduce:** the paper's numbers (VOC, COCO), its networks, and its timings.
#
# **Next:** Faster R-CNN lets the map propose its own regions.
#
# *Paper: R. Girshick, ICCV 2015. Photographs: `data/CREDITS.csv`.*

# %% tags=["nbval-ignore-output"]
context.budget()
