"""Methods that hold or edit weights by their place in the network: freezing, LiNeS, heterogeneous model averaging."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from cljax import edits
from cljax.core import rows as picking
from cljax.core import tree
from cljax.core.method import Method
from cljax.core.types import Access, Spec, UsageError
from cljax.methods.registry import Entry, Option, register
from cljax.objectives.objective import mean_loss

BEGIN = {"begin_task": Option(1, 0)}


def listed(text: str) -> tuple[str, ...]:
  """The patterns of a comma-separated option."""
  return tuple(p.strip() for p in text.split(",") if p.strip())


def layers(model, owner: str, option: str) -> tuple[str, ...]:
  """The paths of a model's layers, shallowest first, the head last, from ``model.units``."""
  if not model.units:
    raise UsageError(f"method.{option}: the model names no units, so {owner} cannot tell its layers; list their paths")
  kernels = [u.in_kernel for u in model.units] + [model.units[-1].out_kernel]
  return tuple(dict.fromkeys(k.rpartition("/")[0] for k in kernels))


def freeze(model, spec, *, patterns: str = "", begin_task: int = 1) -> Method:
  """Once ``begin_task`` other tasks were met, the matching parameters stay as they are, to the bit.

  ``patterns``: comma-separated paths or globs, such as ``embed,layers/0``; empty: the first layer of ``model.units``.
  BatchNorm's running statistics are no parameters and go on. Spec 8.4; Zheng et al., 2025 (Spurious Forgetting).
  """
  del spec
  chosen = listed(patterns) or layers(model, "freeze", "patterns")[:1]

  def update(updates, state, params=None, *, visit, **extra):
    del extra
    return edits.freeze(chosen, active=visit.others >= begin_task).update(updates, state, params)

  return Method(finalize=optax.GradientTransformationExtraArgs(edits.freeze(chosen).init, update))


def edited(edit, begin_task: int) -> Method:
  """At the end of each task before which ``begin_task`` others were met, ``theta <- edit(key, learner, task, theta
  before the task)``."""

  def end_task(key, learner, task):
    new = edit(key, learner, task, learner.method_state)
    begun = task.visit.others >= begin_task
    params = jax.tree.map(lambda n, now: jnp.where(begun, n.astype(now.dtype), now), new, learner.params)
    return learner._replace(params=params, method_state=tree.copy(params))

  def after_forget(learner, before):
    return learner._replace(method_state=tree.follow(learner.method_state, before, learner.params))

  return Method(init=lambda key, learner: tree.copy(learner.params), end_task=end_task, after_forget=after_forget)


def lines(model, spec, *, alpha, blocks: str = "", begin_task: int = 1) -> Method:
  """LiNeS at the end of a task: the change of block l since its start is scaled by ``alpha + (1 - alpha) l / (L - 1)``.

  ``blocks``: comma-separated paths, shallowest first, what is outside gets ``alpha``; empty: the layers of
  ``model.units`` and, as the last, the head, which here learns with the task (the paper's is frozen). ``begin_task`` 0
  edits after the first task too, for a pre-trained model. ``alpha=1`` edits nothing; the paper selects it on held-out
  data. Spec 8.5; Wang et al., 2025.
  """
  del spec
  chosen = listed(blocks) or layers(model, "lines", "blocks")
  return edited(
    lambda key, learner, task, before: edits.lines(before, learner.params, chosen, alpha, 1 - alpha), begin_task
  )


def heterogeneous_averaging(
  model, spec: Spec, *, ratio, learning_rate, steps: int = 20, samples: int = 64, blocks: str = "", begin_task: int = 1
) -> Method:
  """At the end of a task ``theta^k <- r_k theta^k + (1 - r_k) theta_before^k`` in block k, ``mean_k r_k = ratio``.

  The ratios, in [0, 1], ascend the likelihood of ``samples`` rows of the task by ``steps`` projected gradient steps
  (the paper's reward is the likelihood of what the tuned model generates; here labels are at hand). They weigh the
  *tuned* weights, as the paper's equation does. ``blocks`` and ``begin_task`` as in :func:`lines`; the paper has three
  blocks and ``ratio`` 0.2. ``ratio=1`` edits nothing. Spec 8.6; Lin et al., 2024.
  """
  chosen = listed(blocks) or layers(model, "heterogeneous_averaging", "blocks")

  def edit(key, learner, task, before):
    batch = picking.sample(tree.fold(key, "rows"), task.rows, samples)
    mix = lambda ratios: edits.heterogeneous_averaging(before, learner.params, chosen, ratios)

    def loss(ratios):
      def apply(key, params, batch):
        told = model.task_for(batch.task)
        return model.apply(params, learner.model_state, batch.x, train=False, key=key, task=told, mask=None)

      return mean_loss(spec.objective, tree.fold(key, "loss"), apply, mix(ratios), batch)

    def ascend(_, ratios):
      return edits.project_ratios(ratios - learning_rate * jax.grad(loss)(ratios), ratio)

    ratios = jax.lax.fori_loop(0, steps, ascend, jnp.full(len(chosen), ratio, jnp.float32))
    return mix(jnp.where(ratio == 1, 1.0, ratios))

  return edited(edit, begin_task)


register(
  "freeze",
  Entry(
    freeze,
    {"patterns": Option(""), **BEGIN},
    Access(task_boundaries=True, needs=()),
    "Zheng et al. 2025",
  ),
)
register(
  "lines",
  Entry(
    lines,
    {"alpha": Option(0.5, 0, 1), "blocks": Option(""), **BEGIN},
    Access(task_boundaries=True, needs=()),
    "Wang et al. 2025",
  ),
)
register(
  "heterogeneous_averaging",
  Entry(
    heterogeneous_averaging,
    {
      "ratio": Option(0.5, 0, 1),
      "learning_rate": Option(0.1, 0),
      "steps": Option(20, 0),
      "samples": Option(64, 1),
      "blocks": Option(""),
      **BEGIN,
    },
    Access(task_boundaries=True, boundary_data=True, needs=()),
    "Lin et al. 2024",
  ),
)
