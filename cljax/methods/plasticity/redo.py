"""ReDo: units that are hardly active start anew every so many steps."""

from __future__ import annotations

import jax

from cljax.core import tree
from cljax.core.method import Method
from cljax.core.types import Access, Spec
from cljax.methods.plasticity.recycling import activity_scores, checked_units, recycle
from cljax.methods.registry import Entry, Option, register


def redo(model, spec: Spec, *, tau, every: int = 1000) -> Method:
  """ReDo: each ``every`` steps the hidden units with ``mean|h_i| / mean_k mean|h_k| <= tau`` of their layer start anew.

  Their incoming weights are drawn as the model draws them, bias and outgoing weights are 0, and so are the optimizer's
  moments of all of these; the count of steps in Adam's correction goes on. ``h [B, ..., n]`` are the activations of the
  step's batch, replayed rows too and at all places of a convolution: the score depends on it, and a unit that is silent
  on this batch alone goes too. ``tau=0`` recycles silent units alone, which changes no output of that batch. Needs a
  model that names its units (UsageError without), of which a layer behind a flattened convolution is read channel
  last. Keeps no state. Sokar et al. 2023; spec G1.

  Deviations: activations are those of the step's forward pass, before its update; the paper's are of another batch.
  The released code recycles the wrong outgoing weights behind a flattened convolution (repeat for tile).
  """
  checked_units("redo", jax.eval_shape(model.init, jax.random.key(0))[0], model.units)

  def after_step(key, learner, info):
    hidden, weight = info.outputs.hidden, info.batch.weight

    def renew(learner):
      chosen = [activity_scores(hidden[u.hidden], weight) <= tau for u in model.units]
      fresh, _ = model.init(tree.fold(key, "fresh"))
      params, opt_state = recycle(learner.params, learner.opt_state, fresh, model.units, chosen)
      return learner._replace(params=params, opt_state=opt_state)

    return jax.lax.cond(learner.step % every == 0, renew, lambda same: same, learner)

  def remarks(outlook):
    if outlook.steps < every:
      return [f"method.every: got {every}; the stream has {outlook.steps} steps, so redo recycles no unit"]
    return []

  return Method(after_step=after_step, remarks=remarks)


register(
  "redo",
  Entry(redo, {"tau": Option(0.025, 0), "every": Option(1000, 1)}, Access(needs=()), "Sokar et al. 2023"),
)
