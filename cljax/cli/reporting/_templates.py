"""The templates of the page. What they are given is escaped unless it is :class:`markupsafe.Markup`, so that no name of
a run, a class or a file becomes part of the page's own markup."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from cljax.core.extras import needed

if TYPE_CHECKING:
  from markupsafe import Markup


@functools.cache
def _environment():
  with needed("the report's page"):
    import jinja2

  loader = jinja2.PackageLoader("cljax.cli.reporting")
  strict = jinja2.StrictUndefined  # a name that a template is not given is an error, not nothing
  return jinja2.Environment(loader=loader, autoescape=True, undefined=strict, trim_blocks=True, lstrip_blocks=True)


def render(name: str, **given: Any) -> Markup:
  """The template ``NAME.html`` with what it is given."""
  from markupsafe import Markup

  return Markup(_environment().get_template(f"{name}.html").render(given))
