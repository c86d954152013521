"""Do the tests notice a mistake? Plants classic bugs in copies of the lessons, one at a time, and runs the tests.

`python -m benchmarks mutants [NAMES] [--list]`: for each mutant the first test that fails ("killed"), or SURVIVED.
The exit status is 1 if a mutant survives or cannot be tried, or if the tests fail without any.

Nothing is changed but temporary copies of `lessons` and `tests`. Each mutant names the text that it replaces, which has
to stand exactly once in its file: a change of the lessons cannot make the table lie.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
# pytest reads this in the copy, before any test: were another `lessons` found first, every mutant would survive
GUARD = """from pathlib import Path

import lessons

if Path(lessons.__file__).resolve().parents[1] != Path(__file__).resolve().parent:
    raise ImportError(f"the tests would import {lessons.__file__} instead of the copy's lessons")
"""


class Mutant(NamedTuple):
    """One planted bug: `old` becomes `new` in lessons/`file`, and one of `tests` should fail.

    tests: a file below tests/, or file::function where the whole file is slow or needs the pictures in data/.
    """

    name: str
    file: str
    tests: str
    mistake: str
    old: str
    new: str


MUTANTS = (
    # --- boxes -------------------------------------------------------------------------------------------------------
    Mutant("area_plus_one", "boxes.py", "test_boxes.py", "The width is x2 - x1 + 1, as if edges were pixels.",
           'return (c - a) * (d - b) if fmt == "xyxy"', 'return (c - a + 1) * (d - b + 1) if fmt == "xyxy"'),
    Mutant("convert_x_y_swapped", "boxes.py", "test_boxes.py", "x and y change places between xywh and xyxy.",
           "corners = a, b, a + c, b + d", "corners = b, a, b + d, a + c"),
    Mutant("centre_without_halves", "boxes.py", "test_boxes.py", "A box reaches its whole width to each side.",
           "corners = a - 0.5 * c, b - 0.5 * d, a + 0.5 * c, b + 0.5 * d", "corners = a - c, b - d, a + c, b + d"),
    Mutant("iou_union_is_sum", "boxes.py", "test_boxes.py", "The union is the sum of the areas, both shares counted.",
           "return intersection / (area1[..., :, None] + area2[..., None, :] - intersection)",
           "return intersection / (area1[..., :, None] + area2[..., None, :])"),
    Mutant("iou_of_points_is_one", "boxes.py", "test_boxes.py",
           "0 / 0 is set to 1: two points agree wherever they are.",
           "return intersection / (area1[..., :, None] + area2[..., None, :] - intersection)",
           "return (intersection / (area1[..., :, None] + area2[..., None, :] - intersection)).nan_to_num(1.0)"),
    Mutant("intersection_not_clamped", "boxes.py", "test_boxes.py", "Two negative sides make a positive intersection.",
           "(_upcast(torch.minimum(high1, high2) - torch.maximum(low1, low2)).clamp(min=0)",
           "(_upcast(torch.minimum(high1, high2) - torch.maximum(low1, low2))"),
    Mutant("giou_minus_intersection", "boxes.py", "test_boxes.py",
           "GIoU takes the intersection off the box around both.",
           "- (enclosing - union) / enclosing", "- (enclosing - intersection) / enclosing"),
    Mutant("ciou_alpha_with_gradient", "boxes.py", "test_boxes.py", "CIoU's weight alpha gets a gradient.",
           "with torch.no_grad():", "with torch.enable_grad():"),
    Mutant("clip_height_width_swapped", "boxes.py", "test_boxes.py", "The image's size is taken as (width, height).",
           "    height, width = size\n", "    width, height = size\n"),
    # --- coding and anchors ------------------------------------------------------------------------------------------
    Mutant("decode_weights_multiplied", "coding.py", "test_coding.py",
           "Encode and decode both multiply by the weights.",
           "(per_class / per_class.new_tensor(weights))", "(per_class * per_class.new_tensor(weights))"),
    Mutant("decode_without_clamp", "coding.py", "test_coding.py", "exp of an untrained output overflows.",
           "pw * dw.clamp(max=MAX_LOG_RATIO).exp(), ph * dh.clamp(max=MAX_LOG_RATIO).exp()",
           "pw * dw.exp(), ph * dh.exp()"),
    Mutant("encode_y_by_width", "coding.py", "test_coding.py", "Both shifts are measured in widths.",
           "wy * (gy - py) / ph", "wy * (gy - py) / pw"),
    Mutant("anchor_ratio_inverted", "anchors.py", "test_anchors.py", "The ratio is taken as width / height.",
           "    width = ((1 / root)[:, None] * size).flatten()\n    height = (root[:, None] * size).flatten()\n",
           "    width = (root[:, None] * size).flatten()\n    height = ((1 / root)[:, None] * size).flatten()\n"),
    Mutant("anchor_ratio_without_root", "anchors.py", "test_anchors.py",
           "Without the root, the ratio comes out squared.",
           "device=device).sqrt()", "device=device)"),
    Mutant("anchors_size_by_size", "anchors.py", "test_anchors.py", "In a cell ratios change fastest, then sizes.",
           "    width = ((1 / root)[:, None] * size).flatten()\n    height = (root[:, None] * size).flatten()\n",
           "    width = (1 / root * size[:, None]).flatten()\n    height = (root * size[:, None]).flatten()\n"),
    Mutant("anchors_grid_by_grid", "anchors.py", "test_anchors.py",
           "One anchor goes over the whole map, then the next.",
           "(shifts[:, :, None] + base)", "(shifts + base[:, None, None])"),
    Mutant("anchors_not_rounded", "anchors.py", "test_anchors.py", "Anchors keep their fractions of pixels.",
           "dim=1) / 2).round()", "dim=1) / 2)"),
    # --- nms and matching --------------------------------------------------------------------------------------------
    Mutant("nms_across_classes", "nms.py", "test_nms.py", "A cat deletes the dog beneath it.",
           "return above if len(a) == 5 else above & (a[5, :, None] == b[5])", "return above"),
    Mutant("nms_threshold_suppresses", "nms.py", "test_nms.py", "A box at the threshold goes: >= instead of >.",
           "intersection.div_(union) > threshold", "intersection.div_(union) >= threshold"),
    Mutant("nms_suppressed_suppress", "nms.py", "test_nms.py", "A box that is gone still deletes others.",
           "after = ((stays @ suppresses) == 0).float()", "after = (suppresses.sum(dim=0) == 0).float()"),
    Mutant("nms_worst_first", "nms.py", "test_nms.py", "Scores are sorted upwards, so the worst box wins.",
           "order = scores.argsort(descending=True, stable=True)\n    sorted_boxes",
           "order = scores.argsort(stable=True)\n    sorted_boxes"),
    Mutant("soft_nms_not_squared", "nms.py", "test_nms.py", "The gaussian decays with the overlap, not its square.",
           "torch.exp(-(overlap**2) / sigma)", "torch.exp(-overlap / sigma)"),
    Mutant("matcher_no_low_quality", "matching.py", "test_matching.py", "An object below the threshold gets no anchor.",
           "        matches = torch.where(is_best, nearest, matches)\n", ""),
    Mutant("matcher_one_low_quality", "matching.py", "test_matching.py",
           "Of best anchors that tie only one is matched.",
           "is_best = (iou == iou.amax(dim=1, keepdim=True)).any(dim=0)",
           "is_best = torch.zeros_like(best).index_fill(0, iou.argmax(dim=1), 1).bool()"),
    Mutant("matcher_marks_swapped", "matching.py", "test_matching.py", "-1 means ignored here and background there.",
           "BELOW, BETWEEN = -1, -2", "BELOW, BETWEEN = -2, -1"),
    Mutant("sampler_labels_shifted", "matching.py", "test_matching.py",
           "Class 0 is taken as an object, -1 as background.",
           "torch.where(labels >= 1)[0], torch.where(labels == 0)[0]",
           "torch.where(labels >= 0)[0], torch.where(labels == -1)[0]"),
    Mutant("sampler_ignores_fraction", "matching.py", "test_matching.py", "Objects may fill the whole batch.",
           "min(len(positive), int(batch_size * positive_fraction))", "min(len(positive), batch_size)"),
    Mutant("sampler_does_not_fill_up", "matching.py", "test_matching.py", "Few objects give a small batch.",
           "_draw(negative, batch_size - count, generator)",
           "_draw(negative, batch_size - int(batch_size * positive_fraction), generator)"),
    Mutant("hungarian_greedy", "matching.py", "test_matching.py", "The cheapest pair is taken, then the next cheapest.",
           "    rows, columns = linear_sum_assignment(cost.detach().double().cpu().numpy())\n",
           "    left, pairs = cost.detach().double().clone(), []\n"
           "    while len(pairs) < min(cost.shape):\n"
           "        pairs.append(divmod(int(left.argmin()), cost.shape[1]))\n"
           "        left[pairs[-1][0]] = left[:, pairs[-1][1]] = math.inf\n"
           "    rows, columns = torch.tensor(sorted(pairs), dtype=torch.int64).reshape(-1, 2).T\n"),
    Mutant("fcos_largest_wins", "matching.py", "test_matching.py", "A point in two boxes goes to the larger one.",
           "torch.where(fits, 1e8 - box_area(boxes), -math.inf)", "torch.where(fits, box_area(boxes), -math.inf)"),
    # --- regions, masks and keypoints --------------------------------------------------------------------------------
    Mutant("roi_align_no_half_pixel", "roi.py", "test_roi.py", "aligned=True leaves the half pixel where it was.",
           "- (0.5 if aligned else 0)", "- 0"),
    Mutant("roi_align_samples_at_edge", "roi.py", "test_roi.py", "Samples lie at the edges of their parts of the bin.",
           "(sample + 0.5) * length", "sample * length"),
    Mutant("roi_pool_rounds_down", "roi.py", "test_roi.py", "Corners are cut to whole cells instead of rounded.",
           "left_top, right_bottom = round_half_away(corners * spatial_scale).split(2, dim=1)\n    size",
           "left_top, right_bottom = (corners * spatial_scale).floor().split(2, dim=1)\n    size"),
    Mutant("roi_pool_last_cell_left_out", "roi.py", "test_roi.py", "The last cell does not belong to the RoI.",
           "size = (right_bottom - left_top + 1).clamp(min=1)", "size = (right_bottom - left_top).clamp(min=1)"),
    Mutant("pyramid_level_off_by_one", "roi.py", "test_roi.py", "Each box is pooled one level too high.",
           "(ideal.floor() - math.log2(strides[0]))", "(ideal.floor() + 1 - math.log2(strides[0]))"),
    Mutant("psroi_channels_bin_by_bin", "roi.py", "test_position_sensitive.py",
           "Channels are read bin first, then class.",
           "input.reshape(batch, channels // maps, maps, height, width).permute(0, 2, 3, 4, 1)",
           "input.reshape(batch, maps, channels // maps, height, width).permute(0, 1, 3, 4, 2)"),
    Mutant("paste_without_half_pixel", "masks.py", "test_masks.py", "Pixels' corners are taken for their middles.",
           "place = (pixels - first[:, None] + 0.5) * scale[:, None] - 0.5",
           "place = (pixels - first[:, None]) * scale[:, None]"),
    Mutant("paste_box_not_grown", "masks.py", "test_masks.py", "The mask gets a border, its box does not.",
           "_grow(check_boxes(boxes), padded.shape[-1] / masks.shape[-1]).long()", "check_boxes(boxes).long()"),
    Mutant("mask_classes_compete", "masks.py", "test_masks.py", "The highest map of all classes is taught.",
           "F.binary_cross_entropy_with_logits(_of_class(mask_logits, labels), ",
           "F.binary_cross_entropy_with_logits(mask_logits.amax(dim=1), "),
    Mutant("heatmap_x_y_swapped", "keypoints.py", "test_keypoints.py", "Cells are numbered column by column.",
           "(cells[..., 1] * heatmap_size + cells[..., 0])", "(cells[..., 0] * heatmap_size + cells[..., 1])"),
    Mutant("hidden_keypoints_taught", "keypoints.py", "test_keypoints.py", "Keypoints without a label count.",
           ".all(dim=-1) & (keypoints[..., 2] > 0)", ".all(dim=-1)"),
    # --- losses and corners ------------------------------------------------------------------------------------------
    Mutant("focal_alpha_swapped", "losses.py", "test_losses.py", "alpha weighs the background, 1 - alpha the objects.",
           "(alpha * right + (1 - alpha) * (1 - right))", "((1 - alpha) * right + alpha * (1 - right))"),
    Mutant("focal_ignores_gamma", "losses.py", "test_losses.py", "Easy examples cost what they always did.",
           "loss = cross_entropy * wrong.clamp(min=torch.finfo(wrong.dtype).tiny) ** gamma", "loss = cross_entropy"),
    Mutant("smooth_l1_ignores_beta", "losses.py", "test_losses.py", "The parabola always ends at 1.",
           "torch.where(distance < beta, 0.5 * distance**2 / beta, distance - 0.5 * beta)",
           "torch.where(distance < 1, 0.5 * distance**2, distance - 0.5)"),
    Mutant("smooth_l1_is_huber", "losses.py", "test_losses.py", "Huber's loss is taken, beta times too much.",
           "torch.where(distance < beta, 0.5 * distance**2 / beta, distance - 0.5 * beta)",
           "torch.where(distance < beta, 0.5 * distance**2, beta * (distance - 0.5 * beta))"),
    Mutant("mean_of_no_pairs_is_nan", "losses.py", "test_losses.py", "An image without objects costs 0 / 0.",
           '_reduce(loss, "sum" if reduction == "mean" and not loss.numel() else reduction)',
           "_reduce(loss, reduction)"),
    Mutant("detr_no_object_weight", "losses.py", "test_set_loss.py", "The many queries without an object weigh 1 each.",
           "    weight[-1] = no_object_weight\n", ""),
    Mutant("detr_cost_giou_sign", "losses.py", "test_set_loss.py", "Boxes that overlap well are dear.",
           "- weights[2] * giou", "+ weights[2] * giou"),
    Mutant("corner_pool_reversed", "corners.py", "test_corners.py", '"top" looks up and "bottom" looks down.',
           '{"top": (2, True), "bottom": (2, False)', '{"top": (2, False), "bottom": (2, True)'),
    Mutant("centre_region_not_divided", "corners.py", "test_corners.py",
           "The weights of the corners sum to n, not to 1.",
           "[((n + 1) * top_left + (n - 1) * bottom_right) / (2 * n),\n"
           "                      ((n - 1) * top_left + (n + 1) * bottom_right) / (2 * n)]",
           "[((n + 1) * top_left + (n - 1) * bottom_right) / 2,\n"
           "                      ((n - 1) * top_left + (n + 1) * bottom_right) / 2]"),
    # --- proposals and attention -------------------------------------------------------------------------------------
    Mutant("merge_averages_plainly", "proposals.py", "test_proposals.py::test_merging_equals_brute_force",
           "A speck has the say of a large region.",
           "share = self.size[i] / (self.size[i] + self.size[j])", "share = 0.5"),
    Mutant("attention_not_scaled", "attention.py", "test_attention.py", "Scores are not divided by sqrt(d).",
           "scores = (q / math.sqrt(q.shape[-1])) @ k", "scores = q @ k"),
    Mutant("softmax_over_queries", "attention.py", "test_attention.py", "The softmax runs over the queries.",
           "scores + bias).softmax(dim=-1)", "scores + bias).softmax(dim=-2)"),
    Mutant("position_x_before_y", "attention.py", "test_attention.py", "The first half of the channels is for x.",
           "for dim in (1, 2):  # y, then x", "for dim in (2, 1):  # x, then y"),
    Mutant("values_have_positions", "attention.py", "test_attention.py", "Positions are added to the values as well.",
           "self.self_attn(placed, placed, x, src_key_padding_mask, src_mask, need_weights)",
           "self.self_attn(placed, placed, placed, src_key_padding_mask, src_mask, need_weights)"),
    # --- metrics -----------------------------------------------------------------------------------------------------
    Mutant("ap_without_envelope", "metrics.py", "test_metrics.py", "Precision is read where it happens to be.",
           "envelope = precision.flip(0).cummax(0).values.flip(0)", "envelope = precision"),
    Mutant("ap_detections_unsorted", "metrics.py", "test_metrics.py", "Detections are taken in the order given.",
           "right = matched[order].bool()", "right = matched.bool()"),
    Mutant("ap_duplicates_are_right", "metrics.py", "test_metrics.py", "An object is found as often as it is shown.",
           "elif target not in taken:", "else:"),
    Mutant("ap_protocols_swapped", "metrics.py", "test_metrics.py", "VOC 2007 gets the area, VOC 2010 the 11 readings.",
           "    precision, recall = precision_recall(scores, matched, num_ground_truth)\n",
           "    precision, recall = precision_recall(scores, matched, num_ground_truth)\n"
           '    protocol = {"voc": "voc07", "voc07": "voc"}.get(protocol, protocol)\n'),
    Mutant("ap_difficult_count", "metrics.py", "test_metrics.py", "Objects that are to be ignored count.",
           "count += int((~ignore).sum())", "count += len(ignore)"),
    Mutant("coco_crowds_count", "coco_metrics.py", "test_coco_metrics.py",
           "Crowds have to be found like single objects.",
           "passed_over = outside | crowd | image", "passed_over = outside | image"),
    Mutant("coco_duplicates_are_right", "coco_metrics.py", "test_coco_metrics.py",
           "An object that is taken stays free.",
           "possible = free & (overlap >= enough)", "possible = overlap >= enough + 0 * free"),
    Mutant("coco_first_ignored", "coco_metrics.py", "test_coco_metrics.py",
           "0 / 0 where the first detection is ignored.",
           "found / (found + wrong + np.spacing(1))", "found / (found + wrong)"),
    Mutant("coco_empty_image", "coco_metrics.py", "test_coco_metrics.py",
           "A class without detections is left without 0.",
           "found[:, -1] / objects[a] if len(order) else 0", "found[:, -1] / objects[a] if len(order) else -1"),
    Mutant("crowd_iou_over_union", "agreement.py", "test_agreement.py", "A crowd's IoU is divided by the union.",
           "np.where(crowd[None], size[:, None], size[:, None] + truth_size[None] - shared)",
           "size[:, None] + truth_size[None] - shared"),
    Mutant("pq_counts_void", "panoptic_quality.py", "test_panoptic_quality.py",
           "Unlabelled pixels make the union larger.",
           "- pixels - shared.get((one, VOID), 0))", "- pixels)"),
    Mutant("pq_matches_at_half", "panoptic_quality.py", "test_panoptic_quality.py", "Half is enough: two can match.",
           "if iou > 0.5:", "if iou >= 0.5:"),
    Mutant("breakdown_any_other_class", "error_breakdown.py", "test_error_breakdown.py", "Any touch is a class error.",
           "if wrong >= foreground:", "if wrong >= background:"),
    # --- training ----------------------------------------------------------------------------------------------------
    Mutant("schedule_drops_late", "schedules.py", "test_schedules.py", "The rate falls one step after the drop.",
           "sum(step >= drop for drop in drops)", "sum(step > drop for drop in drops)"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a line for each mutant and the score; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks mutants")
    parser.add_argument("names", nargs="*", metavar="NAME", help="mutants to try (default: all)")
    parser.add_argument("--list", action="store_true", help="only say what each mutant gets wrong")
    given = parser.parse_args(argv)
    unknown = set(given.names) - {mutant.name for mutant in MUTANTS}
    if unknown:
        parser.error(f"no mutant is called {', '.join(sorted(unknown))}; --list names them all.")
    chosen = [mutant for mutant in MUTANTS if mutant.name in given.names or not given.names]
    if given.list:
        for mutant in chosen:
            print(f"{mutant.name:<28}{mutant.file:<21}{mutant.mistake}")
        return 0
    return try_all(chosen)


def try_all(mutants: Sequence[Mutant]) -> int:
    """Runs the tests on a copy without any bug, then mutant by mutant; returns 0 if all of these are killed."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="mutants_") as name:
        work = Path(name)
        fails = first_failure(None, sorted({mutant.tests for mutant in mutants}), work)
        if fails:
            print(f"The tests fail without any bug: {fails}")
            return 1
        print(f"{'no bug':<10}all tests pass ({time.perf_counter() - began:.0f} s)", flush=True)
        killed = sum(try_one(mutant, work) for mutant in mutants)
    print(f"{killed} of {len(mutants)} mutants killed in {time.perf_counter() - began:.0f} s.")
    return int(killed < len(mutants))


def try_one(mutant: Mutant, work: Path) -> bool:
    """Prints and returns whether a test fails on the mutant; work is a folder for copies."""
    try:
        test = first_failure(mutant, [mutant.tests], work)
    except (ValueError, RuntimeError) as error:
        print(f"{'ERROR':<10}{mutant.name:<28}{error}", flush=True)
        return False
    print(f"{'killed' if test else 'SURVIVED':<10}{mutant.name:<28}{test or mutant.mistake}", flush=True)
    return bool(test)


def first_failure(mutant: Mutant | None, tests: Sequence[str], work: Path) -> str:
    """The first test that fails in a copy with this bug, or in one without a bug (None); "" if none does.

    Raises ValueError if the mutant's text does not stand exactly once in its file, RuntimeError if tests cannot run.
    """
    with tempfile.TemporaryDirectory(dir=work) as name:
        folder = copy_sources(Path(name))
        if mutant:
            plant(mutant, folder)
        return run_tests(folder, tests, work / "compiled")


def copy_sources(folder: Path) -> Path:
    """Copies what the tests need into the folder, and a guard that they use it."""
    for part in ("lessons", "tests"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "conftest.py").write_text(GUARD, encoding="utf-8")
    return folder


def plant(mutant: Mutant, folder: Path) -> None:
    """Writes the bug into the copy; ValueError if its text does not stand there exactly once."""
    path = folder / "lessons" / mutant.file
    text = path.read_text(encoding="utf-8")
    count = text.count(mutant.old)
    if count != 1:
        raise ValueError(f"the text to replace stands {count} times in lessons/{mutant.file}, want once.")
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")


def run_tests(folder: Path, tests: Sequence[str], compiled: Path) -> str:
    """The first test of the copy that fails, "" if none does. Raises RuntimeError if pytest cannot run them.

    compiled: a folder where all runs keep compiled modules, since compiling torch can take longer than most tests.
    """
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-o", "addopts=", "--tb=short",
               *(f"tests/{test}" for test in tests)]
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": path, "PYTHONPYCACHEPREFIX": str(compiled), "OMP_NUM_THREADS": "1",
                                "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # plugins start slowly, and none is needed
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if ran.returncode == 0:
        return ""
    failed = re.search(r"^FAILED (.+?)(?: - .*)?$", ran.stdout, flags=re.MULTILINE)
    if ran.returncode != 1 or not failed:
        raise RuntimeError(f"pytest ended with status {ran.returncode}:\n{(ran.stdout + ran.stderr)[-1000:]}")
    return failed.group(1)
