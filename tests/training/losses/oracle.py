"""All losses in float64 numpy, from their formulas: voxels are picked and looped over, nothing is masked or shared."""

from itertools import product
from math import ceil

import numpy as np
from skimage.morphology import skeletonize

SMOOTHING = 1e-5


def loss_oracle(name, logits, target, encoding, *, batch_dice, progress=1.0):
    """Logits (B, K, *S) and target (B, *S) of any type to a float."""
    return float(_FORMULAS[name](Patches(logits, target, encoding), batch_dice, progress))


class Patches:
    """Reference and probability of the annotated voxels, sample by sample."""

    def __init__(self, logits, target, encoding):
        logits, target = np.asarray(logits, np.float64), np.asarray(target)
        has_ignore, ignore = encoding.ignore_value is not None, len(encoding.values)
        self.known = [t != ignore if has_ignore else np.ones(t.shape, bool) for t in target]
        self.foreground, self.reference, self.decisions = [], [], []
        for z, t, known in zip(logits, target, self.known, strict=True):
            if encoding.activation == "softmax":
                powers = np.exp(z - z.max(axis=0))
                probabilities = powers / powers.sum(axis=0)
                chosen = [probabilities[k][place] for place in zip(*np.nonzero(known), strict=True) for k in [t[place]]]
                self.foreground.append(probabilities[1:])
                self.reference.append([t == k for k in range(1, len(z))])
                self.decisions.append([(t[known], np.array(chosen))])
            else:
                probabilities = 1 / (1 + np.exp(-z))
                regions = [np.isin(t, head.indices) for head in encoding.heads]
                self.foreground.append(probabilities)
                self.reference.append(regions)
                self.decisions.append(
                    [
                        (inside[known].astype(int), np.where(inside, p, 1 - p)[known])
                        for p, inside in zip(probabilities, regions, strict=True)
                    ]
                )

    def overlaps(self, batch_dice):
        """For each group of samples a list over classes of (sum p g, sum p, sum g)."""
        samples = range(len(self.known))
        for group in [list(samples)] if batch_dice else [[b] for b in samples]:
            yield [
                (
                    sum((self.foreground[b][k] * self.reference[b][k])[self.known[b]].sum() for b in group),
                    sum(self.foreground[b][k][self.known[b]].sum() for b in group),
                    sum(self.reference[b][k][self.known[b]].sum() for b in group),
                )
                for k in range(len(self.reference[0]))
            ]

    def mean_over_classes(self, batch_dice, formula):
        return np.mean([formula(*sums) for classes in self.overlaps(batch_dice) for sums in classes])

    def mean_over_voxels(self, formula):
        """Formula takes p of the true class."""
        values = np.concatenate([formula(p) for sample in self.decisions for _, p in sample])
        return values.mean() if values.size else 0.0

    def weighted_mean(self, voxel, weight):
        """`weight` takes the class and its fraction of the annotated voxels."""
        means = []
        for d in range(len(self.decisions[0])):
            classes = np.concatenate([sample[d][0] for sample in self.decisions])
            own = np.concatenate([sample[d][1] for sample in self.decisions])
            if not own.size:
                return 0.0
            weights = [weight(c, np.mean(classes == c)) for c in classes]
            means.append(np.mean([w * voxel(p) for w, p in zip(weights, own, strict=True)]))
        return np.mean(means)


def dice_index(overlap, predicted, reference):
    return (2 * overlap + SMOOTHING) / (predicted + reference + SMOOTHING)


def _tversky(overlap, predicted, reference):
    false_positives, false_negatives = predicted - overlap, reference - overlap
    return (overlap + SMOOTHING) / (overlap + 0.3 * false_positives + 0.7 * false_negatives + SMOOTHING)


def _dice(patches, batch_dice, _progress):
    return patches.mean_over_classes(batch_dice, lambda *sums: 1 - dice_index(*sums))


def _ce(patches, _batch_dice, _progress):
    return patches.mean_over_voxels(lambda p: -np.log(p))


def _focal(patches, _batch_dice, _progress):
    return patches.mean_over_voxels(lambda p: -((1 - p) ** 2) * np.log(p))


def _topk(patches, _batch_dice, _progress):
    hardest = []
    for sample in patches.decisions:
        for _, p in sample:
            hardest += sorted(-np.log(p))[::-1][: ceil(0.1 * len(p) - 1e-9)]
    return np.mean(hardest) if hardest else 0.0


def _generalized_dice(patches, batch_dice, _progress):
    values = []
    for classes in patches.overlaps(batch_dice):
        present = [g for _, _, g in classes if g > 0]
        smallest = min(present, default=1.0)
        weights = [(smallest / (g if g > 0 else smallest)) ** 2 for _, _, g in classes]
        above = sum(w * o for w, (o, _, _) in zip(weights, classes, strict=True))
        below = sum(w * (p + g) for w, (_, p, g) in zip(weights, classes, strict=True))
        values.append(1 - (2 * above + SMOOTHING) / (below + SMOOTHING))
    return np.mean(values)


def _exp_log(patches, batch_dice, _progress):
    dice = patches.mean_over_classes(batch_dice, lambda o, p, g: max(-np.log((2 * o + 1) / (p + g + 1)), 0.0) ** 0.3)
    entropy = patches.weighted_mean(lambda p: (-np.log(p)) ** 0.3, lambda _, share: np.sqrt(1 / share))
    return 0.8 * dice + 0.2 * entropy


def brute_force_distance(inside, outside):
    """Each voxel to every voxel of the other side, less one half."""
    distances = np.zeros(inside.shape)
    if inside.any() and outside.any():
        for place in product(*map(range, inside.shape)):
            others = np.argwhere(outside if inside[place] else inside)
            nearest = np.sqrt(((others - np.array(place)) ** 2).sum(axis=1).min()) - 0.5
            distances[place] = -nearest if inside[place] else nearest
    return distances


def _boundary(patches, batch_dice, progress):
    terms = []
    for known, probabilities, reference in zip(patches.known, patches.foreground, patches.reference, strict=True):
        for p, inside in zip(probabilities, reference, strict=True):
            terms += list((p * brute_force_distance(inside & known, ~inside & known))[known])
    alpha = max(1 - 0.99 * progress, 0.01)
    regional = _dice(patches, batch_dice, progress) + _ce(patches, batch_dice, progress)
    return alpha * regional + (1 - alpha) * (np.mean(terms) if terms else 0.0)


def skeleton_by_hand(mask, known, erosions=3):
    """Soft skeleton voxel by voxel: neighbours that are unknown or outside do not exist."""

    def pooled(values, choose, steps):
        result = np.zeros_like(values)
        for place in zip(*np.nonzero(known), strict=True):
            found = []
            for step in steps:
                at = tuple(np.add(place, step))
                if all(0 <= i < n for i, n in zip(at, values.shape, strict=True)) and known[at]:
                    found.append(values[at])
            result[place] = choose(found)
        return result

    cube = list(product((-1, 0, 1), repeat=mask.ndim))
    cross = [step for step in cube if np.abs(step).sum() <= 1]
    rest, skeleton = np.where(known, mask, 0.0), np.zeros(mask.shape)
    for _ in range(erosions + 1):
        eroded = pooled(rest, min, cross)
        removed = np.maximum(rest - pooled(eroded, max, cube), 0)
        skeleton = 1 - (1 - skeleton) * (1 - removed)
        rest = eroded
    return skeleton


def _cldice(patches, batch_dice, _progress):
    values = []
    samples = range(len(patches.known))
    for group in [list(samples)] if batch_dice else [[b] for b in samples]:
        for k in range(len(patches.reference[0])):
            sums = np.zeros(4)
            for b in group:
                known, p, g = patches.known[b], patches.foreground[b][k], patches.reference[b][k]
                of_p, of_g = skeleton_by_hand(p, known)[known], skeleton_by_hand(g.astype(float), known)[known]
                sums += (of_p * g[known]).sum(), of_p.sum(), (of_g * p[known]).sum(), of_g.sum()
            precision, sensitivity = (sums[0] + 1) / (sums[1] + 1), (sums[2] + 1) / (sums[3] + 1)
            values.append(1 - 2 / (1 / precision + 1 / sensitivity))
    return np.mean(values)


def tube_by_hand(inside):
    """Voxels of the class within two steps between faces of its skeleton."""
    tube, line = np.zeros(inside.shape, bool), np.argwhere(skeletonize(inside))
    for place in np.argwhere(inside):
        tube[tuple(place)] = any(np.abs(line - place).sum(axis=1) <= 2)
    return tube


def _skeleton_recall(patches, batch_dice, _progress):
    values = []
    samples = range(len(patches.known))
    for group in [list(samples)] if batch_dice else [[b] for b in samples]:
        for k in range(len(patches.reference[0])):
            tubes = [tube_by_hand(patches.reference[b][k] & patches.known[b]) for b in group]
            found = sum(patches.foreground[b][k][tube].sum() for b, tube in zip(group, tubes, strict=True))
            values.append(1 - (found + SMOOTHING) / (sum(tube.sum() for tube in tubes) + SMOOTHING))
    return np.mean(values)


_FORMULAS = {
    "dice_ce": lambda *a: _ce(*a) + _dice(*a) - 1,
    "dice": _dice,
    "ce": _ce,
    "weighted_ce": lambda x, _b, _p: x.weighted_mean(lambda p: -np.log(p), lambda c, _: 1.0 if c == 0 else 2.0),
    "balanced_ce": lambda x, _b, _p: x.weighted_mean(lambda p: -np.log(p), lambda _, share: 1 - share),
    "topk_ce": _topk,
    "focal": _focal,
    "tversky": lambda x, b, _p: x.mean_over_classes(b, lambda *sums: 1 - _tversky(*sums)),
    "focal_tversky": lambda x, b, _p: x.mean_over_classes(b, lambda *sums: max(1 - _tversky(*sums), 0.0) ** 0.75),
    "generalized_dice": _generalized_dice,
    "boundary": _boundary,
    "exp_log": _exp_log,
    "dice_topk": lambda *a: _dice(*a) + _topk(*a),
    "dice_focal": lambda *a: _dice(*a) + _focal(*a),
    "cldice": lambda *a: 0.5 * _dice(*a) + _ce(*a) + 0.5 * _cldice(*a),
    "skeleton_recall": lambda *a: _dice(*a) + _ce(*a) + _skeleton_recall(*a),
}
