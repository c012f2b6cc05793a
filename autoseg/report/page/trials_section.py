"""The section about trials: what was tried before the plan was decided, and how it went."""

from markupsafe import Markup

from autoseg.records.trials import Trials
from autoseg.report.charts.charts import draw_paths
from autoseg.report.page.templates import render_template
from autoseg.trials.sentences import describe_cases, list_results, tabulate


def render_trials(trials: Trials) -> Markup | None:
    """Charts of Dice against time and cost for every candidate, and a table; None before any trial has finished."""
    names = [name for name, _, _ in list_results(trials)]
    if not names:
        return None
    scores = {name: list_points(trials, name) for name in names}
    curves = {name: list_curve(trials, name) for name in names}
    costs = {name: cost for name in names if (cost := list_cost(trials, name))}
    cost_charts = [draw_paths("Dice against cost", costs, "seconds per validation case, network and metrics")]
    columns, rows = tabulate(trials)
    return render_template(
        "trials.html",
        reason=trials.reason,
        cases=describe_cases(trials),
        figures=[
            draw_paths("Dice of whole validation cases", scores, "seconds of training"),
            *(cost_charts if costs else []),
            draw_paths("Pseudo-Dice during the longest trial", curves, "seconds of training"),
        ],
        columns=columns,
        rows=rows,
        left_out=trials.left_out,
    )


def list_points(trials: Trials, name: str) -> list[tuple[float, float]]:
    """Seconds of training and Dice of each trial of a candidate."""
    return [
        (trial.training_seconds, trial.mean_foreground_dice)
        for trial in trials.trials
        if trial.candidate == name and trial.mean_foreground_dice is not None
    ]


def list_cost(trials: Trials, name: str) -> list[tuple[float, float]]:
    """Measured seconds per validation case and Dice of the longest trial of a candidate; empty where not measured."""
    cases = len(trials.validation_cases) or trials.num_validation_cases
    own = [
        (trial.validation_seconds / cases, trial.mean_foreground_dice)
        for trial in trials.trials
        if trial.candidate == name and trial.mean_foreground_dice is not None and trial.validation_seconds > 0
    ]
    return own[-1:]


def list_curve(trials: Trials, name: str) -> list[tuple[float, float]]:
    """Seconds of training and pseudo-Dice of each epoch of the longest trial of a candidate."""
    own = [trial for trial in trials.trials if trial.candidate == name]
    return [(point.seconds, point.pseudo_dice) for point in own[-1].curve] if own else []
