"""Registry entries of the edits that take few or no training steps: gradients taken once, noise, kernels, units."""

from __future__ import annotations

from cljax import estimators, tree, unlearning
from cljax.method import Method
from cljax.methods.forgetting import EDITS, approximate, viewed
from cljax.methods.registry import Entry, Option, register
from cljax.types import Access
from cljax.unlearning.tangent import chosen_leaves, with_leaves

VARIANT = Option("paper", choices=("paper", "released"))


def fisher_forgetting(model, spec, *, alpha, variant: str = "paper", importance_batch: int = 64) -> Method:
  del spec

  def forget(key, learner, request, tools):
    fisher = lambda params, rows: estimators.fisher_diagonal(
      model, params, learner.model_state, rows, kind="exact", batch_size=importance_batch
    )
    given = {"alpha": alpha, "classes": request.classes, "variant": variant, "importance": fisher}
    apply_fn = viewed(model, learner, key)
    params = unlearning.fisher_forgetting(apply_fn, learner.params, retain=request.retain, key=key, **given)
    return tools.reset_optimizer(learner._replace(params=params))

  return Method(forget=forget)


fisher_forgetting.__doc__ = unlearning.fisher_forgetting.__doc__


def tangent(call, every: bool):
  """A factory from ``ntk`` or ``fast_ntk``, keeping a copy of the initial values of the leaves that it moves."""

  def factory(model, spec, **options):
    del spec
    pattern = "" if every else options["leaves"]

    def init(key, learner):
      del key
      return tree.copy(chosen_leaves(learner.params, pattern))

    def forget(key, learner, request, tools):
      given = {"forget": request.forget, "retain": request.retain, **options}
      initial = with_leaves(learner.params, learner.method_state)
      params = call(viewed(model, learner, key), learner.params, initial=initial, **given)
      return tools.reset_optimizer(learner._replace(params=params))

    return Method(init=init, forget=forget)

  factory.__doc__, factory.__name__ = call.__doc__, call.__name__
  return factory


approximate(
  "iau",
  unlearning.iau,
  {"learning_rate": Option(1e-3, 0), "variant": VARIANT, "batch": Option(64, 1)},
  "arXiv 2507.23257",
  neutral={"learning_rate": 0.0},
)
approximate(
  "slug",
  unlearning.slug,
  {"first_step": Option(0.1, 0), "search": Option(10, 0), "batch": Option(64, 1), "rows": Option(256, 1)},
  "arXiv 2407.11867",
  test={"rows": 32},
  neutral={"first_step": 0.0},
)
register(
  "fisher_forgetting",
  Entry(
    fisher_forgetting,
    {"alpha": Option(1e-6, 0), "variant": VARIANT, "importance_batch": Option(64, 1)},
    Access(forgets=True, retain_data=True),
    "Golatkar et al. 2020",
    exactness="approximate",
    neutral={"alpha": 0.0},
  ),
)
KERNEL = {
  "scale": Option(1.0, 0),
  "weight_decay": Option(0.1, 0),
  "rows": Option(32, 1),
  "loss": Option("cross_entropy", choices=("cross_entropy", "squared")),
  "variant": VARIANT,
}
for _name, _call, _more in (
  ("ntk", unlearning.ntk, {}),
  ("fast_ntk", unlearning.fast_ntk, {"leaves": Option("norm|bias")}),
):
  register(
    _name,
    Entry(
      tangent(_call, _name == "ntk"),
      {**KERNEL, **_more},
      EDITS,
      "Golatkar et al. 2020" if _name == "ntk" else "arXiv 2312.14923",
      exactness="approximate",
      test={"rows": 8},
      neutral={"scale": 0.0},
    ),
  )
