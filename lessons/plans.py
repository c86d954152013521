"""How much of everything a training takes, and what photographs of a real data set need that the scenes do not."""

from dataclasses import dataclass, replace

from torch import nn


@dataclass(frozen=True)
class Plan:
    """How much of everything a profile takes. Raises ValueError for a straight fall with restarts."""

    images: int  # different pictures; a set that has fewer gives all it has
    steps: int
    measured: int  # pictures of each validation split
    batch_size: int = 8
    learning_rate: float = 1e-3
    body_rate: float = 1.0  # the pre-trained body's learning rate, in parts of the others'
    clip_norm: float = 5.0  # the longest gradient that is followed
    restarts: tuple[int, ...] = ()  # steps at which the learning rate is full again
    straight: bool = False  # whether the rate falls along a line, not a cosine
    ema_decay: float | None = None  # of the moving average of the weights that is kept in place of the last; None: none

    def __post_init__(self) -> None:
        if self.straight and self.restarts:
            raise ValueError(f"a rate that falls along a line does not start again, but restarts are {self.restarts}.")


@dataclass(frozen=True)
class Photographs:
    """A set of a few hundred pictures, each of a dozen objects or more, for a detector that knows the scenes.

    It has less to learn, from less: minutes on two cores. Cells lie as they like under a microscope, so the pictures
    are turned upside down at random as well; and with so many objects the head's losses need more regions of each
    picture, half of them on objects: boxes are what there is most to learn about. As cells touch and overlap, of two
    boxes one goes only if they overlap by more than in other pictures.
    """

    plan: Plan
    side: int  # of the pictures' short side, pixels
    mask_steps: int | None = None  # of detectors that draw masks, if not the plan's: outlines take longer than boxes
    proposals_train: int = 300  # that the proposal network's NMS leaves of each picture, as many as the loss needs
    proposals_test: int = 500  # the same in measuring, where more of them find more objects
    regions: int = 256  # of each picture in the loss of a head that looks at regions
    positive_fraction: float = 0.5  # of these
    detections: int = 100  # of each picture
    score_threshold: float = 0.01  # from which a box is shown
    nms_threshold: float = 0.6  # IoU above which of two boxes one goes
    upside_down: bool = True
    transposed: bool = False  # pictures may also lie on their side: wide and high ones in one batch would cost more
    faint: bool = False  # pictures are mostly black: brightened before anybody looks

    def plan_for(self, draws_masks: bool) -> Plan:
        """How much of everything, for a detector of boxes or of masks."""
        return replace(self.plan, steps=self.mask_steps) if draws_masks and self.mask_steps else self.plan

    def adapt(self, model: nn.Module) -> None:
        """Sets what differs from the lesson's detector; one without proposals or regions stays as it is."""
        if rpn := getattr(model, "rpn", None):
            rpn.after_nms = {True: self.proposals_train, False: self.proposals_test}
            rpn.before_nms = {training: 2 * number for training, number in rpn.after_nms.items()}
        if head := getattr(model, "box_head", None):
            head.batch_size, head.positive_fraction = self.regions, self.positive_fraction
            head.max_detections, head.score_threshold = self.detections, self.score_threshold
            head.nms_threshold = self.nms_threshold


# few steps, few pictures in each: an average of weights hangs less on the last pictures than the last weights do
FEW_STEPS = Plan(1000, 200, 100, learning_rate=1.5e-3, straight=True, ema_decay=0.97)
PHOTOGRAPHS = {"bccd": Photographs(replace(FEW_STEPS, steps=660, batch_size=2), side=240),
               "nuclei": Photographs(replace(FEW_STEPS, batch_size=1), side=512, mask_steps=400, proposals_train=400,
                                     transposed=True, faint=True)}
SCENES_SIDE, OTHER_SIDE = 160, 240  # pixels


def side_of(dataset: str) -> int:
    """The short side, in pixels, at which the lessons look at a data set."""
    if dataset in PHOTOGRAPHS:
        return PHOTOGRAPHS[dataset].side
    return SCENES_SIDE if dataset == "scenes" else OTHER_SIDE
