"""Registry entries of the edits that take few or no training steps: gradients taken once, noise, kernels, units."""

from __future__ import annotations

import math
import re

import jax
import jax.numpy as jnp
import optax

from cljax import estimators, losses, unlearning
from cljax.core import tree
from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Access, UsageError
from cljax.methods.penalties.pulls import kind_of
from cljax.methods.registry import Entry, Option, register
from cljax.methods.unlearning.entries import EDITS, OUTPUTS, ROW_LOSSES, approximate, edit, viewed
from cljax.objectives.objective import mean_loss, row_loss
from cljax.unlearning.class_statistics import empty_statistics
from cljax.unlearning.tangent import chosen_leaves, with_leaves

VARIANT = Option("paper", choices=("paper", "released"))


def fisher_forgetting(model, spec, *, alpha, variant: str = "auto", importance_batch: int = 64) -> Method:
  if variant == "auto":
    variant = "released" if spec.objective.classes else "paper"
  if variant == "released" and not spec.objective.classes:
    raise UsageError(f"method.variant: got 'released', which needs classes; {spec.objective.name!r} has none")
  kind, classes = kind_of(spec, "auto"), spec.objective.classes

  def forget(key, learner, request, tools):
    fisher = lambda params, rows: estimators.fisher_diagonal(
      model, params, learner.model_state, rows, kind=kind, key=fold(key, "importance"), batch_size=importance_batch,
      learned=None if classes else spec.objective,
    )  # fmt: skip
    given = {"alpha": alpha, "classes": request.classes if classes else None, "variant": variant, "importance": fisher}
    apply_fn = viewed(model, learner, key)
    params = unlearning.fisher_forgetting(apply_fn, learner.params, retain=request.retain, key=key, **given)
    return tools.reset_optimizer(learner._replace(params=params))

  return Method(forget=forget)


fisher_forgetting.__doc__ = (unlearning.fisher_forgetting.__doc__ or "") + (
  "\n  Of an objective without a factor (text) the Fisher is sampled. ``variant='auto'`` is the released one where"
  "\n  there are classes, since noise by the paper's formula forgets no class before it destroys the rest; else the"
  "\n  paper's."
)


def tangent(call, every: bool):
  """A factory from ``ntk`` or ``fast_ntk``, keeping a copy of the initial values of the leaves that it moves."""

  def factory(model, spec, **options):
    del spec
    pattern = "" if every else options["leaves"]

    def init(key, learner):
      del key
      return tree.copy(chosen_leaves(learner.params, pattern))

    def forget(key, learner, request, tools):
      given = {"forget": request.forget, "retain": request.retain, "classes": request.classes, **options}
      initial = with_leaves(learner.params, learner.method_state)
      params = call(viewed(model, learner, key), learner.params, initial=initial, key=key, **given)
      return tools.reset_optimizer(learner._replace(params=params))

    return Method(init=init, forget=forget)

  factory.__doc__, factory.__name__ = call.__doc__, call.__name__
  return factory


def modhifi_u(model, spec, *, share, contrast=1.0, search: int = 10, kernels: str = "", batch: int = 64) -> Method:
  readers = "|".join(f"^{re.escape(u.out_kernel)}$" for u in model.units)
  if not (kernels or readers):
    raise UsageError("kernels: the model does not name its hidden units; give a regular expression over kernel paths")

  def forget(key, learner, request, tools):
    inputs = lambda params, some: estimators.layer_inputs(
      model, params, learner.model_state, some.x, model.task_for(some.task)
    )
    given = {"kernels": kernels or readers, "share": share, "contrast": contrast, "batch": batch}
    if spec.objective.classes and search:
      given |= {"search": search, "classes": request.classes}
      given["loss_fn"] = row_loss(spec.objective, viewed(model, learner, key))
    params = unlearning.modhifi_u(inputs, learner.params, forget=request.forget, retain=request.retain, **given)
    return tools.reset_optimizer(learner._replace(params=params))

  return Method(forget=forget)


modhifi_u.__doc__ = (unlearning.modhifi_u.__doc__ or "") + "\n  Without ``kernels``: those that read hidden units."


def head_of(model, params, model_state, batch):
  """``head_fn(params, features) -> logits`` of a model's last layer: the last captured one of the logits' shape."""
  if model.capture is None:
    raise UsageError("model: has no capture, so its head is unknown; use from_linen or a zoo model")
  told = {"task": batch.task} if model.by_task else {}
  logits, calls = model.capture(params, model_state, batch.x, None, **told)
  fits = [c for c in calls.values() if c.output is not None and c.output.shape == logits.shape]
  if not fits:
    raise UsageError("model: no layer gives the logits, so its head is unknown")
  spec = fits[-1].spec
  lacking = sorted({*spec.leaves.values()} - {*tree.paths(params)})
  if lacking:
    raise UsageError(f"model: {lacking[0]} of its head is not among what is trained; name it in model.tuning_trained")

  def head_fn(params, features):
    leaves = {tree.path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    return spec.local({name: leaves[path] for name, path in spec.leaves.items()}, features)

  return head_fn


def streaming(
  model, spec, *, learning_rate, stay_weight, part: str = "head", bound=1.0, steps: int = 500, batch: int = 64
) -> Method:
  def init(key, learner):
    row = jax.ShapeDtypeStruct((1, *spec.input_shape), spec.input_dtype)
    task = model.task_for(jnp.zeros(1, jnp.int32))
    apply = lambda x: model.apply(learner.params, learner.model_state, x, train=False, key=key, task=task, mask=None)
    features = jax.eval_shape(apply, row)[0].features
    if features is None:
      raise UsageError("method.name: 'streaming' needs a model that returns features (Outputs.features is None)")
    return empty_statistics(spec.num_classes, math.prod(features.shape[1:]))

  def end_task(key, learner, task):
    apply_fn = viewed(model, learner, key)
    new = unlearning.feature_statistics(apply_fn, learner.params, task.rows, spec.num_classes, batch=batch)
    once = jax.tree.map(lambda n: jnp.where(task.visit.first, n, jnp.zeros_like(n)), new)
    return learner._replace(method_state=tree.add(learner.method_state, once))

  def forget(key, learner, request, tools):
    head_fn = head_of(model, learner.params, learner.model_state, request.forget.batch(0, 1))
    given = {"statistics": learner.method_state, "stay_weight": stay_weight, "steps": steps, "batch": batch}
    given |= {"part": part, "bound": bound, "classes": request.classes}
    params, statistics = unlearning.streaming(
      viewed(model, learner, key), head_fn, learner.params, forget=request.forget, key=key,
      optimizer=optax.sgd(learning_rate), **given,
    )  # fmt: skip
    return tools.reset_optimizer(learner._replace(params=params, method_state=statistics))

  return Method(init=init, end_task=end_task, forget=forget)


streaming.__doc__ = (unlearning.streaming.__doc__ or "") + (
  "\n  Statistics are taken when a task first ends, under the parameters of then; they are not refreshed."
)


IAU = {
  "learning_rate": Option(1e-2, 0),
  "variant": Option("means", choices=("means", "paper", "released")),
  "search": Option(16, 0),
  "batch": Option(64, 1),
}


def iau(model, spec, *, restricted: bool = False, restriction=0.005, **options) -> Method:
  method = edit(unlearning.iau, options=IAU)(model, spec, **options)

  def gradient_norm(key, params, learner, batch, outputs):
    del outputs

    def apply(key, params, batch):
      told = {"task": model.task_for(batch.task), "mask": batch.weight}
      return model.apply(params, learner.model_state, batch.x, train=True, key=key, **told)

    grads = jax.grad(lambda p: mean_loss(spec.objective, key, apply, p, batch))(params)
    return restriction * sum(losses.safe_norm(g) for g in jax.tree.leaves(grads))

  return method._replace(terms={"gradient_norm": gradient_norm}) if restricted else method


iau.__doc__ = (
  (unlearning.iau.__doc__ or "")
  + """
  ``restricted=True``, of a method that trains itself (``method.name=iau``), is the paper's gradient-restricted
  training:
  ``loss + restriction sum_tensors |d loss / d tensor|_2`` of each batch, as the released code has it (its README: one
  norm of all); 0.005 is the release's weight."""
)
register(
  "iau",
  Entry(
    iau,
    IAU | {"restricted": Option(False), "restriction": Option(0.005, 0, needs={"restricted": (True,)})},
    EDITS._replace(needs=ROW_LOSSES),
    "arXiv 2507.23257",
    exactness="approximate",
  ),
)
approximate(
  "slug",
  unlearning.slug,
  {"first_step": Option(0.1, 0), "search": Option(10, 0), "batch": Option(64, 1), "rows": Option(256, 1)},
  "arXiv 2407.11867",
)
register(
  "fisher_forgetting",
  Entry(
    fisher_forgetting,
    {
      "alpha": Option(1e-6, 0),
      "variant": Option("auto", choices=("auto", "paper", "released")),
      "importance_batch": Option(64, 1),
    },
    Access(forgets=True, retain_data=True, needs=("each",)),
    "Golatkar et al. 2020",
    exactness="approximate",
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
  ("ntk", unlearning.ntk, {"search": Option(10, 0)}),
  ("fast_ntk", unlearning.fast_ntk, {"leaves": Option("norm|bias"), "search": Option(0, 0)}),
):
  register(
    _name,
    Entry(
      tangent(_call, _name == "ntk"),
      {**KERNEL, **_more},
      EDITS,
      "Golatkar et al. 2020" if _name == "ntk" else "arXiv 2312.14923",
      exactness="approximate",
    ),
  )

register(
  "modhifi_u",
  Entry(
    modhifi_u,
    {
      "share": Option(0.05, 0, 1),
      "contrast": Option(1.0, 0),
      "search": Option(10, 0),
      "kernels": Option(""),
      "batch": Option(64, 1),
    },
    EDITS._replace(needs=()),
    "arXiv 2511.19566",
    exactness="approximate",
  ),
)


def steps_of(learning_rate: float, **options):
  """The options of an edit that descends, and its own."""
  return {"learning_rate": Option(learning_rate, 0), "steps": Option(50, 0), "batch": Option(64, 1), **options}


MATCHING = {
  "oracle_steps": Option(200, 0),
  "oracle_learning_rate": Option(0.1, 0),
  "rows": Option(64, 1),
  "weight_decay": Option(0.0, 0),
}
approximate(
  "oracle_matching",
  unlearning.oracle_matching,
  steps_of(5e-4, oracles=Option(10, 1), **MATCHING),
  "arXiv 2410.23232",
  optax.adam,
  needs=OUTPUTS,
)
approximate(
  "datamodel_matching",
  unlearning.datamodel_matching,
  steps_of(
    5e-4,
    oracles=Option(100, 2),
    inclusion=Option(0.5, 0, 1),
    ridge=Option(1.0, 1e-6),
    rescale=Option(True),
    multiplier=Option(1.0, 0),
    **MATCHING,
  ),
  "arXiv 2410.23232",
  optax.adam,
  needs=OUTPUTS,
)
register(
  "streaming",
  Entry(
    streaming,
    steps_of(
      1.0,
      stay_weight=Option(1.0, 0),
      part=Option("head", choices=("head", "all")),
      bound=Option(1.0, 0),
      steps=Option(500, 0),
    ),
    Access(task_boundaries=True, boundary_data=True, forgets=True, forget_data=True),
    "arXiv 2507.15280 (a reconstruction)",
    exactness="approximate",
  ),
)
approximate(
  "group_reweight",
  unlearning.group_reweight,
  steps_of(0.1, steps=Option(200, 0)),
  "arXiv 2503.09330",
  needs=ROW_LOSSES,
)
approximate(
  "miu",
  unlearning.miu,
  steps_of(
    0.1,
    steps=Option(200, 0),
    calibration=Option(1.0, 0),
    num_groups=Option(2, 1),
    hidden=Option(512, 1),
    critic_warmup=Option(100, 0),
    critic_steps=Option(1, 0),
    critic_learning_rate=Option(0.01, 0),
  ),
  "arXiv 2503.09330",
  needs=OUTPUTS,
)
approximate(
  "upcore",
  unlearning.upcore,
  steps_of(
    0.05,
    contamination=Option(0.1, 0, 0.5),
    random_state=Option(42, 0),
    forget_weight=Option(0.05, 0),
    retain_weight=Option(0.95, 0),
    bound=Option(1.0, 0),
  ),
  "arXiv 2502.15082",
  needs=OUTPUTS,
)
