"""Widgets: geometry to pull about by hand. Python computes, the browser draws."""

from utils.widgets.anchors import AnchorExplorer
from utils.widgets.attention import AttentionExplorer
from utils.widgets.boxes import BoxPlayground
from utils.widgets.focal import FocalLossExplorer
from utils.widgets.hierarchy import HierarchyExplorer
from utils.widgets.levels import LevelExplorer
from utils.widgets.locations import LocationExplorer
from utils.widgets.mask_paste import MaskPaste
from utils.widgets.matching import MatchingExplorer
from utils.widgets.nms import NmsPlayer
from utils.widgets.pooling import PoolingExplorer
from utils.widgets.precision import PrecisionRecallExplorer
from utils.widgets.proposals import ProposalExplorer
from utils.widgets.pyramid import PyramidExplorer
from utils.widgets.queries import QueryExplorer
from utils.widgets.race import RaceExplorer
from utils.widgets.roi import RoiPoolingExplorer
from utils.widgets.threshold import DetectionThreshold
from utils.widgets.triplets import TripletExplorer

__all__ = [
    "AnchorExplorer",
    "AttentionExplorer",
    "BoxPlayground",
    "DetectionThreshold",
    "FocalLossExplorer",
    "HierarchyExplorer",
    "LevelExplorer",
    "LocationExplorer",
    "MaskPaste",
    "MatchingExplorer",
    "NmsPlayer",
    "PoolingExplorer",
    "PrecisionRecallExplorer",
    "ProposalExplorer",
    "PyramidExplorer",
    "QueryExplorer",
    "RaceExplorer",
    "RoiPoolingExplorer",
    "TripletExplorer",
]
