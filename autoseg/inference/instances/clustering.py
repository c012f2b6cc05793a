"""Weighted box clustering: what several looks found of one instance becomes one, with one score.

The instance of the best score and all others of its label that overlap with it are a cluster, then the best of the rest
and so on. Two windows may each see a part of an instance alone, so boxes are compared within the part of the image that
both windows show, and a part that a window cuts off brings the parts that continue it.

Tested in tests/inference/instances/test_clustering.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from autoseg.inference.instances.found import Boxes, FoundInstances, Views, center_weights

LINK_IOU = 0.3
"""Overlap from which instances of neighbouring slices, found by a 2D network, are one (own rule)."""

CUT_FRACTION = 0.05
"""Distance from a window's border within which an instance may continue beyond it, as a fraction of the window."""


@dataclass(frozen=True)
class Cluster:
    """One instance, made of what several looks found."""

    label: int
    """Label index."""
    score: float
    """[0, 1]."""
    box: NDArray[np.float32]
    """(2, 3), box of the piece that counts most; of linked slices the box around all of them."""
    pieces: NDArray[np.int64]
    """Positions in the `FoundInstances`."""
    weights: NDArray[np.float32]
    """What each piece counts in the mean of masks."""


def cluster_instances(found: FoundInstances, views: Views, min_iou: float) -> list[Cluster]:
    """Cluster what was found in windows.

    The score is the mean of the pieces' scores, weighted by their overlap with the best piece, their volume and their
    nearness to the centre of their window; looks that could have seen the instance and did not count as score 0.

    Args:
        found: Instances, best score first.
        views: All looks at the image.
        min_iou: Overlap from which two instances of one label are the same.

    Returns:
        One cluster for each instance, best piece first.

    References:
        Jaeger et al. 2019, "Retina U-Net", weighted box clustering. Differs: boxes are compared where both windows
        reach; a look that saw nothing counts with its own nearness to its centre instead of the cluster's mean weight;
        masks are averaged instead of the corners of boxes.
    """
    clusters = []
    is_cut = _find_cut(found)
    for left in _comparable(found):
        while len(left):
            ious = _grow(found, left, is_cut[left], min_iou)
            is_same = ious > 0
            clusters.append(_describe(found, views, left[is_same], ious[is_same]))
            left = left[~is_same]
    return clusters


def _grow(
    found: FoundInstances, left: NDArray[np.int64], is_cut: NDArray[np.bool_], min_iou: float
) -> NDArray[np.float64]:
    """Overlap (N,) of each with the best one, or with a part of it that a window cuts off; 0 for other instances."""
    ious = _common_ious(found, int(left[0]), left)
    ious[ious <= min_iou] = 0
    ious[0] = 1
    waiting = list(np.flatnonzero((ious > 0) & is_cut))
    while waiting:
        beside = _common_ious(found, int(left[waiting.pop()]), left)
        added = (beside > min_iou) & is_cut & (ious == 0)
        ious[added] = beside[added]
        waiting += list(np.flatnonzero(added))
    return ious


def _find_cut(found: FoundInstances) -> NDArray[np.bool_]:
    """Whether each instance reaches a border of its window (N,), and so may continue beyond it."""
    edges = found.windows[:, 1] - found.windows[:, 0]
    margins = np.minimum(found.boxes[:, 0] - found.windows[:, 0], found.windows[:, 1] - found.boxes[:, 1])
    reaches: NDArray[np.bool_] = ((margins <= CUT_FRACTION * edges) & (edges > 1)).any(axis=1)
    return reaches


def link_slices(clusters: Sequence[Cluster]) -> list[Cluster]:
    """Join instances of single slices that overlap with one of the same label in the next slice.

    Pairs of neighbouring slices are joined one to one, those that overlap most first.

    Args:
        clusters: Instances of one slice each.

    Returns:
        Instances of several slices; the score is the mean over slices, weighted by their area.
    """
    by_slice: dict[int, list[int]] = {}
    for index, cluster in enumerate(clusters):
        by_slice.setdefault(int(cluster.box[0, 0]), []).append(index)
    followers: dict[int, int] = {}
    for position, indices in by_slice.items():
        following = by_slice.get(position + 1, [])
        pairs = [
            (_iou(clusters[a].box[:, 1:], clusters[b].box[:, 1:]), -a, -b)
            for a in indices
            for b in following
            if clusters[a].label == clusters[b].label
        ]
        taken: set[int] = set()
        for iou, a, b in sorted(pairs, reverse=True):
            if iou > LINK_IOU and -a not in followers and -b not in taken:
                followers[-a] = -b
                taken.add(-b)
    firsts = sorted(set(range(len(clusters))) - set(followers.values()))
    return [_join([clusters[index] for index in _chain(first, followers)]) for first in firsts]


def combine_members(groups: Sequence[list[Cluster]], sizes: Sequence[int], min_iou: float) -> list[Cluster]:
    """Instances of an ensemble of configurations, each of which saw the whole image.

    Args:
        groups: Instances by configuration.
        sizes: Number of found instances that each group's pieces are positions in; they are joined in this order.
        min_iou: Overlap of boxes from which two instances of one label are the same.

    Returns:
        Instances whose score is the mean over configurations; one that missed it counts as 0.
    """
    if len(groups) == 1:
        return groups[0]
    starts = np.cumsum([0, *sizes[:-1]])
    waiting = [
        (member, replace(cluster, pieces=cluster.pieces + start))
        for member, (group, start) in enumerate(zip(groups, starts, strict=True))
        for cluster in group
    ]
    waiting.sort(key=lambda entry: -entry[1].score)
    combined = []
    while waiting:
        (member, best), *waiting = waiting
        partners = {member: best}
        for other, cluster in waiting:
            if other not in partners and cluster.label == best.label and _iou(best.box, cluster.box) > min_iou:
                partners[other] = cluster
        taken = {id(cluster) for cluster in partners.values()}
        waiting = [entry for entry in waiting if id(entry[1]) not in taken]
        combined.append(_average(list(partners.values()), len(groups)))
    return combined


def _average(clusters: Sequence[Cluster], num_members: int) -> Cluster:
    """One instance of several configurations, each of which counts alike in the mean of masks."""
    return Cluster(
        label=clusters[0].label,
        score=sum(cluster.score for cluster in clusters) / num_members,
        box=clusters[0].box,
        pieces=np.concatenate([cluster.pieces for cluster in clusters]),
        weights=np.concatenate([cluster.weights / cluster.weights.sum() for cluster in clusters]),
    )


def _comparable(found: FoundInstances) -> list[NDArray[np.int64]]:
    """Positions of instances of one label and, if a 2D network found them, of one slice."""
    is_flat = (found.windows[:, 1, 0] - found.windows[:, 0, 0] == 1).all()
    slices = found.windows[:, 0, 0] * is_flat
    _, groups = np.unique(np.stack([found.labels, slices.astype(np.int64)], axis=1), axis=0, return_inverse=True)
    order = np.argsort(groups, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)


def _describe(found: FoundInstances, views: Views, pieces: NDArray[np.int64], ious: NDArray[np.float64]) -> Cluster:
    volumes = (found.boxes[pieces, 1] - found.boxes[pieces, 0]).prod(axis=1)
    shares = ious * volumes / volumes.max()
    weights = shares * found.weights[pieces]
    leading = found.boxes[pieces[np.argmax(weights)]]
    missing = _missing_weight(leading.mean(axis=0), views, found.views[pieces]) * shares.mean()
    score = float((found.scores[pieces] * weights).sum() / (weights.sum() + missing))
    counts = (found.scores[pieces] * weights).astype(np.float32)
    return Cluster(int(found.labels[pieces[0]]), score, leading, pieces, counts)


def _missing_weight(center: NDArray[np.float32], views: Views, seen: NDArray[np.int64]) -> float:
    """Sum of the weights of all looks at a point that are not among those that saw something there."""
    windows = views.windows
    covering = np.flatnonzero(((windows[:, 0] <= center) & (center < windows[:, 1])).all(axis=1))
    weights = center_weights(np.broadcast_to(center, (len(covering), 3)), windows[covering])
    seen_times = np.bincount(np.unique(seen) // views.times, minlength=len(windows))[covering]
    return float((weights * (views.times - seen_times)).sum())


def _common_ious(found: FoundInstances, best: int, others: NDArray[np.int64]) -> NDArray[np.float64]:
    """IoU (N,) of one box with others, within the part of the image that both windows show."""
    start = np.maximum(found.windows[best, 0], found.windows[others, 0])
    stop = np.minimum(found.windows[best, 1], found.windows[others, 1])
    own = _clip(np.broadcast_to(found.boxes[best], (len(others), 2, 3)), start, stop)
    other = _clip(found.boxes[others], start, stop)
    common = _volumes(_clip(own, other[:, 0], other[:, 1]))
    unions = _volumes(own) + _volumes(other) - common
    return np.divide(common, unions, out=np.zeros(len(others)), where=unions > 0)


def _clip(boxes: Boxes, start: NDArray[np.float32], stop: NDArray[np.float32]) -> Boxes:
    return np.stack([np.maximum(boxes[:, 0], start), np.minimum(boxes[:, 1], stop)], axis=1)


def _volumes(boxes: Boxes) -> NDArray[np.float64]:
    edges = (boxes[:, 1] - boxes[:, 0]).clip(0).astype(np.float64)
    volumes: NDArray[np.float64] = edges.prod(axis=1)
    return volumes


def _iou(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """IoU of two boxes (2, D)."""
    common = (np.minimum(first[1], second[1]) - np.maximum(first[0], second[0])).clip(0).prod()
    volumes = [(box[1] - box[0]).prod() for box in (first, second)]
    return float(common / max(sum(volumes) - common, 1e-9))


def _chain(first: int, followers: dict[int, int]) -> list[int]:
    chain = [first]
    while chain[-1] in followers:
        chain.append(followers[chain[-1]])
    return chain


def _join(clusters: Sequence[Cluster]) -> Cluster:
    boxes = np.stack([cluster.box for cluster in clusters])
    areas = _volumes(boxes)
    return Cluster(
        label=clusters[0].label,
        score=float(np.average([cluster.score for cluster in clusters], weights=areas)),
        box=np.stack([boxes[:, 0].min(axis=0), boxes[:, 1].max(axis=0)]),
        pieces=np.concatenate([cluster.pieces for cluster in clusters]),
        weights=np.concatenate([cluster.weights for cluster in clusters]),
    )
