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
# # 12 · The race: what each idea bought
#
# Every lesson has left a detector behind, from R-CNN to the present one. Here they all run over the same validation scenes, are judged by the same program and timed on the same machine. The question is not *who is best*
# (the trainings were not alike, see the start line), but **what did each idea buy, and what did it cost**: in precision, on small objects, on objects never seen, in mistakes, in multiply-adds and in time.
#
# And a second question, which is worth more than any table: **when is a difference between two numbers a difference between two detectors?**
#
# *Everything runs offline on a laptop; the whole notebook takes about 60 seconds. Run the cells from top to bottom.*

# %%
import torch

from utils.setup import setup

context = setup("12", seed=0)

# %% [markdown]
# ## 0 First result
#
# All shipped detectors, in the order of their papers, on one scene of known objects. **Before you look:** which mistakes do you expect of which detector? (Expected time: 5 s, most of it Selective Search.)

# %%
from experiments.race_table import ENTRANTS
from experiments.record import load_result
from lessons import zoo
from lessons.data.scenes import CLASSES, Scenes

record = load_result("race")
rows = record["detectors"]
assert list(rows) == zoo.shipped_detectors(), "python -m experiments race brings the record up to date"
detectors = {name: zoo.load(name, "lesson") for name in rows}
known, unknown = Scenes("val", 200), Scenes("val_unknown", 200)
print(", ".join(ENTRANTS[name].title for name in rows))

# %%
from utils.figures import draw_boxes, images_figure, show


def everybody_detects(scene, target, split):
    figure, axes = images_figure([scene] * (len(detectors) + 1), ["true boxes", *[ENTRANTS[name].title for name in detectors]], width=2.9)
    draw_boxes(axes[0], target["boxes"], target["labels"], classes=CLASSES)
    with torch.no_grad():
        for ax, (name, detector) in zip(axes[1:], detectors.items()):
            found = detector([scene])[0]
            sure = found["scores"] >= rows[name][split]["threshold"]
            draw_boxes(ax, found["boxes"][sure], found["labels"][sure], found["scores"][sure], CLASSES)
    return figure


scene, target = known[4]
show(everybody_detects(scene, target, "val"), alt="One scene with its true boxes, and what each detector finds in it, side by side in the order of their papers.")

# %% [markdown]
# Scores are not comparable: R-CNN's are margins of an SVM, Faster R-CNN's are probabilities, FCOS multiplies two. So each detector shows as many boxes, over all scenes together, as there are objects: its best-scored ones (section 3.4).
#
# The same with objects **that none of them has ever seen**: other birds, other fruit, other vehicles.

# %%
scene, target = unknown[6]
show(everybody_detects(scene, target, "val_unknown"), alt="One scene of objects that no detector was trained on, with its true boxes and what each detector finds; several objects are missed or named wrongly.")

# %% [markdown]
# ## 1 The papers
#
# One paper for each lesson; each idea is an answer to what its predecessor left open:

# %%
# NBVAL_CHECK_OUTPUT
for name in rows:
    entrant = ENTRANTS[name]
    before = f"against {ENTRANTS[entrant.before].title}" if entrant.before else "the first"
    print(f"{entrant.year}  {entrant.title:15s} {entrant.idea}  ({before})")

# %% [markdown]
# **Background.** Each paper compares itself with its predecessors, but on other data, with other backbones, other trainings, other machines; a table that puts the papers' numbers side by side compares ten things at once.
# **Problem.** What does the *idea* give, if as much as possible of the rest is held still? **What this notebook can and cannot say** is section 3.1.

# %% [markdown]
# ## 2 The method in one picture
#
# ```mermaid
# %%{init: {"theme": "neutral"}}%%
# flowchart LR
#     accTitle: Whose heir each detector is
#     accDescr: R-CNN leads to SPPnet, Fast R-CNN and Faster R-CNN, then to FPN. From FPN come Mask and Keypoint R-CNN, RetinaNet, and, as the rival in its paper, DETR. RetinaNet leads to FCOS and on to CenterNet.
#     A["R-CNN<br/>2014"] -->|"share the map"| B["SPPnet<br/>2014"]
#     B -->|"learn all at once"| C["Fast R-CNN<br/>2015"]
#     C -->|"learn to propose"| D["Faster R-CNN<br/>2015"]
#     D -->|"a map for every size"| E["FPN<br/>2017"]
#     E -->|"one more head"| F["Mask R-CNN, Keypoint R-CNN<br/>2017"]
#     E -->|"one stage"| G["RetinaNet<br/>2017"]
#     G -->|"no anchors"| H["FCOS<br/>2019"]
#     H -->|"corners and centres"| I["CenterNet<br/>2019"]
#     E -->|"a set, no NMS"| J["DETR<br/>2020"]
# ```

# %% [markdown]
# ## 3 Building the measurement, step by step
#
# ### 3.1 The start line: what is the same, and what is not
#
# **The same for all:** the photographs and the training split; the scenes to validate on; pictures of 160 × 160 pixels; the program that evaluates. For all but R-CNN also the small ResNet that was pre-trained on crops of single objects.
#
# **Not the same:** how many of its stages are used, the layers behind it, and above all *how long each was trained*. (A CPU had to do it all; each lesson's recipe was tuned until its own point could be seen.) One training each, with one seed.

# %%
# NBVAL_CHECK_OUTPUT
print(f"{'':15s}  pictures shown   numbers stored   multiply-adds")
for name, row in rows.items():
    print(f"{ENTRANTS[name].title:15s}  {row['training']['pictures']:14,d}   {row['parameters']:14,d}   {row['multiply_adds'] / 1e6:8,.0f} million")
most, least = (choose(row["training"]["pictures"] for row in rows.values()) for choose in (max, min))
print(f"the longest training saw {most / least:.0f} times as many pictures as the shortest")

# %% [markdown]
# (Mask and Keypoint R-CNN went on from FPN's weights: its pictures are counted in theirs.) So **this is not the papers' comparison**. A detector that lies behind here may only have been trained for less time, and some ideas need much time: DETR's above all. What can be compared
# well: multiply-adds, time, kinds of mistakes, and differences between neighbours whose trainings were alike.
#
# ### 3.2 One evaluation for all, checked by another program
#
# *Question.* Would another program come to the same AP? Two detectors, live, on 40 scenes: ours (`CocoMetrics`, notebook 01) against the official `pycocotools`. First the detections, in its format:

# %%
from experiments.race import coco_numbers, detect, load_samples

samples = load_samples("val", 40)
live = {name: detect(detectors[name], samples) for name in ("faster_rcnn", "fpn")}


def as_coco_rows(detections, targets):
    rows = []
    for found, target in zip(detections, targets):
        for (x1, y1, x2, y2), label, score in zip(*(found[key].tolist() for key in ("boxes", "labels", "scores"))):
            rows.append({"image_id": ids[target["image_id"]], "category_id": label, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score})
    return rows


# %%
import contextlib
import io

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

official, measured = COCO(), {}
with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its timings
    official.dataset = Scenes("val", 40).coco()
    official.createIndex()
    ids = official.getImgIds()
    for name, (detections, targets) in live.items():
        judge = COCOeval(official, official.loadRes(as_coco_rows(detections, targets)), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
        measured[name] = judge.stats
for name, (detections, targets) in live.items():
    ours = coco_numbers(detections, targets, range(40))
    torch.testing.assert_close(torch.tensor(list(ours.values()), dtype=torch.float64), torch.tensor(measured[name]), atol=1e-6, rtol=0)
    print(f"{ENTRANTS[name].title:13s} AP {ours['AP']:.3f} on these 40 scenes by both programs; on all 200 (record) {rows[name]['val']['AP']:.3f}")

# %% [markdown]
# ### 3.3 How sure is a difference?
#
# The 40 scenes gave other numbers than the 200. Other scenes would give yet others. *How far apart must two detectors be before we believe the order?*
#
# AP is no mean over scenes, so there is no formula for its error. The **jackknife** needs none: leave out a tenth of the scenes, compute AP, put them back, leave out the next tenth … If the ten values hardly differ, the scenes do not matter much:
# $$\text{error} = \sqrt{\frac{G-1}{G} \sum_g (\text{AP}_{\text{without } g} - \text{mean})^2}$$
# Why the factor in front? Take a case where the answer is known: the error of a *mean* is its standard deviation over √n. By hand, one value left out at a time:

# %%
# NBVAL_CHECK_OUTPUT
import statistics

from experiments.race_table import jackknife_error

values = [0.3, 0.9, 0.4, 0.2, 0.7]
without = [statistics.fmean(values[:i] + values[i + 1 :]) for i in range(5)]
by_hand = statistics.stdev(values) / 5**0.5
assert abs(jackknife_error(without) - by_hand) < 1e-12
print(f"means without one value {[round(one, 3) for one in without]}: error {jackknife_error(without):.4f}, by the formula {by_hand:.4f}")

# %% tags=["nbval-ignore-output"]
from experiments.race_table import difference
from utils.source import show_source

show_source(jackknife_error, difference)

# %% [markdown]
# `difference` is the second trick: all detectors saw **the same scenes**, and a hard scene is hard for all. So not the errors of two APs are combined, but the error of their *difference* is taken. **Predict:** is it smaller or larger than either?

# %%
# NBVAL_CHECK_OUTPUT
pair = ("faster_rcnn", "fpn")
own = [jackknife_error(rows[name]["val"]["left_out"]["AP"]) for name in pair]
gap, error = difference(record, "fpn", "faster_rcnn")
for name, one in zip(pair, own):
    print(f"{ENTRANTS[name].title:13s} AP {rows[name]['val']['AP']:.3f} ± {2 * one:.3f}")
print(f"difference {gap:+.3f} ± {2 * error:.3f}; as if they had seen different scenes ± {2 * (own[0]**2 + own[1]**2) ** 0.5:.3f}")

# %% [markdown]
# (± is two standard errors, here and below.) What this error does *not* hold: another training with another seed, and other *objects*: the 200 scenes are arrangements of a few dozen photographs. Take it as the least doubt there is.
#
# ### 3.4 How many boxes may each show?
#
# AP looks at all thresholds. To count *mistakes*, one must be chosen, and "0.5" means something else to every detector. So: over all scenes together, everyone shows as many boxes as there are objects, its best. Then each wrong box is a place that an object does not get, and **precision equals recall**. By hand:

# %%
# NBVAL_CHECK_OUTPUT
from experiments.race import as_many_as_objects
from lessons.error_breakdown import error_breakdown

detections, targets = live["fpn"]
objects = sum(len(target["labels"]) for target in targets)
best, threshold = as_many_as_objects(detections, targets)
shown = sum(len(one["scores"]) for one in best)
lowest = sorted((score for one in detections for score in one["scores"].tolist()), reverse=True)[objects - 1]
assert shown == objects
assert abs(threshold - lowest) < 1e-4
counts = error_breakdown(best, targets)
assert sum(counts.values()) - counts["missed"] == objects
print(f"{objects} objects, {shown} boxes; precision = recall = {counts['correct']} / {objects}")

# %% [markdown]
# ### 3.5 What does a picture cost?
#
# **Multiply-adds** are counted, not measured: exactly the same on every machine. **Seconds** need care: one thread; one picture at a time; one picture to warm up; the median of several; the rivals in turn on each picture, so that a busy machine disturbs both alike; and *everything* counts that leads from the picture to the boxes: the search for proposals, too.

# %% tags=["nbval-ignore-output"]
from experiments.race import times

show_source(times)

# %% [markdown]
# Live, on three scenes: Fast R-CNN against Faster R-CNN. (Expected time: 2 s.)

# %% tags=["nbval-ignore-output"]
threads = torch.get_num_threads()
torch.set_num_threads(1)
clock = times(zoo.load("fast_rcnn", "lesson"), detectors["faster_rcnn"], [image for image, _ in samples[:3]])
torch.set_num_threads(threads)
print(f"Fast R-CNN: {1000 * clock['seconds']:.0f} ms of processor, {1000 * clock['proposal_seconds']:.0f} of them Selective Search; {clock['ratio']:.1f} times Faster R-CNN's")
print(f"in the record, on another machine or another day: {rows['fast_rcnn']['ratio']:.1f} times")

# %% [markdown]
# ## 4 Training
#
# Nothing is trained here. What the checkpoints cost to train, from their cards, beside what they reach:

# %%
# NBVAL_CHECK_OUTPUT
for name, row in sorted(rows.items(), key=lambda item: item[1]["training"]["pictures"]):
    print(f"{ENTRANTS[name].title:15s} {row['training']['pictures']:8,d} pictures, {row['training']['seconds'] / 60:4.0f} minutes   AP {row['val']['AP']:.3f}")

# %% [markdown]
# (Minutes on two cores that had other work as well: take them as rough.) Before you explain a result by an idea, look here whether it may be the training.
#
# ## 5 Results
#
# **The papers' own numbers**, each from its own world, only to remember how the field moved: mAP on VOC 2007 test with VGG-16, trained on VOC 2007 (as in the table of Fast R-CNN's and Faster R-CNN's papers): R-CNN 66.0, SPPnet 63.1, Fast R-CNN 66.9, Faster R-CNN 69.9. AP on COCO: FPN 36.2,
# RetinaNet 39.1 (test-dev, ResNet-101, longer training), CenterNet 47.0 (several scales at test, Hourglass-104), DETR 42.0 (val, ResNet-50, 500 epochs).
#
# **Our measurements** have nothing to do with these. 200 scenes of known and 200 of unknown objects, by `python -m experiments race`:

# %%
# NBVAL_CHECK_OUTPUT
keys = ("AP", "AP50", "AP75", "AP_small", "AP_medium")
print(f"{'known objects':15s}" + "".join(f"{key.removeprefix('AP_'):>8s}" for key in keys) + "    unknown: AP  AP50    time  M mult-adds")
for name, row in rows.items():
    numbers = "".join(f"{row['val'][key]:8.3f}" for key in keys)
    print(f"{ENTRANTS[name].title:15s}{numbers}       {row['val_unknown']['AP']:.3f} {row['val_unknown']['AP50']:.3f} {row['ratio']:7.2f} {row['multiply_adds'] / 1e6:8.0f}")

# %% [markdown]
# (Time: Faster R-CNN is 1; no object of our scenes is *large* by COCO's measure, 96² pixels.)
#
# **Walk through it.** Choose what stands across and what up; hover over a point, or press the arrow keys, and read what its idea bought against its predecessor. Bold changes are larger than what the choice of scenes can explain. **Look for:** an idea that bought time and no precision; one that bought precision and paid in time; one that bought both.

# %% tags=["widget", "nbval-ignore-output"]
from experiments.race_table import runners
from utils.widgets import RaceExplorer
from utils.widgets.race import AXES

racing = RaceExplorer(runners(record, list(AXES)))
racing

# %% tags=["static"]
show(racing.static(), alt="All detectors as points: AP on known objects against time on a logarithmic scale, with arrows from each to its heirs, and a dashed line through those that nobody beats on both.")

# %% [markdown]
# **What each idea bought,** paper by paper. ± two standard errors; `?` marks a change that the choice of scenes may explain:

# %%
# NBVAL_CHECK_OUTPUT
from experiments.race_table import is_sure, ran_before

for name, row in rows.items():
    before = ran_before(record, name)
    if before:
        gains = {key: difference(record, name, before, key) for key in ("AP", "AP75", "AP_small", "unknown AP")}
        words = "  ".join(f"{key} {gain:+.3f} ± {2 * error:.3f}{' ' if is_sure((gain, error)) else '?'}" for key, (gain, error) in gains.items())
        factors = f"time × {row['ratio'] / rows[before]['ratio']:.2f}, multiply-adds × {row['multiply_adds'] / rows[before]['multiply_adds']:.2f}"
        print(f"{ENTRANTS[name].title}, against {ENTRANTS[before].title}: {ENTRANTS[name].idea}\n   {words}\n   {factors}")

# %% [markdown]
# Keypoint R-CNN leads. But it went on from FPN's weights for 19,200 pictures, at twice the rate of Mask R-CNN, which went on for 4,800. Whether its lead is due to the keypoints or to the longer training, these rows cannot tell; an FPN that trains on for as long would (exercise 5).
#
# **What kinds of mistakes?** Everyone shows as many boxes as there are objects; each box is right, or wrong in one way (`lessons.error_breakdown`, notebook 01). **Predict:** who has the most duplicates, who the fewest?

# %%
from utils.figures import PALETTE, finish_axes, new_figure

KINDS_RACE = {"correct": "right", "localisation": "badly placed", "class": "wrong class", "both": "both", "duplicate": "duplicate", "background": "background"}


def error_bars_race(ax, split, title):
    left = [0.0] * len(rows)
    for i, (kind, words) in enumerate(KINDS_RACE.items()):
        shares = [row[split]["errors"][kind] / row[split]["objects"] for row in rows.values()]
        ax.barh(range(len(rows)), shares, left=left, color=PALETTE[i], edgecolor="white", hatch=("", "//", "..", "xx", "\\\\", "--")[i], label=words)
        left = [a + b for a, b in zip(left, shares)]
    ax.set_yticks(range(len(rows)), [ENTRANTS[name].title for name in rows])
    ax.invert_yaxis()
    finish_axes(ax, "share of the boxes shown", "", title, legend=False)


figure, axes = new_figure(columns=2, width=6.2, height=0.36 * len(rows) + 1.8)
for ax, split, title in zip(axes[0], ("val", "val_unknown"), ("known objects", "unknown objects")):
    error_bars_race(ax, split, title)
figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False)
show(figure, alt="Stacked bars for each detector: the shares of its boxes that are right, badly placed, of the wrong class, both, duplicates, or on the background; on the left for known objects, on the right for unknown ones, where the share of right boxes is much smaller.")

# %%
# NBVAL_CHECK_OUTPUT
print(f"{'':15s}" + "".join(f"{words:>14s}" for words in KINDS_RACE.values()) + "        missed")
for name, row in rows.items():
    numbers, objects = row["val"]["errors"], row["val"]["objects"]
    print(f"{ENTRANTS[name].title:15s}" + "".join(f"{numbers[kind] / objects:14.1%}" for kind in (*KINDS_RACE, "missed")))

# %% [markdown]
# DETR keeps its word: nothing removes its duplicates, and it has no more of them than detectors that suppress theirs. But it took eight to 44 times the pictures of the others, and a change in its matching (notebook 11): a set is an aim of *training*; NMS works from the first minute. What it lacks now is finding, a fifth of the objects, and placing: one box in six is badly placed, in the right class or not.
#
# **By size, and known against unknown:**

# %%
figure, axes = new_figure(columns=2, width=5.6, height=4.4)
for ax, pair, labels in ((axes[0, 0], ("AP_small", "AP_medium"), ("small objects", "medium objects")), (axes[0, 1], ("AP", "unknown AP"), ("known objects", "unknown objects"))):
    for row, one in enumerate(rows.values()):
        first, second = (one["val_unknown"]["AP"] if key.startswith("unknown") else one["val"][key] for key in pair)
        ax.plot([first, second], [row, row], color="#999999", zorder=1)
        ax.plot(first, row, "o", color=PALETTE[0], markersize=9, label=labels[0] if row == 0 else None)
        ax.plot(second, row, "s", color=PALETTE[1], markersize=9, label=labels[1] if row == 0 else None)
    ax.set_yticks(range(len(rows)), [ENTRANTS[name].title for name in rows])
    ax.invert_yaxis()
    finish_axes(ax, "AP", "", f"{labels[0]} and {labels[1]}", legend=False)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False, fontsize=11)  # beside no marker
show(figure, alt="Two dot plots with a line for each detector: AP of small and medium objects, and AP on known and on unknown objects, where all detectors lose most of their AP.")

# %% [markdown]
# ## 6 A claim of the papers, reproduced in shape
#
# **Claims.** (a) SPPnet and Fast R-CNN: convolving the picture once instead of every proposal saves most of the work. (b) Faster R-CNN: with proposals from the network itself, what was left of the time goes. (c) FPN: a pyramid is more precise than one map. The first is a count, exact; the second a ratio
# of times; the third is one training each, but the same 200 scenes: the jackknife says what it is worth. (For three seeds of each of these ideas *alone*, all else held still, see section 6 of notebooks 03 to 06.) **Predict** each factor before you run the cell.

# %%
# NBVAL_CHECK_OUTPUT
shared = rows["rcnn"]["multiply_adds"] / rows["sppnet"]["multiply_adds"]
learnt = rows["fast_rcnn"]["ratio"] / rows["faster_rcnn"]["ratio"]
searching = rows["fast_rcnn"]["proposal_seconds"] / rows["fast_rcnn"]["seconds"]
gain = difference(record, "fpn", "faster_rcnn")
print(f"(a) R-CNN does {shared:.1f} times the multiply-adds of SPPnet")
print(f"(b) Fast R-CNN takes {learnt:.1f} times as long as Faster R-CNN; {searching:.0%} of its time is Selective Search")
print(f"(c) the pyramid: AP {gain[0]:+.3f} ± {2 * gain[1]:.3f}: {'more than' if is_sure(gain) else 'no more than'} the choice of scenes explains")
assert shared > 4
assert learnt > 3
assert searching > 0.5
assert gain[0] > 0

# %% [markdown]
# ## 7 Questions answered
#
# **Is the newest the best?** Count the pairs of detectors where the younger paper has the higher AP here, and how many of these pairs are sure:

# %%
# NBVAL_CHECK_OUTPUT
from itertools import combinations

pairs = [(a, b) for a, b in combinations(rows, 2) if ENTRANTS[a].year < ENTRANTS[b].year]
changes = {pair: difference(record, pair[1], pair[0]) for pair in pairs}
ahead = [pair for pair in pairs if changes[pair][0] > 0]
sure = {pair for pair in pairs if is_sure(changes[pair])}
print(f"{len(ahead)} of {len(pairs)} pairs: the younger is ahead ({len(sure & set(ahead))} of them surely); {len(sure - set(ahead))} pairs: surely the older")

# %% [markdown]
# On COCO the papers' order is their years' order, nearly; here it is not. The lengths of the trainings are one reason (section 4). The data are another: up to five objects, never large, seldom overlapping. What a pyramid, focal loss or attention is *for* (a hundredfold range of sizes, hundreds of thousands of anchors, crowds)
# hardly occurs.
#
# **Does the order depend on the number one looks at?** Ranks by AP50 (found at all), AP75 (found precisely), small objects, unknown objects:

# %%
# NBVAL_CHECK_OUTPUT
from experiments.race_table import number

ranks = {}
for key in ("AP", "AP50", "AP75", "AP_small", "unknown AP"):
    order = sorted(rows, key=lambda name: -number(rows[name], key))
    ranks[key] = {name: order.index(name) + 1 for name in rows}
print(f"{'rank by':15s}" + "".join(f"{key:>12s}" for key in ranks))
for name in rows:
    print(f"{ENTRANTS[name].title:15s}" + "".join(f"{ranks[key][name]:12d}" for key in ranks))

# %% [markdown]
# A detector has no quality that is one number. Say which number, and why that one matters for what you want to do.
#
# **How much is lost on unknown objects, and is anyone spared?**

# %%
# NBVAL_CHECK_OUTPUT
kept = {name: row["val_unknown"]["AP"] / row["val"]["AP"] for name, row in rows.items()}
for name, share in sorted(kept.items(), key=lambda item: -item[1]):
    print(f"{ENTRANTS[name].title:15s} keeps {share:.0%} of its AP")
assert max(kept.values()) < 0.6

# %% [markdown]
# Nobody is. With 7 to 26 photographs of a class to learn from, every detector learns partly *these* birds instead of birds. No idea of this collection cures that: more data does. The race for AP on known objects hides it, and so do benchmarks whose test pictures are like the training pictures.
#
# **Who is unbeaten at its price?** Those that nobody beats on a cost and AP at once, the cheapest first:

# %%
# NBVAL_CHECK_OUTPUT
for cost in ("ratio", "multiply_adds", "parameters"):
    best = RaceExplorer(runners(record, list(AXES)), x=cost, y="AP").best
    print(f"{AXES[cost].label:26s}", ", ".join(ENTRANTS[name].title for name in best))

# %% [markdown]
# **Why do multiply-adds and time tell different stories?** Time for a thousand million multiply-adds, without the search for proposals (each detector's ratio to Faster R-CNN, in the latter's seconds, as the rows were not all measured on one day):

# %%
# NBVAL_CHECK_OUTPUT
for name, row in rows.items():
    network = row["ratio"] * rows["faster_rcnn"]["seconds"] * (1 - row["proposal_seconds"] / row["seconds"])
    print(f"{ENTRANTS[name].title:15s} {1e9 * network / row['multiply_adds'] * 1000:5.0f} ms for 1000 million multiply-adds")

# %% [markdown]
# Large regular products are quick; pooling thousands of small windows, sorting, NMS and masks pasted into pictures are not counted, but take time. Count *and* measure.
#
# ## 8 Find the mistake
#
# The first two stood in real lecture notes, the others are what goes wrong in comparisons. Run, read the verdict, repair, run again.
#
# *"A detection with an IoU of at least 0.5 with an object is a true positive."* What is forgotten? (ious: of the detections of one class in one picture with its objects, best score first)

# %%
# NBVAL_CHECK_OUTPUT
from utils.grading import check


def right_mistake_1(ious):
    return [max(row) >= 0.5 for row in ious]


def right_solved_1(ious):
    taken, right = set(), []
    for row in ious:
        best = max(range(len(row)), key=lambda i: row[i])
        right.append(row[best] >= 0.5 and best not in taken)
        taken |= {best} if right[-1] else set()
    return right


check(right_mistake_1, right_solved_1, [([[0.8, 0.1], [0.2, 0.6]],), ([[0.8, 0.1], [0.7, 0.3], [0.0, 0.9]],)])

# %% [markdown]
# *"AP is computed for every picture and averaged."* (scores, hits and number of objects of each picture; one class. Right is: pool all pictures, then one curve.)

# %%
# NBVAL_CHECK_OUTPUT
from lessons.metrics import average_precision


def ap_mistake_2(pictures):
    return sum(average_precision(*picture) for picture in pictures) / len(pictures)


def pooled_2(pictures):
    scores, hits, objects = zip(*pictures)
    return average_precision(torch.cat(scores), torch.cat(hits), sum(objects))


easy = torch.tensor([0.9]), torch.tensor([True]), 1
hard = torch.tensor([0.8, 0.7, 0.6]), torch.tensor([False, True, False]), 3
check(ap_mistake_2, pooled_2, [([easy, easy],), ([easy, hard],)])

# %% [markdown]
# *"The network takes 60 ms a picture: we called it ten times and took the mean."* (seconds of each call; the first one loads, allocates and chooses kernels)

# %%
# NBVAL_CHECK_OUTPUT
def time_mistake_3(seconds):
    return sum(seconds) / len(seconds)


check(time_mistake_3, lambda seconds: statistics.median(seconds[1:]), [([0.05, 0.05, 0.05],), ([0.9, 0.05, 0.05, 0.06, 0.05],)])

# %% [markdown]
# *"Fast R-CNN is 146 times as fast as R-CNN"*, say its paper's tables, of the network alone. How many times is it, as a *system* that searches proposals first? (seconds of network and search of each)

# %%
# NBVAL_CHECK_OUTPUT
def faster_mistake_4(old_network, new_network, search):
    return old_network / new_network


check(faster_mistake_4, lambda old, new, search: (old + search) / (new + search), [(47.0, 0.32, 0.0), (47.0, 0.32, 2.0)])

# %% [markdown]
# *"Both APs are uncertain by 0.02, so the difference is uncertain by 0.028."* Both detectors saw the same scenes. (AP of two detectors with each group of scenes left out)

# %%
# NBVAL_CHECK_OUTPUT
def doubt_mistake_5(first, second):
    return (jackknife_error(first) ** 2 + jackknife_error(second) ** 2) ** 0.5


check(doubt_mistake_5, lambda a, b: jackknife_error([x - y for x, y in zip(a, b)]), [([0.5, 0.5, 0.5], [0.4, 0.42, 0.41]), ([0.5, 0.54, 0.52], [0.4, 0.44, 0.42])])

# %% [markdown]
# *"With a threshold of 0.5 for everyone, R-CNN finds far fewer objects."* Its scores are margins, others are products of two probabilities. (Nothing to run: section 3.4 is the repair.)
#
# ## 9 Exercises
#
# **1.** Who is unbeaten? Given (cost, gain) of each runner, return a list that says of each whether no other is at least as good in both and better in one.

# %%
def nobody_beats(pairs):
    ...


def nobody_beats_solved(pairs):
    return [not any((c <= cost and g > gain) or (c < cost and g >= gain) for c, g in pairs) for cost, gain in pairs]


check(nobody_beats, nobody_beats_solved, [([(1, 0.5), (2, 0.6), (3, 0.55)],), ([(1, 0.5), (1, 0.5), (2, 0.4)],)])

# %% [markdown]
# **2.** Fast R-CNN's network gets k times as fast, its search for proposals stays. How many times as fast is the whole? (Amdahl. Then put in the record's numbers and let k grow: that is why Faster R-CNN had to be invented.)

# %%
def whole_speed_up(network, search, k):
    ...


check(whole_speed_up, lambda network, search, k: (network + search) / (network / k + search), [(0.08, 0.25, 1), (0.08, 0.25, 10), (0.08, 0.25, 1e9)])

# %% [markdown]
# **3.** In the widget, put *unknown AP* up and *AP* across. Does who is better on known objects tell who is better on unknown ones?
#
# **4.** Give two detectors the same score threshold 0.5 in place of section 3.4's, and count mistakes again (`error_breakdown`). Which conclusions change?
#
# **5.** Train one of the detectors twice as long (`lessons.training`), put its checkpoint in the place of the shipped one, and run `python -m experiments race`: only its row is measured again. Is what you gained more than the choice of scenes explains?
#
# ## 10 Summary, limits and what came next
#
# - Every idea bought something definite, and most of it can be *counted*: shared convolutions, learnt proposals, one stage, no suppression. What it bought in AP is smaller than it looks, and sometimes no more than doubt.
# - A comparison needs **one evaluation, one machine, all costs, and an error of the difference**. Without the last, an order is a guess.
# - Kinds of mistakes tell more than a second decimal of AP: a badly placed box, a duplicate and an invented object call for different cures.
# - On objects never seen, all detectors lose most of what they have. That race is open.
#
# **Limits, and what we did not measure:** one training of each, of very different lengths, with one seed; one size of picture; one thread of a CPU, batches of one picture (a GPU likes large regular work and punishes Selective Search and small windows even more); memory; energy; crowds, large objects, real photographs; masks and keypoints, for
# which only one detector each has an answer (notebook 07). The error is that of the scenes, not of the training.
#
# **What came next:** detectors that take DETR's set and mend its slowness (deformable attention, denoising), pre-training on millions of pictures and words, and models that are told in words what to look for. All of them use what you have built: boxes, matching, pyramids, attention.
#
# *Papers: see section 1 and the notebooks 02 to 11. Photographs: `data/CREDITS.csv`.*

# %% tags=["nbval-ignore-output"]
context.budget()
