"""Settings that belong to one planner, given as text.

Called once per plan, before anything is decided.

Example: `--planner-option width=text` gives {"width": "text"}; the U-Net planners know `base_features` alone, so they
refuse it and name what they know.

References:
    Own rule.
"""

from collections.abc import Mapping, Sequence

from autoseg.errors import PlanningError


def check_options(options: Mapping[str, str], known: Sequence[str], planner: str) -> None:
    """Refuse settings that a planner does not have.

    Raises:
        PlanningError: Names the unknown settings and those that exist.
    """
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise PlanningError(
            f"--planner-option {', '.join(unknown)}: the planner '{planner}' has no such setting; it has: "
            f"{', '.join(known) or 'none'}. Leave it out, or name the planner that has it with --planner."
        )


def choice(options: Mapping[str, str], name: str, values: Mapping[str, int], default: str) -> int:
    """One of several named values.

    Raises:
        PlanningError: If the text names none of them.
    """
    text = options.get(name, default)
    if text not in values:
        raise PlanningError(f"--planner-option {name}={text}: expected one of {', '.join(values)}.")
    return values[text]


def whole_number(options: Mapping[str, str], name: str, smallest: int, largest: int) -> int | None:
    """A whole number, or None when it is not given.

    Raises:
        PlanningError: If the text is something else or out of range.
    """
    if name not in options:
        return None
    text = options[name]
    if not text.isdecimal() or not smallest <= int(text) <= largest:
        raise PlanningError(f"--planner-option {name}={text}: expected a whole number from {smallest} to {largest}.")
    return int(text)


def yes_or_no(options: Mapping[str, str], name: str) -> bool | None:
    """`true` or `false`, or None when it is not given.

    Raises:
        PlanningError: If the text is something else.
    """
    if name not in options:
        return None
    if options[name] not in {"true", "false"}:
        raise PlanningError(f"--planner-option {name}={options[name]}: expected true or false.")
    return options[name] == "true"
