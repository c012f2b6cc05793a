"""Weights of a fold's network before its first step: fresh, published, another model's, another project's encoder.

Tested in tests/training/folds/test_first_weights.py, tests/stages/test_train.py and
tests/pipeline/test_pretrained_run.py.
"""

import logging
from dataclasses import replace

from torch import nn

from autoseg.networks.published_weights import load_published_encoder
from autoseg.records.plan import count_presence_planes
from autoseg.training.folds.fold import Fold
from autoseg.training.steps.setup import build_initial_network
from autoseg.training.transfer import freeze_encoder, load_encoder, load_pretrained

logger = logging.getLogger("autoseg.train")


def make_first_network(fold: Fold) -> nn.Module:
    """The network of a fold before its first step, on the CPU; logs where weights come from.

    Weights of another model replace published ones, which are not looked for then; a training that resumes needs
    neither.

    Raises:
        TrainingError: If published weights are planned and not installed.
        UsageError: If no layer of the other model fits.
    """
    network = build_initial_network(fold.configuration, fold.options.seed)
    given, num_planes = fold.options.pretrained, count_presence_planes(fold.configuration)
    if fold.pretrained is not None:
        report = load_pretrained(network, fold.plan, fold.configuration_name, fold.pretrained, given)
    elif fold.pretrained_encoder is not None and given is not None:
        report = load_encoder(network, fold.pretrained_encoder, given, num_planes)
    elif fold.soft is not None and fold.starts_afresh and given is None:
        loaded = load_pretrained(network, fold.plan, fold.configuration_name, fold.soft.teacher)
        report = replace(loaded, notes=())  # the same fold of the teacher has the same cases
    else:
        report = None
        if fold.spec.initial_weights is not None and fold.starts_afresh:
            load_published_encoder(network, fold.spec.initial_weights, num_planes)
    for line in () if report is None else report.lines():
        logger.info("%s", line)
    if fold.options.freeze_encoder:
        freeze_encoder(network)
    return network
