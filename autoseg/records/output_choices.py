"""What may be asked for besides the label map; a module without heavy imports, because help shows these options.

Tested in tests/cli/test_predict.py.
"""

from dataclasses import dataclass, field


def _option(words: str, description: str) -> dict[str, str]:
    """What the command line shows of an output."""
    return {"option": words, "help": description}


@dataclass(frozen=True, kw_only=True)
class OutputChoices:
    """Outputs besides the label map; each is an option of `autoseg predict`."""

    probabilities: bool = field(default=False, metadata=_option("--save-probabilities", "probability of each class"))
    """Probabilities by head; as a file `CASE_probabilities.b2nd`."""
    uncertainty: bool = field(
        default=False, metadata=_option("--save-uncertainty", "maps of entropy, and of disagreement between networks")
    )
    """Entropy and, of several networks, their disagreement; as files `CASE_uncertainty.ext`, `CASE_disagreement.ext`.
    """
    statistics: bool = field(
        default=False, metadata=_option("--statistics", "statistics.csv: volume and mean intensity of each label")
    )
    """Rows in `statistics.csv`; files only."""
    instances: bool = field(
        default=False, metadata=_option("--instances", "CASE_instances and instances.csv: separate objects of a label")
    )
    """Separate objects of each label; as a file `CASE_instances.ext`, and rows in `instances.csv`."""
    colors: bool = field(default=False, metadata=_option("--colors", "names and colours of labels for viewers"))
    """Colour tables, and names inside NIfTI label maps; files only."""
