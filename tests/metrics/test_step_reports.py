"""What is said about steps that were tried."""

from autoseg.metrics.component_removal import Sweep, Verdict
from autoseg.metrics.step_reports import MAX_REFUSALS, StepReport, describe_steps, describe_sweep

YES = Verdict(True, 0.5, 0.75, ())
NO = Verdict(False, 0.5, 0.25, ("a", "b"))


def test_every_step_has_its_figures_and_idle_ones_share_a_sentence():
    reports = [StepReport("a", None), StepReport("b", YES, "below 5 mm³"), StepReport("c", NO), StepReport("d", None)]
    assert list(describe_steps("Fill holes", reports)) == [
        "Fill holes of b: yes, below 5 mm³, Dice 0.5000 before, 0.7500 after.",
        "Fill holes of c: no, Dice 0.5000 before, 0.2500 after; lower for a, b.",
        "Fill holes of a, d: no, nothing would change.",
    ]
    assert list(describe_steps("Fill holes", [])) == []


def test_refusals_do_not_flood_the_page_and_nothing_accepted_is_left_out():
    reports = [StepReport(f"l{number}", NO) for number in range(MAX_REFUSALS + 2)] + [StepReport("last", YES)]
    said = list(describe_steps("Fill holes", reports))
    assert len(said) == MAX_REFUSALS + 2
    assert said[-2].startswith("Fill holes of last: yes")
    assert said[-1] == "Fill holes of l8, l9: no, Dice does not rise, or falls for another label."


def test_a_tiny_gain_is_shown_as_such():
    (said,) = describe_steps("Fill holes", [StepReport("a", Verdict(True, 0.5, 0.500002, ()))])
    assert said == "Fill holes of a: yes, Dice 0.5000 before, higher by 2e-06 after."
    (said,) = describe_steps("Fill holes", [StepReport("a", Verdict(False, 0.0, None, ()))])
    assert said.endswith("Dice 0.0000 before, none after.")


def test_a_sweep_is_one_phrase():
    tried = (1.0, 2.0, 5000.0)
    assert describe_sweep(Sweep(tried, 2.0, 2.0, YES)) == "below 2 mm³ (3 volumes from 1 to 5000 mm³ tried)"
    assert describe_sweep(Sweep(tried, 1.0, 2.0, YES)) == (
        "below 1 mm³ (3 volumes from 1 to 5000 mm³ tried, 2 is better by no more than noise)"
    )
    assert describe_sweep(Sweep((7.0,), None, 7.0, NO)) == "below 7 mm³ (the only volume that makes a difference)"
    lost = describe_sweep(Sweep((7.0,), None, 7.0, YES, is_loss=True))
    assert lost == "a structure that was found would be lost, below 7 mm³ (the only volume that makes a difference)"
