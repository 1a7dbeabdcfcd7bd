"""Any edit over a chosen part of the forget rows."""

from __future__ import annotations

import ast

from cljax import unlearning
from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Spec, UsageError
from cljax.methods.registry import Entry, Option, make, register
from cljax.methods.unlearning.entries import EDITS, OUTPUTS, viewed
from cljax.unlearning.coreset_forget import SELECTORS

EDITED = (
  "graddiff", "gradient_ascent", "random_labels", "scrub", "bad_teacher", "geometric_disentanglement",
  "one_point_contraction", "ssd",
)  # fmt: skip


def parsed(text: str) -> dict:
  """``'steps=20, learning_rate=0.1'`` as a dict. UsageError for anything else."""
  out = {}
  for part in filter(None, map(str.strip, text.split(","))):
    name, equals, value = part.partition("=")
    if not equals or not name.strip().isidentifier():
      raise UsageError(f"method.options: got {part!r}; expected name=value, such as 'steps=20, learning_rate=0.1'")
    try:
      out[name.strip()] = ast.literal_eval(value.strip())
    except (ValueError, SyntaxError):
      out[name.strip()] = value.strip()
  return out


def coreset_forget(
  model, spec: Spec, *, share, damping, edit: str = "graddiff", options: str = "", selector: str = "influence",
  batch: int = 64,
) -> Method:  # fmt: skip
  """The edit ``edit`` with ``options`` over the share ``share`` of the rows to forget that ``selector`` wants most.

  Scores are of the parameters before the edit (:func:`cljax.unlearning.coreset_scores`). The edit makes as many updates
  as over all rows (its own ``steps``), and what is reported is of all rows that were named. ``share=1`` is the edit
  itself, to the bit. **No deletion**: the rows left out were asked to be forgotten, and where rows are learned one by
  one (random rows, not a class) they stay. Edits that prepare themselves in training have no place here. Spec S12.2;
  Pal et al., 2025 (random parts, language models; the selectors are standard forms, a reconstruction).
  """
  inner = make(edit, model, spec, **parsed(options))
  whole = inner.forget
  assert whole is not None

  def forget(key, learner, request, tools):
    core = unlearning.coreset_rows(
      viewed(model, learner, key), learner.params, request.forget, request.retain, share=share, selector=selector,
      key=fold(key, "coreset"), damping=damping, batch=batch,
    )  # fmt: skip
    return whole(key, learner, request._replace(forget=core), tools)

  return Method(forget=forget)


register(
  "coreset_forget",
  Entry(
    coreset_forget,
    {
      "share": Option(0.1, 0, 1, above=True),
      "damping": Option(1e-3, 0, above=True),
      "edit": Option("graddiff", choices=EDITED),
      "options": Option(""),
      "selector": Option("influence", choices=SELECTORS),
      "batch": Option(64, 1),
    },
    EDITS._replace(needs=("classes", *OUTPUTS, "divergence")),
    "arXiv 2504.10185",
    exactness="approximate",
  ),
)
