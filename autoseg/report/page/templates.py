"""Templates of the page: each section is rendered on its own from values that are passed by name.

Tested in tests/report/page/test_render.py.
"""

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


def render_template(name: str, /, **values: object) -> Markup:
    """HTML of a template of the folder `html`; texts among the values are escaped.

    Raises:
        jinja2.UndefinedError: If the template reads a value that is not given.
    """
    return Markup(_environment().get_template(name).render(values))  # noqa: S704 (the template has escaped them)


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("autoseg", "report/page/html"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
