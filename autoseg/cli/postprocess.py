"""`autoseg postprocess`: apply the recipe of a model, or a recipe file, to existing label maps.

Tested in tests/stages/test_postprocess.py.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from autoseg.cli.options import add_max_memory, add_shared, add_workers

if TYPE_CHECKING:
    from autoseg.records.selection import PostprocessingRecipe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `autoseg postprocess`."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "-m",
        "--model",
        type=Path,
        default=None,
        help="a workspace or exported model, for the recipe that `autoseg select` chose",
    )
    source.add_argument("--recipe", type=Path, default=None, help="a JSON file as written by --save-recipe")
    parser.add_argument(
        "-i", "--inputs", type=Path, default=None, metavar="LABELS", help="a label map, or a folder of label maps"
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=None, help="folder for the new label maps (one label map: or a file)"
    )
    parser.add_argument(
        "--save-recipe", type=Path, default=None, metavar="FILE",
        help="write the recipe with its labels as JSON, to be used without the model",
    )  # fmt: skip
    add_workers(parser)
    add_max_memory(parser)
    add_shared(parser)


def run(arguments: argparse.Namespace) -> int:
    """Apply the recipe; the exit code is 1 when some label maps failed."""
    from autoseg.cli.main import DONE, SOME_FAILED
    from autoseg.cli.options import max_memory_bytes, worker_count
    from autoseg.cli.terminal import progress_bar
    from autoseg.errors import UsageError
    from autoseg.postprocessing import describe_step
    from autoseg.records.files import write_record
    from autoseg.stages.postprocess import postprocess_files

    maps, output = arguments.inputs, arguments.output
    if (maps is None) != (output is None) or (maps is None and arguments.save_recipe is None):
        raise UsageError("give label maps with -i and an output folder with -o, or only --save-recipe")
    recipe = _load_recipe(arguments)
    if arguments.save_recipe is not None:
        write_record(recipe, arguments.save_recipe)
        print(f"Written: {arguments.save_recipe}")
    if maps is None:
        return DONE
    for step in recipe.steps:
        print(describe_step(step))
    if not recipe.steps:
        print("the recipe has no steps: label maps stay unchanged")
    with progress_bar("post-processing") as progress:
        failures = postprocess_files(
            recipe,
            maps,
            output,
            workers=worker_count(arguments),
            max_memory=max_memory_bytes(arguments),
            progress=progress,
        )
    for failure in failures:
        print(f"failed: {failure.case}: {failure.error}")
    print(f"Output: {output}")
    return SOME_FAILED if failures else DONE


def _load_recipe(arguments: argparse.Namespace) -> "PostprocessingRecipe":
    from autoseg.interop.models import open_model
    from autoseg.records.files import read_record
    from autoseg.records.selection import PostprocessingRecipe
    from autoseg.stages.postprocess import recipe_of_model

    if arguments.recipe is not None:
        return read_record(PostprocessingRecipe, arguments.recipe)
    with open_model(arguments.model) as model:
        return recipe_of_model(model)
