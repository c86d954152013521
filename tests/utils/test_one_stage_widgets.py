"""The widgets on focal loss and on FCOS's points: their numbers are the library's, and empty cases have words."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from lessons.backbones.fpn import ResNetFPN
from lessons.backbones.resnet import BasicBlock, ResNet
from lessons.detectors.retinanet import RetinaHead, RetinaNet
from lessons.images import ImagePreparation
from utils.widgets import FocalLossExplorer, LocationExplorer

IMAGE = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(0))
TRUTH = torch.tensor([[10.0, 8, 42, 40], [30, 20, 62, 60], [70, 2, 90, 60]])
NAMES = ["bird", "fish", "bird"]
CELLS = ((8, 12), (4, 6))


def random_maps(seed, n=6):
    generator = torch.Generator().manual_seed(seed)
    return [4 * torch.randn(*size, n, generator=generator) - 3 for size in CELLS]


def focal(**options):
    goals = [(torch.rand(m.shape, generator=torch.Generator().manual_seed(2)) * 3).floor() - 1 for m in random_maps(0)]
    return FocalLossExplorer(IMAGE, TRUTH, {"trained": random_maps(0), "at the start": random_maps(1)}, goals, **options)


def shares_by_loop(widget):
    """Terms, loss and gradient of easy background, hard background and objects, one term at a time."""
    sums = {name: [0.0, 0.0, 0.0] for name in ("terms", "loss", "gradient")}
    for logit, goal in zip(widget._logits[widget.scores], widget._goals, strict=True):
        for x, y in zip(logit.flatten().tolist(), goal.flatten().tolist(), strict=True):
            if y < 0:
                continue
            p, sign = 1 / (1 + math.exp(-x)), 1 if y else -1
            pt = p if y else 1 - p
            weight = (widget.alpha if y else 1 - widget.alpha) if widget.balanced else 1
            slope = sign * weight * (1 - pt) ** widget.gamma * (widget.gamma * pt * math.log(pt) + pt - 1)
            kind = 2 if y else 0 if p < widget.limit else 1
            sums["terms"][kind] += 1
            sums["loss"][kind] -= weight * (1 - pt) ** widget.gamma * math.log(pt)
            sums["gradient"][kind] += abs(slope)  # the paper's derivative, appendix A
    return {name: [amount / sum(row) for amount in row] for name, row in sums.items()}


@settings(max_examples=10, deadline=None)
@given(st.floats(0, 5), st.floats(0.05, 0.95), st.floats(0.05, 0.95), st.booleans(), st.sampled_from(["trained", "at the start"]))
def test_shares_are_those_of_single_terms(gamma, alpha, limit, balanced, scores):
    widget = focal()
    widget.gamma, widget.alpha, widget.limit, widget.balanced, widget.scores = gamma, alpha, limit, balanced, scores
    assert widget.error == ""
    for name, row in shares_by_loop(widget).items():
        assert widget.shares[name] == pytest.approx(row, abs=1e-5), name


def test_focus_takes_the_loss_from_easy_background():
    shares = [focal(gamma=gamma).shares for gamma in (0.0, 1, 2, 5)]
    for name in ("loss", "gradient"):
        easy = [one[name][0] for one in shares]
        assert easy == sorted(easy, reverse=True)
    assert shares[0]["terms"] == shares[3]["terms"]


def test_the_map_shows_where_the_loss_lies():
    logits, goals = [torch.full((*size, 2), -30.0) for size in CELLS], [torch.zeros(*size, 2) for size in CELLS]
    logits[0][3, 5, 1], logits[1][0, 2, 0] = 3.0, 3.0  # two errors, on a fine and on a coarse level
    where = FocalLossExplorer(IMAGE, TRUTH, {"made up": logits}, goals)._where(2.0)
    assert where.shape == CELLS[0]
    assert where[3, 5] == 1
    torch.testing.assert_close(where[0:2, 4:6], torch.full((2, 2), 0.25))  # four cells share the coarse one's
    assert where.sum() == pytest.approx(2, abs=1e-4)
    logits[0][3, 5, 1], goals[0][3, 5] = -30.0, -1  # left out
    assert FocalLossExplorer(IMAGE, TRUTH, {"made up": logits}, goals)._where(2.0)[3, 5] < 1e-4


def tiny_retinanet(seed):
    torch.manual_seed(seed)
    backbone = ResNetFPN(ResNet(BasicBlock, (1, 1, 1, 1), widths=(4, 8, 8, 8)), 8, 4)
    return RetinaNet(backbone, RetinaHead(8, 3, 3), ImagePreparation((64,), 200), ((16,), (32,))).eval()


def test_the_loss_of_a_detector_is_what_is_shared():
    """Goals and logits taken from the detector give, summed, the loss that it would learn from."""
    detector, target = tiny_retinanet(0), {"boxes": TRUTH, "labels": torch.tensor([1, 2, 1])}
    widget = FocalLossExplorer.from_detectors({"one": detector, "other": tiny_retinanet(1)}, IMAGE, target)
    assert widget.names == ["one", "other"]
    total = 0.0
    for logit, goal in zip(widget._logits["one"], widget._goals, strict=True):
        counted = goal >= 0
        p = logit.sigmoid()
        pt, alpha = torch.where(goal == 1, p, 1 - p), torch.where(goal == 1, 0.25, 0.75)
        total -= float((alpha * (1 - pt) ** 2 * pt.log())[counted].sum())
    with torch.no_grad():
        batch, _ = detector.prepare([IMAGE])
        features = detector.backbone(batch.pixels)
        anchors, outputs = detector.anchors(features, batch), detector.head(features)
        loss = detector.losses(tuple(torch.cat(one, dim=1) for one in outputs), anchors, [target])["classification"]
    objects = int((detector.assign(anchors, TRUTH) >= 0).sum())
    assert total / objects == pytest.approx(loss.item(), rel=1e-4)
    assert widget.counts[2] == objects


def test_focal_words_and_mistakes():
    widget = focal(limit=0.3)
    assert "easy background" in widget.message
    widget.gamma = -1.0
    assert "gamma -1.0" in widget.error
    with pytest.raises(ValueError, match=r"logits 'a' of shapes .* for goals of"):
        FocalLossExplorer(IMAGE, TRUTH, {"a": random_maps(0, n=5)}, [m * 0 for m in random_maps(0)])
    nothing = FocalLossExplorer(IMAGE, TRUTH[:0], {"a": random_maps(0)}, [m * 0 - 1 for m in random_maps(0)])
    assert nothing.message == "No anchor counts in this picture."
    assert isinstance(nothing.static(), Figure)


def locations(**options):
    return LocationExplorer(IMAGE, TRUTH, NAMES, **{"strides": (8, 16, 32), "reach": 2.5} | options)


def points_by_loop(widget):
    """What each point learns and how many boxes it could, in plain Python."""
    strides = (8, 16, 32) if widget.pyramid else (16,)
    for stride in strides:
        for row in range(64 // stride):
            for column in range(96 // stride):
                fits = []
                for number, (x1, y1, x2, y2) in enumerate(TRUTH.tolist()):
                    x, y = column * stride, row * stride
                    sides = x - x1, y - y1, x2 - x, y2 - y
                    near = max(abs(x - (x1 + x2) / 2), abs(y - (y1 + y2) / 2)) < (1.5 * stride if widget.centre else math.inf)
                    low = 0 if stride == strides[0] else 1.25 * stride
                    high = math.inf if stride == strides[-1] else 2.5 * stride
                    if min(sides) > 0 and near and low < max(sides) < high:
                        fits.append(number)
                area = {n: (TRUTH[n, 2] - TRUTH[n, 0]) * (TRUTH[n, 3] - TRUTH[n, 1]) for n in fits}
                yield {"x": column * stride, "y": row * stride, "level": f"P{int(math.log2(stride))}", "stride": stride,
                       "object": min(area, key=area.get) if area else -1, "fits": len(fits)}


@pytest.mark.parametrize("pyramid", [True, False])
@pytest.mark.parametrize("centre", [True, False])
def test_points_learn_what_they_should(pyramid, centre):
    widget = locations()
    widget.pyramid, widget.centre = pyramid, centre
    expected = list(points_by_loop(widget))
    assert widget.points == expected
    assert widget.counts["points"] == len(expected)
    assert widget.counts["positive"] == sum(point["object"] >= 0 for point in expected) > 0
    assert widget.counts["ambiguous"] == sum(point["fits"] > 1 for point in expected)
    assert widget.counts["different"] <= widget.counts["ambiguous"]
    assert isinstance(widget.static(), Figure)


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 96), st.floats(0, 64), st.booleans(), st.booleans())
def test_a_pixel_shows_the_nearest_point_of_each_level(x, y, pyramid, centre):
    widget = locations()
    widget.pyramid, widget.centre, widget.pixel = pyramid, centre, [x, y]
    assert widget.error == ""
    assert [row["level"] for row in widget.rows] == (["P3", "P4", "P5"] if pyramid else ["P4"])
    for row in widget.rows:
        away = [math.hypot(p["x"] - x, p["y"] - y) for p in widget.points if p["level"] == row["level"]]
        assert math.hypot(row["x"] - x, row["y"] - y) == pytest.approx(min(away), abs=1e-4)
        same = next(p for p in widget.points if (p["level"], p["x"], p["y"]) == (row["level"], row["x"], row["y"]))
        assert same["object"] == row["object"]
        assert (row["object"] >= 0) != row["words"].startswith("background")
    learning = [row for row in widget.rows if row["object"] >= 0]
    assert widget.learns == (learning[0] if learning else {})
    json.dumps(widget.get_state(["points", "rows", "counts", "learns", "message"]), allow_nan=False)


def test_sides_and_centreness_by_hand():
    widget = locations(strides=(8,), alone=8, pixel=(24, 24))
    widget.centre = False
    row = widget.learns
    assert row["sides"] == [14, 16, 18, 16]  # of the bird at 10, 8, 42, 40
    assert row["centreness"] == pytest.approx(math.sqrt(14 / 18))
    assert widget.message.startswith("P3 learns bird: l 14, t 16, r 18, b 16 px, centre-ness 0.88.")
    widget.pixel = [33, 33]  # two boxes meet; the bird's is smaller
    assert widget.learns["words"] == "bird, the smallest of 2"
    widget.pixel = [0, 0]
    assert widget.rows[0]["words"] == "background: in no box"
    assert "every level learns background" in widget.message


def test_why_a_point_learns_nothing():
    widget = locations(pixel=(72, 8))
    words = {row["level"]: row["words"] for row in widget.rows}
    assert words["P3"] == "background: too far from the centre"
    widget.centre = False
    assert widget.rows[0]["words"] == "background: another level's size"


def test_location_words_in_empty_cases_and_mistakes():
    nothing = LocationExplorer(IMAGE, torch.zeros(0, 4), [])
    assert nothing.counts == {"points": 96 + 24 + 6, "positive": 0, "ambiguous": 0, "different": 0}
    assert isinstance(nothing.static(), Figure)
    widget = locations()
    widget.pixel = [200.0, 3.0]
    assert "lies outside the picture of 96 x 64" in widget.error
    with pytest.raises(ValueError, match="3 boxes with 1 names"):
        LocationExplorer(IMAGE, TRUTH, ["bird"])
    with pytest.raises(ValueError, match="the level alone has stride 4"):
        locations(alone=4)


@pytest.mark.parametrize("make", [focal, locations])
def test_widgets_start_complete_and_need_no_network(make):
    widget = make()
    assert widget.error == ""
    assert isinstance(widget.static(), Figure)
    assert "still picture" in repr(widget)
    assert "http" not in widget._esm.replace("http://www.w3.org/2000/svg", "")
    names = [key for key in widget.keys if not key.startswith("_") and key not in ("layout", "tabbable", "tooltip")]
    json.dumps(widget.get_state(names), allow_nan=False)
