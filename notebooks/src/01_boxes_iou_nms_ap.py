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
# # 01 · Boxes, IoU, NMS and average precision
#
# Every detector in this collection, from R-CNN to DETR, ends in the same four ideas: a **box** says where, **IoU** says how
# well two boxes agree, **NMS** keeps one box per object, and **average precision** says how good the whole detector is.
# Here you take each of them apart by hand, pull it about in a widget, and prove your version equal to the library's.
#
# *Everything runs offline on a laptop; the whole notebook takes about a minute. Run the cells from top to bottom.*

# %%
import torch

from utils.setup import setup

context = setup("01", seed=0)

# %% [markdown]
# ## 0 First result
#
# A trained R-CNN (you build it in notebook 02) looks at a photograph it has never seen. It does not answer with three boxes.
# It answers with **hundreds of scored candidates**. Predict before you run the cell: how many of them are needed?

# %%
from lessons import zoo
from lessons.data.scenes import CLASSES, compose_scene
from utils.figures import draw_boxes, images_figure, show

image, target = compose_scene("val", 13, size=160)
detector = zoo.load("rcnn", weights="lesson")
candidates, class_scores = detector.candidates(image)
detections = detector([image])[0]
confident = detections["scores"] > 0  # an SVM says yes above 0
print(f"{len(candidates)} candidates, of which {int(confident.sum())} remain")

# %%
figure, axes = images_figure([image, image], ["what the network says", "what it means"], width=4.2)
draw_boxes(axes[0], candidates, colors=["#56B4E9"], linewidth=0.7)
draw_boxes(axes[1], *(detections[key][confident] for key in ("boxes", "labels", "scores")), CLASSES)
show(figure, alt="The same photograph twice: on the left hundreds of overlapping candidate boxes, on the right the few that remain, with class and score.")

# %% [markdown]
# Three questions stand between the left picture and the right one, and they are the chapters of this notebook:
# when do two boxes show *the same* object (IoU)? Which of them stays (NMS)? And how do we put one number on
# "good" when some answers are right, some wrong and some missing (AP)?

# %% [markdown]
# ## 1 The papers
#
# | Idea | Source | What it brought |
# |---|---|---|
# | IoU as the criterion, AP as the measure | Everingham et al., *The PASCAL Visual Object Classes (VOC) Challenge*, IJCV 2010 | one protocol for everybody: a box counts when IoU > 0.5, each object can be found once |
# | AP averaged over IoU 0.50 … 0.95 | Lin et al., *Microsoft COCO: Common Objects in Context*, ECCV 2014 | rewards boxes that fit closely; sizes and crowds reported |
# | Generalized IoU | Rezatofighi et al., CVPR 2019 | a measure with a gradient when boxes do not touch |
# | Distance IoU, Complete IoU | Zheng et al., *Distance-IoU Loss: Faster and Better Learning for Bounding Box Regression*, AAAI 2020 | centre distance and aspect ratio enter; converges faster |
# | Soft-NMS | Bodla, Singh, Chellappa & Davis, *Soft-NMS – Improving Object Detection With One Line of Code*, ICCV 2017 | scores decay instead of boxes being deleted |
#
# **Task:** object detection: for every object of a known class give a box, a class and a score.
# **Problem:** a detector is a classifier run at thousands of places; its raw answer is redundant, and judging it is not obvious.
# **Contribution of these papers:** the measures and the clean-up step that all later detectors share.

# %% [markdown]
# ## 2 The method in one picture
#
# ```mermaid
# %%{init: {"theme": "neutral"}}%%
# flowchart LR
#     accTitle: From candidates to average precision
#     accDescr: Candidates are sorted by score, thinned by NMS using IoU, matched to ground truth using IoU, and summarised by precision, recall and AP.
#     A["candidates<br/>box, class, score"] --> B["NMS<br/>one box per object"]
#     B --> C["match to ground truth<br/>each object once"]
#     C --> D["precision and recall<br/>over all images"]
#     D --> E["AP<br/>one number"]
#     I(["IoU"]) -.-> B
#     I -.-> C
# ```

# %% [markdown]
# ## 3 Building it, step by step
#
# ### 3.1 One box, three spellings
#
# Datasets and papers write the same box in different ways. Mixing them up raises no error; it only ruins the result.
#
# | format | numbers | who uses it |
# |---|---|---|
# | `xyxy` | left, top, right, bottom | torchvision, PASCAL VOC, this collection |
# | `xywh` | left, top, width, height | COCO's files |
# | `cxcywh` | centre x, centre y, width, height | R-CNN's regression, DETR (divided by the image size) |
#
# Pixels are squares with an extent: a box that covers the pixel columns 10 to 14 has x1 = 10 and x2 = **15**; its width is
# x2 − x1 = 5. The old VOC tools count x2 = 14 and width x2 − x1 **+ 1**; section 3.9 shows what that does to published numbers.

# %%
x1, y1, x2, y2 = 30.0, 40.0, 90.0, 120.0
width, height = x2 - x1, y2 - y1
as_xywh = [x1, y1, width, height]
as_cxcywh = [x1 + width / 2, y1 + height / 2, width, height]
print("xywh  ", as_xywh)
print("cxcywh", as_cxcywh)

# %% [markdown]
# The library does the same for any number of boxes. The agreement cell below fails this notebook's test if the two ever part.

# %%
from lessons.boxes import box_convert
from utils.source import show_source

box = torch.tensor([[x1, y1, x2, y2]])
torch.testing.assert_close(box_convert(box, "xyxy", "xywh")[0].tolist(), as_xywh)
torch.testing.assert_close(box_convert(box, "xyxy", "cxcywh")[0].tolist(), as_cxcywh)
torch.testing.assert_close(box_convert(box_convert(box, "xyxy", "cxcywh"), "cxcywh", "xyxy"), box)
print("library and hand agree")

# %% [markdown]
# ### 3.2 IoU: do two boxes mean the same thing?
#
# *Question.* Box A is 60 × 80 pixels; box B has the same size but is shifted by a quarter of its width and of its height.
# More than half of each box is shared. Will their IoU be above the famous threshold of 0.5? Write your guess down.
#
# $$\mathrm{IoU}(A, B) = \frac{|A \cap B|}{|A \cup B|} = \frac{|A \cap B|}{|A| + |B| - |A \cap B|}$$

# %%
a = torch.tensor([30.0, 40.0, 90.0, 120.0])
b = a + torch.tensor([15.0, 20.0, 15.0, 20.0])
overlap_width = min(a[2], b[2]) - max(a[0], b[0])
overlap_height = min(a[3], b[3]) - max(a[1], b[1])
intersection = overlap_width.clamp(min=0) * overlap_height.clamp(min=0)
union = 60 * 80 + 60 * 80 - intersection
iou_by_hand = intersection / union
print(f"intersection {intersection:.0f}, union {union:.0f}, IoU {iou_by_hand:.4f}")

# %% [markdown]
# 0.39: a shift of a quarter in both directions is already a miss at the threshold 0.5. **IoU is a strict judge.**
# The two `clamp`s matter: without them two boxes that miss each other in both directions get a *positive* "intersection"
# (minus times minus).
#
# The library's version compares every box of one set with every box of another, N × M, without a loop:

# %% tags=["nbval-ignore-output"]
from lessons.boxes import box_iou

show_source(box_iou)

# %%
# NBVAL_CHECK_OUTPUT
torch.testing.assert_close(box_iou(a[None], b[None])[0, 0], iou_by_hand)
print(f"agrees: {box_iou(a[None], b[None]).item():.4f}")

# %% [markdown]
# **Now pull the boxes about.** Drag a box or its handles with the mouse or a finger, or use the keyboard: Tab chooses a box,
# arrow keys move it, Shift makes bigger steps, Ctrl or Alt with an arrow resizes it. The arrows on box B show the direction in which
# the chosen measure pulls it; *Step* and *Play* follow them.
#
# Try: (1) make the boxes disjoint and look for the IoU arrows; (2) put a small box inside a large one and compare GIoU with IoU;
# (3) keep the centres together and change only the shape: which measure still pulls?

# %% tags=["widget", "nbval-ignore-output"]
from utils.widgets import BoxPlayground

photograph, _ = compose_scene("val", 13, size=320)
playground = BoxPlayground(photograph, box_a=[60, 60, 170, 200], box_b=[130, 110, 250, 230])
playground

# %% [markdown]
# The same thing as a still picture, for print and screen readers:

# %% tags=["static"]
figure = playground.static()
show(figure, alt="Two overlapping boxes on a photograph with shaded intersection, dashed enclosing box and gradient arrows on box B; "
     "bars show IoU, GIoU, DIoU and CIoU.")

# %% [markdown]
# ### 3.3 GIoU, DIoU, CIoU: measures that can be learned from
#
# *Question.* A network predicts a box that misses the object entirely. Which way should the loss 1 − IoU push it?
#
# IoU is 0 for **every** disjoint pair, near or far, so its gradient is 0: nothing to learn from. Three repairs:
#
# $$\mathrm{GIoU} = \mathrm{IoU} - \frac{|C \setminus (A \cup B)|}{|C|} \qquad
# \mathrm{DIoU} = \mathrm{IoU} - \frac{\rho^2(\mathbf{a}, \mathbf{b})}{c^2} \qquad
# \mathrm{CIoU} = \mathrm{DIoU} - \alpha v$$
#
# $C$ is the smallest box around both, $c$ its diagonal, $\rho$ the distance of the centres,
# $v = \frac{4}{\pi^2}\left(\arctan\frac{w_a}{h_a} - \arctan\frac{w_b}{h_b}\right)^2$ the difference in shape and
# $\alpha = \frac{v}{1 - \mathrm{IoU} + v}$ its weight (held constant in the gradient).

# %%
import math

far = torch.tensor([110.0, 50.0, 170.0, 90.0])
enclosing = torch.tensor([30.0, 40.0, 170.0, 120.0])
union = 60 * 80 + 60 * 40
enclosing_area = 140 * 80
giou_by_hand = 0 - (enclosing_area - union) / enclosing_area
diou_by_hand = 0 - ((140 - 60) ** 2 + (70 - 80) ** 2) / (140**2 + 80**2)
v = 4 / math.pi**2 * (math.atan(60 / 80) - math.atan(60 / 40)) ** 2
ciou_by_hand = diou_by_hand - v / (1 - 0 + v) * v
print(f"GIoU {giou_by_hand:.4f}, DIoU {diou_by_hand:.4f}, CIoU {ciou_by_hand:.4f}")

# %%
# NBVAL_CHECK_OUTPUT
from lessons.boxes import complete_box_iou, distance_box_iou, generalized_box_iou

MEASURES = {"IoU": box_iou, "GIoU": generalized_box_iou, "DIoU": distance_box_iou, "CIoU": complete_box_iou}
by_hand = {"IoU": 0.0, "GIoU": giou_by_hand, "DIoU": diou_by_hand, "CIoU": ciou_by_hand}
for name, measure in MEASURES.items():
    value = measure(a[None], far[None]).item()
    assert abs(value - by_hand[name]) < 1e-5, name
    print(f"{name:5s}{value:8.4f}")

# %% [markdown]
# **The gradients of a disjoint pair.** Predict which of the four rows is all zeros, and which measure moves the *sides*
# of the box while another only shifts the whole box.

# %%
# NBVAL_CHECK_OUTPUT
for name, measure in MEASURES.items():
    box_b = far.clone().requires_grad_()
    loss = 1 - measure(a[None], box_b[None]).squeeze()
    (gradient,) = torch.autograd.grad(loss, box_b)
    print(f"{name:5s}", "  ".join(f"{side} {value:+.5f}" for side, value in zip(("x1", "y1", "x2", "y2"), gradient.tolist())))

# %% [markdown]
# Read the signs: gradient descent moves *against* them. GIoU says "grow": the left side goes left towards A, top and bottom move
# apart to fill the enclosing box. DIoU and CIoU say "go there": both sides move left, both edges move down, towards A's centre.
# Section 4 lets four boxes race, and section 6 tests who is faster on thousands of pairs.

# %% [markdown]
# ### 3.4 Greedy NMS: one box per object
#
# *Question.* The detector's candidates for one object differ by a few pixels each. Averaging them blurs the corners.
# What is the simplest rule that keeps exactly one?
#
# Greedy non-maximum suppression: take the best-scored box, delete every other box that overlaps it by more than a
# threshold, repeat with what is left. The loop *is* the lesson, so here it is once, in full:

# %%
def nms_by_hand(boxes, scores, iou_threshold):
    queue = scores.argsort(descending=True, stable=True).tolist()
    kept = []
    while queue:
        best = queue.pop(0)
        kept.append(best)
        overlap = box_iou(boxes[[best]], boxes[queue])[0].tolist()
        queue = [i for i, value in zip(queue, overlap) if value <= iou_threshold]
    return torch.tensor(kept)


# %% [markdown]
# Three boxes are enough to follow it by eye: B overlaps A (IoU 0.68) and C overlaps B but not A by more than 0.5.
# **Predict:** with threshold 0.5, does C survive, although B would have deleted it?

# %%
# NBVAL_CHECK_OUTPUT
from lessons.nms import nms

three = torch.tensor([[10.0, 10, 60, 60], [16, 14, 66, 64], [27, 18, 77, 68]])
three_scores = torch.tensor([0.9, 0.8, 0.7])
print("IoU", [[round(value, 2) for value in row] for row in box_iou(three, three).tolist()])
print("kept by hand", nms_by_hand(three, three_scores, 0.5).tolist())
torch.testing.assert_close(nms_by_hand(three, three_scores, 0.5), nms(three, three_scores, 0.5))

# %% [markdown]
# C survives: B was deleted before it could delete anything. Greedy means that only *kept* boxes suppress.
#
# The agreement cell, on the detector's real candidates and at every threshold:

# %%
# NBVAL_CHECK_OUTPUT
best_class = class_scores.max(dim=0).values.argmax()
scores = class_scores[:, best_class]
for threshold in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0):
    torch.testing.assert_close(nms_by_hand(candidates, scores, threshold), nms(candidates, scores, threshold))
print("seven thresholds, the same boxes in the same order")

# %% [markdown]
# Step through it. The thick box is the one being kept, the dashed ones are deleted by it in this step, with their IoU;
# the list on the right is the queue. Move the threshold: at 0 only boxes that do not touch survive, at 1 all of them do.

# %% tags=["widget", "nbval-ignore-output"]
from utils.widgets import NmsPlayer

first = scores.argsort(descending=True)[:60]
player = NmsPlayer(image, candidates[first], scores[first], iou_threshold=0.3)
player

# %% tags=["static"]
show(player.static(), alt="Candidates of the R-CNN on a photograph: the box kept in this step drawn thick, the boxes it suppresses dashed "
     "with their IoU, and the queue sorted by score.")

# %% [markdown]
# **Per class.** A bird in front of a car overlaps it. One must not delete the other, so NMS runs for each class on its own:
# `batched_nms(boxes, scores, class, threshold)`.

# %%
# NBVAL_CHECK_OUTPUT
from lessons.nms import batched_nms

classes = torch.tensor([1, 2, 1])
print("one pot     ", nms(three, three_scores, 0.3).tolist())
print("per class   ", batched_nms(three, three_scores, classes, 0.3).tolist())

# %% [markdown]
# ### 3.5 Where NMS fails: crowds
#
# *Question.* Imagine a **perfect** detector that outputs exactly the true boxes. Can NMS make it worse?
#
# No network is needed to find out. We take the true boxes of 400 validation scenes, add pairs of animals of one class that stand close
# together, run NMS on the truth itself and count what is left. The result is an upper bound on the recall of *every* detector that
# uses this threshold.

# %%
from lessons.data import open_dataset

scenes_400 = open_dataset("scenes", "val", length=400)
truth = [scenes_400.annotation(i)[0]["boxes"] for i in range(400)]
shift = torch.tensor([0.25, 0.0, 0.25, 0.0])
crowds = []
for boxes in truth:
    neighbour = boxes + shift * (boxes[:, 2] - boxes[:, 0])[:, None]
    crowds.append(torch.cat([boxes, neighbour]))
thresholds = [0.1, 0.3, 0.5, 0.55, 0.65, 0.8]

# %%
# NBVAL_CHECK_OUTPUT
bound = {}
for name, scenes in (("single objects", truth), ("neighbours, a quarter apart", crowds)):
    kept = [sum(len(nms(boxes, torch.ones(len(boxes)), t)) for boxes in scenes) for t in thresholds]
    bound[name] = [count / sum(map(len, scenes)) for count in kept]
    print(f"{name:28s}", "  ".join(f"{t}: {share:.3f}" for t, share in zip(thresholds, bound[name])))
assert bound["neighbours, a quarter apart"][1] < bound["neighbours, a quarter apart"][-1]

# %%
from utils.figures import curves_figure

figure = curves_figure(thresholds, bound, xlabel="IoU threshold of NMS", ylabel="share of true boxes that survive",
                       title="Even a perfect detector loses neighbours")
show(figure, alt="Share of true boxes surviving NMS against its threshold. Nearly all single objects survive from 0.5 on; of neighbours a quarter "
     "of a width apart, half are lost until the threshold passes 0.6.")

# %% [markdown]
# Two boxes of the same size shifted by a quarter of their width have IoU 0.75 / 1.25 = **0.6**. Any threshold below 0.6 deletes one of
# the two animals, *whatever the network does*. Raising the threshold brings them back, and with them the duplicates. There is no
# good value: this is the open question that soft-NMS softens and that DETR (notebook 11) removes.
#
# ### 3.6 Soft-NMS: lower the score, keep the box
#
# Bodla et al. change one line: instead of deleting box $i$ with overlap $o$ they multiply its score by $1 - o$ (linear, if $o$ is over the threshold)
# or by $e^{-o^2/\sigma}$ (Gaussian). By hand, for the three boxes above:

# %%
# NBVAL_CHECK_OUTPUT
from lessons.nms import soft_nms

overlaps = box_iou(three, three)
score_b = 0.8 * math.exp(-(overlaps[0, 1].item() ** 2) / 0.5)
score_c = 0.7 * math.exp(-(overlaps[0, 2].item() ** 2) / 0.5)
score_b = score_b * math.exp(-(overlaps[1, 2].item() ** 2) / 0.5)  # C is now better than B: it is kept next and decays B
kept, decayed = soft_nms(three, three_scores, iou_threshold=0.5, sigma=0.5, score_threshold=0.001, method="gaussian")
torch.testing.assert_close(decayed, torch.tensor([0.9, score_c, score_b]))
print("order", kept.tolist(), "scores", [round(value, 3) for value in decayed.tolist()])

# %% [markdown]
# Nothing is lost; the order changed: C, which is further from A, now ranks above B. Whether that helps depends on what is
# measured, so we need a measure of the whole detector.
#
# ### 3.7 Precision, recall and average precision, by hand
#
# *Question.* A detector gives ten boxes for six objects. Some are right, some wrong, one object is found by none. One number, please.
#
# Sort the detections **of all images together** by score. Each is a true positive if it overlaps an object of its class by IoU ≥ 0.5
# *that no better-scored detection has taken yet*; otherwise it is a false positive. Then go down the list:

# %%
# NBVAL_CHECK_OUTPUT
ten_scores = torch.tensor([0.98, 0.95, 0.91, 0.84, 0.80, 0.72, 0.61, 0.55, 0.43, 0.30])
matched = torch.tensor([True, True, False, True, False, False, True, False, False, True])
objects = 6
true_positives = matched.cumsum(0)
precision = true_positives / torch.arange(1, 11)
recall = true_positives / objects
for row in zip(ten_scores.tolist(), matched.tolist(), precision.tolist(), recall.tolist()):
    print("score {:.2f}  {!s:5}  precision {:.3f}  recall {:.3f}".format(*row))

# %% [markdown]
# Precision zigzags, recall only rises. All three protocols first ask: *at this recall or higher, what is the best precision?*
# (the "envelope"), and differ in where they read it:
#
# | protocol | reads the envelope at | used by |
# |---|---|---|
# | VOC 2007 | 11 recalls 0, 0.1, …, 1 | R-CNN, Fast R-CNN, Faster R-CNN on VOC07 |
# | VOC 2010 and later | every recall that occurs: the exact area | VOC10, VOC12 |
# | COCO | 101 recalls 0, 0.01, …, 1, then averaged over ten IoU thresholds | everything since 2014 |

# %%
envelope = precision.flip(0).cummax(0).values.flip(0)
read_off = lambda r: envelope[recall >= r - 1e-6][0].item() if (recall >= r - 1e-6).any() else 0.0
voc07_by_hand = sum(read_off(i / 10) for i in range(11)) / 11
coco_by_hand = sum(read_off(i / 100) for i in range(101)) / 101
steps = torch.diff(recall, prepend=torch.zeros(1))
voc_by_hand = (steps * envelope).sum().item()

# %%
# NBVAL_CHECK_OUTPUT
from lessons.metrics import average_precision

for protocol, by_hand_value in (("voc07", voc07_by_hand), ("voc", voc_by_hand), ("coco", coco_by_hand)):
    value = average_precision(ten_scores, matched, objects, protocol=protocol).item()
    assert abs(value - by_hand_value) < 1e-6, protocol
    print(f"{protocol:6s} AP {value:.4f}")

# %% [markdown]
# The same ten detections, three different APs, none of them wrong. **Never compare APs of different protocols.**
#
# Move the score threshold and watch the point run along the curve. Click a detection to turn it from right to wrong: an error at
# the top of the list costs far more than one at the bottom.

# %% tags=["widget", "nbval-ignore-output"]
from utils.widgets import PrecisionRecallExplorer

explorer = PrecisionRecallExplorer(ten_scores, matched, objects)
explorer

# %% tags=["static"]
show(explorer.static(), alt="Ranked list of ten detections, right ones and wrong ones, beside the precision-recall curve with its envelope and "
     "the point of the current score threshold.")

# %% [markdown]
# ### 3.8 Each object can be found only once
#
# The sentence is short and easily forgotten. Two detections on the same object: the better-scored one is the true positive,
# **the other one is a false positive**, however well it fits. `match_detections` applies the rule to one image:

# %%
# NBVAL_CHECK_OUTPUT
from lessons.metrics import match_detections

truth_boxes = torch.tensor([[10.0, 10, 60, 60], [70, 10, 110, 50]])
found = torch.tensor([[10.0, 10, 60, 60], [12, 10, 62, 60], [72, 12, 112, 52]])
hits, ignored = match_detections(found, torch.tensor([0.9, 0.8, 0.7]), truth_boxes, iou_threshold=0.5)
print("true positives:", hits.tolist())

# %% [markdown]
# ### 3.9 One pixel in the old VOC tools
#
# The VOC development kit of 2007 measured widths as x2 − x1 **+ 1**, with integer corners. Published R-CNN-era numbers use it.
# How much does one pixel matter? Less for large boxes, a lot for small ones:

# %%
# NBVAL_CHECK_OUTPUT
for size in (8.0, 16.0, 32.0, 64.0, 128.0):
    box_a, box_b = torch.tensor([[0.0, 0, size, size]]), torch.tensor([[size / 4, 0, size * 5 / 4, size]])
    plain = box_iou(box_a, box_b).item()
    plus_one = box_iou(box_a + torch.tensor([0.0, 0, 1, 1]), box_b + torch.tensor([0.0, 0, 1, 1])).item()
    print(f"{size:5.0f} px  IoU {plain:.4f}  with the old +1 {plus_one:.4f}")

# %% [markdown]
# Adding 1 to x2 and y2 is all that `plus_one=True` does in `voc_average_precision`. Use it only to compare with numbers
# that were made that way.
#
# ### 3.10 COCO's files and COCO's twelve numbers
#
# COCO's format is one JSON dictionary with three lists: `images`, `annotations` (boxes as **xywh**, masks as polygons or run-length
# codes, `iscrowd`) and `categories`. Every data set of this collection can speak it, so `pycocotools`, the official tool, can read it.
# The class is called `COCO`, in capitals.

# %%
# NBVAL_CHECK_OUTPUT
import contextlib
import io

from pycocotools.coco import COCO

dataset = open_dataset("scenes", "val", length=24)
with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its timings
    coco = COCO()
    coco.dataset = dataset.coco()
    coco.createIndex()
first_id = coco.getImgIds()[0]
annotation = coco.loadAnns(coco.getAnnIds(imgIds=first_id))[0]
print("categories", [category["name"] for category in coco.loadCats(coco.getCatIds())])
print("one annotation", {key: annotation[key] for key in ("image_id", "category_id", "bbox", "area", "iscrowd")})
print("mask pixels", int(coco.annToMask(annotation).sum()), "of a box of", int(annotation["bbox"][2] * annotation["bbox"][3]))

# %% [markdown]
# Now the whole path at once: the R-CNN of notebook 02 on 24 validation scenes, judged by the official tool and by `CocoMetrics`,
# which is written in this collection. (About 10 s: R-CNN is slow, which is the story of the next lessons.)

# %% tags=["nbval-ignore-output"]
import sys

from tqdm import tqdm

results = [detector([scene])[0] for scene, _ in tqdm(dataset, desc="R-CNN", ncols=80, file=sys.stdout)]

# %%
from pycocotools.cocoeval import COCOeval

from lessons.metrics import CocoMetrics

metrics = CocoMetrics()
metrics.update(results, [dataset.annotation(i)[0] for i in range(len(dataset))])
ours = metrics.compute()

rows = []
for detection, image_id in zip(results, coco.getImgIds()):
    for (x1, y1, x2, y2), score, label in zip(*(detection[key].tolist() for key in ("boxes", "scores", "labels"))):
        rows.append({"image_id": image_id, "category_id": label, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score})
with contextlib.redirect_stdout(io.StringIO()):
    official = COCOeval(coco, coco.loadRes(rows), "bbox")
    official.evaluate(), official.accumulate(), official.summarize()

# %%
for (name, value), reference in zip(ours.items(), official.stats):
    assert abs(value - reference) < 1e-9, name
    print(f"{name:10s} ours {value:7.4f}   pycocotools {reference:7.4f}")

# %% [markdown]
# | number | meaning |
# |---|---|
# | AP | mean over ten IoU thresholds .50, .55, …, .95 and over the classes |
# | AP50, AP75 | at one threshold: *found at all* and *found precisely* |
# | AP small / medium / large | objects of area < 32², 32² to 96², ≥ 96² pixels (−1: there are none) |
# | AR1, AR10, AR100 | mean recall when 1, 10, 100 boxes per image are allowed |
#
# ## 4 Training
#
# A box can be *trained* with these measures: start anywhere, follow the gradient of 1 − measure. Four boxes start from the same
# place, far from the target. Predict the order in which they arrive, and which never leaves.

# %%
def descend(measure, start, goal, steps=200):
    """Gradient descent of 1 - measure on centre and size of N boxes at once; every step's boxes, (steps + 1, N, 4) xyxy."""
    box, path = box_convert(start, "xyxy", "cxcywh"), [start]
    for step in range(steps):
        box = box.detach().requires_grad_()
        value = measure(box_convert(box, "cxcywh", "xyxy")[:, None], goal[:, None])[:, 0]  # N batches of one pair, (N, 1)
        (gradient,) = torch.autograd.grad((1 - value).sum(), box)
        rate = 0.1 if step < 0.8 * steps else 0.01
        box = box.detach() - rate * (2 - value.detach()) * gradient
        box = torch.cat([box[:, :2], box[:, 2:].clamp(min=0.05)], dim=1)  # a box keeps some width and height
        path.append(box_convert(box, "cxcywh", "xyxy"))
    return torch.stack(path)


# %%
start, goal = torch.tensor([[11.2, 11.0, 12.8, 11.9]]), torch.tensor([[9.5, 9.5, 10.5, 10.5]])
paths = {name: descend(measure, start, goal)[:, 0] for name, measure in MEASURES.items()}
for name, path in paths.items():
    print(f"{name:5s} IoU after 20, 60, 200 steps:", [round(box_iou(path[[t]], goal).item(), 2) for t in (20, 60, 200)])

# %%
from utils.figures import new_figure

figure, axes = new_figure(columns=4, width=3, height=3, sharex=True, sharey=True)
for axis, (name, path) in zip(axes[0], paths.items()):
    draw_boxes(axis, path[[0, 10, 20, 30, 40, 60]], colors=["#000000", "#444444", "#777777", "#999999", "#BBBBBB", "#CCCCCC"], linewidth=1.2)
    draw_boxes(axis, path[[200]], colors=["#D55E00"])
    draw_boxes(axis, goal, colors=["#0072B2"], linestyle="--")
    axis.set(title=f"1 − {name}", xlim=(8.8, 13.2), ylim=(12.4, 9.0), aspect="equal")
figure.suptitle("200 steps of gradient descent: from the start (black) through ever lighter grey to the end (orange); target dashed blue")
show(figure, alt="Four panels. With IoU the box does not move; with GIoU it first grows, with DIoU and CIoU it moves straight to the target.")

# %% [markdown]
# ## 5 Results
#
# This lesson has no table of a paper to meet; what it has is **our measurement** of the detector above on 24 scenes of the embedded
# validation set, under each protocol. The same boxes, five numbers:

# %%
from lessons.metrics import voc_average_precision

targets = [dataset.annotation(i)[0] for i in range(len(dataset))]
mean = lambda per_class: sum(per_class.values()) / len(per_class)
table = {
    "VOC 2007, 11 points": mean(voc_average_precision(results, targets, protocol="voc07")),
    "VOC 2007 with the old +1": mean(voc_average_precision(results, targets, protocol="voc07", plus_one=True)),
    "VOC 2010, exact area": mean(voc_average_precision(results, targets, protocol="voc")),
    "COCO AP50, 101 points": ours["AP50"],
    "COCO AP, mean of ten thresholds": ours["AP"],
}
for name, value in table.items():
    print(f"{name:34s}{value:.3f}")

# %% [markdown]
# ## 6 A claim of the paper, reproduced in shape
#
# **Claim** (Zheng et al., AAAI 2020, abstract): the DIoU loss *"converges much faster in training than IoU and GIoU losses"*. They show it first
# without any network: many pairs of a start and a target box, gradient descent on each. We repeat the experiment in small: per seed 700
# starts around targets of area 1 and seven shapes, with random place, size and shape, 200 steps. (Theirs has 1,715,000 pairs, ours 2,100.)
#
# We count how many pairs have come to a good fit, IoU ≥ 0.75. **Predict** the order of the four curves, early and late. (About 5 s.)

# %%
def random_pairs(seed, count=700):
    """Start and target boxes (N, 4) xyxy in the manner of Zheng et al.: targets of area 1 at (10, 10), starts within radius 3."""
    generator = torch.Generator().manual_seed(seed)
    uniform = lambda low, high: torch.rand(count, generator=generator) * (high - low) + low
    radius, angle = 3 * uniform(0, 1).sqrt(), uniform(0, 2 * math.pi)
    ratio, area = 2 ** uniform(-2, 2), uniform(0.5, 2)
    start = torch.stack([10 + radius * angle.cos(), 10 + radius * angle.sin(), (area * ratio).sqrt(), (area / ratio).sqrt()], dim=1)
    ratio = torch.tensor([1 / 4, 1 / 3, 1 / 2, 1, 2, 3, 4])[torch.arange(count) % 7]
    goal = torch.stack([torch.full_like(ratio, 10), torch.full_like(ratio, 10), ratio.sqrt(), 1 / ratio.sqrt()], dim=1)
    return box_convert(start, "cxcywh", "xyxy"), box_convert(goal, "cxcywh", "xyxy")


# %%
arrived = {name: [] for name in MEASURES}
for seed in range(3):
    start, goal = random_pairs(seed)
    for name, measure in MEASURES.items():
        path = descend(measure, start, goal)[:161]  # up to the step where the rate drops
        fit = box_iou(path[:, :, None], goal[None, :, None].expand(len(path), -1, -1, -1)).flatten(1)
        arrived[name].append((fit >= 0.75).float().mean(dim=1))
arrived = {name: torch.stack(shares) for name, shares in arrived.items()}  # (seeds, steps + 1) each

# %%
# NBVAL_CHECK_OUTPUT
for name, shares in arrived.items():
    early, late = ("  ".join(f"{value:.2f}" for value in shares[:, t].tolist()) for t in (40, 160))
    print(f"{name:5s} share at a good fit, seeds 0-2: after 40 steps {early}   after 160 steps {late}")
for name in ("DIoU", "CIoU"):
    assert (arrived[name][:, 160] > arrived["GIoU"][:, 160] + 0.05).all()
assert (arrived["GIoU"][:, 160] > arrived["IoU"][:, 160] + 0.3).all()

# %%
means = {name: shares.mean(dim=0).tolist() for name, shares in arrived.items()}
sds = {name: shares.std(dim=0).tolist() for name, shares in arrived.items()}
figure = curves_figure(range(161), means, xlabel="step", ylabel="share of pairs with IoU ≥ 0.75", spread=sds,
                       title="DIoU and CIoU fit more boxes, GIoU is quicker off the mark")
show(figure, alt="Share of pairs with IoU of at least 0.75 against step for four measures. IoU stays below 0.15. GIoU leads during the first fifty steps; "
     "DIoU and CIoU end about ten points above it.")

# %% [markdown]
# **What came out.** Against IoU the claim holds beyond doubt: most starts are disjoint, and those never move. Against GIoU it holds for *where the boxes end*
# (ten points more pairs fit well, for every seed), but not for the first steps: GIoU's gradient makes a far box grow, and growing reaches the target sooner than
# moving does. We take plain gradient steps of equal rate, so this is a statement about these losses, not about a detector in training.
#
# Why does GIoU end behind? When one box lies inside the other, the enclosing box *is* the larger one, nothing is wasted, and **GIoU equals IoU exactly**: nothing says
# "move to the middle". DIoU still sees the distance of the centres:

# %%
# NBVAL_CHECK_OUTPUT
offset = torch.rand(700, 2, generator=torch.Generator().manual_seed(0)) - 0.5
inner = torch.tensor([[9.5, 9.5, 10.5, 10.5]]).expand(700, 4)
outer = torch.cat([10 + offset - 1.05, 10 + offset + 1.05], dim=1)  # 2.1 wide: the target is always inside
torch.testing.assert_close(generalized_box_iou(outer, inner).diagonal(), box_iou(outer, inner).diagonal())
for name, measure in MEASURES.items():
    box = descend(measure, outer, inner, steps=20)[-1]
    print(f"{name:5s} mean distance of the centres after 20 steps {((box[:, :2] + box[:, 2:]) / 2 - 10).norm(dim=1).mean():.3f}")

# %% [markdown]
# ## 7 Questions answered
#
# **NMS kills true boxes that are close. Is there a way out?** Section 3.5 shows that the loss is a property of the rule, not of the network. Soft-NMS
# keeps them with lower scores; DETR makes the network itself responsible for answering once per object.
#
# **Which score threshold should I choose?** For AP: none. AP depends on the *order* of the scores only. Any increasing function of the score
# leaves it unchanged, so a threshold is a question of the application, not of the evaluation:

# %%
# NBVAL_CHECK_OUTPUT
for name, changed in {"scores": ten_scores, "scores cubed": ten_scores**3, "log scores": ten_scores.log()}.items():
    print(f"{name:14s} AP {average_precision(changed, matched, objects, protocol='coco'):.4f}")

# %% [markdown]
# **So should I output everything?** With AP, yes: boxes below all others cannot lower it. A thousand wrong boxes at the bottom of the list cost nothing,
# the same thousand at the top ruin it. (Only `maxDets`, 100 per image in COCO, stops you.)

# %%
# NBVAL_CHECK_OUTPUT
junk = torch.zeros(1000, dtype=torch.bool)
for name, junk_score in (("at the bottom", 0.0), ("at the top", 1.0)):
    value = average_precision(torch.cat([ten_scores, torch.full((1000,), junk_score)]), torch.cat([matched, junk]), objects)
    print(f"1000 wrong boxes {name:14s} AP {value:.4f}")

# %% [markdown]
# **Why is 0.5 the threshold, and what does 0.5 look like?** Everingham et al. set it low on purpose, to allow for inexact annotation. It
# is looser than it sounds when the box is too large, and stricter than it sounds when it is shifted:

# %%
# NBVAL_CHECK_OUTPUT
square = torch.tensor([[0.0, 0.0, 100.0, 100.0]])
examples = {"shifted right by 33 px": [33.0, 0, 133, 100], "shifted diagonally by 18 px": [18.0, 18, 118, 118],
            "41 % wider and higher": [0.0, 0, 141, 141], "same centre, 71 % of the size": [14.6, 14.6, 85.4, 85.4]}
for name, other in examples.items():
    print(f"{name:32s} IoU {box_iou(square, torch.tensor([other])).item():.2f}")

# %% [markdown]
# **Is 1 − IoU a distance?** Yes: it obeys the triangle inequality (it is the Jaccard distance of the two pixel sets). 100,000 random triples find no exception:

# %%
# NBVAL_CHECK_OUTPUT
corner = torch.rand(3, 100_000, 1, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
triples = torch.cat([corner, corner + torch.rand(corner.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)], dim=-1)
ab, bc, ac = (1 - box_iou(triples[i], triples[j]).flatten() for i, j in ((0, 1), (1, 2), (0, 2)))
print("violations of d(a, c) <= d(a, b) + d(b, c):", int((ac > ab + bc + 1e-12).sum()))

# %% [markdown]
# ## 8 Find the mistake
#
# Each function below contains one mistake that has been made in real code or lecture notes. Run the check, read what it
# says, repair the function and run it again until it says ✓.

# %%
def iou_mistake_1(boxes1, boxes2):
    top_left = torch.max(boxes1[:, None, :2], boxes2[None, :, :2])
    bottom_right = torch.min(boxes1[:, None, 2:], boxes2[None, :, 2:])
    width, height = (bottom_right - top_left).unbind(-1)
    area1 = (boxes1[:, 2:] - boxes1[:, :2]).prod(1)
    area2 = (boxes2[:, 2:] - boxes2[:, :2]).prod(1)
    return width * height / (area1[:, None] + area2 - width * height)


# %%
# NBVAL_CHECK_OUTPUT
from utils.grading import check

touching = torch.tensor([[0.0, 0, 10, 10], [5, 5, 15, 15]])
far_away = torch.tensor([[20.0, 30, 40, 50]])
check(iou_mistake_1, box_iou, [(touching, touching), (touching, far_away)])

# %% [markdown]
# *From a lecture: "VOC code computes the width as x2 − x1 + 1, so we do, too."* The boxes here are not inclusive pixel indices:

# %%
# NBVAL_CHECK_OUTPUT
def area_mistake_2(boxes):
    return (boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)


from lessons.boxes import box_area

check(area_mistake_2, box_area, [(touching,), (far_away,)])

# %% [markdown]
# *"NMS on all boxes of the image"*: what is forgotten?

# %%
# NBVAL_CHECK_OUTPUT
def detect_mistake_3(boxes, scores, labels, iou_threshold):
    return nms(boxes, scores, iou_threshold)


check(detect_mistake_3, batched_nms, [(three, three_scores, torch.tensor([1, 1, 1]), 0.3), (three, three_scores, classes, 0.3)])

# %% [markdown]
# *"A detection is correct if it overlaps an object by 0.5."* Which half of the rule is missing?

# %%
# NBVAL_CHECK_OUTPUT
def hits_mistake_4(boxes, scores, objects):
    return box_iou(boxes, objects).max(dim=1).values >= 0.5


def hits_reference(boxes, scores, objects):
    return match_detections(boxes, scores, objects, iou_threshold=0.5)[0]


check(hits_mistake_4, hits_reference, [(found[[0, 2]], torch.tensor([0.9, 0.7]), truth_boxes), (found, torch.tensor([0.9, 0.8, 0.7]), truth_boxes)])

# %% [markdown]
# *"mAP: compute AP in every image and take the mean."* The detections of **all images** belong in one list. How far off is the shortcut? Here two images,
# one with a confident mistake:

# %%
# NBVAL_CHECK_OUTPUT
image_1 = (torch.tensor([0.9, 0.85, 0.8, 0.7, 0.6]), torch.ones(5, dtype=torch.bool), 5)
image_2 = (torch.tensor([0.95, 0.2]), torch.tensor([False, True]), 1)
per_image = sum(average_precision(*one, protocol="voc").item() for one in (image_1, image_2)) / 2
pooled = average_precision(torch.cat([image_1[0], image_2[0]]), torch.cat([image_1[1], image_2[1]]), 6, protocol="voc").item()
print(f"mean of two images {per_image:.3f}, pooled {pooled:.3f}")

# %% [markdown]
# ## 9 Exercises
#
# Fill in the dots. The check tells you the first case that fails. (An untouched cell says "nothing yet".)
#
# **1.** The share of box A that box B covers: intersection over the area of A. (Crowd regions in COCO are judged this way.)

# %%
def covered_share(boxes1, boxes2):
    """(N, 4) and (M, 4) xyxy -> (N, M): intersection divided by the area of the first box."""
    ...


covered_reference = lambda a, b: box_iou(a, b) * (box_area(a)[:, None] + box_area(b)) / (1 + box_iou(a, b)) / box_area(a)[:, None]
check(covered_share, covered_reference, [(touching, touching), (touching, far_away)])

# %% [markdown]
# **2.** Precision at a given recall: the best precision at this recall *or higher*, 0 if it is never reached.

# %%
def precision_at(scores, matched, num_ground_truth, wanted):
    ...


precision_reference = lambda s, m, n, r: read_off(r)
check(precision_at, precision_reference, [(ten_scores, matched, objects, r) for r in (0.0, 0.4, 0.5, 0.8, 0.9)])

# %% [markdown]
# **3.** *Think first.* In section 3.5 use neighbours half a width apart. At which threshold do they survive? Compute the IoU on paper, then change the cell.
#
# **4.** Two boxes have IoU 0.5 and GIoU 0.5. What do you know about them?
#
# **5.** Replace `nms` by `soft_nms` in the R-CNN's last step (`detector.candidates` gives you boxes and class scores) and compare AP and AR100.
#
# ## 10 Summary, limits and what came next
#
# - Boxes have formats; a wrong one raises no error. This collection uses `xyxy` pixels, width = x2 − x1.
# - IoU judges, but cannot teach disjoint boxes; GIoU, DIoU and CIoU can.
# - NMS is greedy, per class, and loses neighbours that overlap more than its threshold: a limit of the rule.
# - AP ranks all detections of all images, lets each object be found once, and comes in protocols that must not be mixed.
#
# **Limits.** AP hides *why* a detector fails (place? class? duplicates?), and one number hides the sizes: always look at the twelve.
#
# **Next:** notebook 02 builds the R-CNN that delivered the candidates of this lesson.
#
# *Photographs: see `data/CREDITS.csv`. Papers: M. Everingham et al. 2010; T.-Y. Lin et al. 2014; N. Bodla et al. 2017; H. Rezatofighi et al. 2019; Z. Zheng et al. 2020.*

# %% tags=["nbval-ignore-output"]
context.budget()
