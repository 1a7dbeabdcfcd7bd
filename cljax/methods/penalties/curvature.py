"""K-FAC EWC: a penalty with a Kronecker-factored precision of old tasks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from cljax import estimators, regularizers
from cljax.core import layers, tree
from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Access, Spec
from cljax.methods.heads import projected
from cljax.methods.penalties import pulls
from cljax.methods.registry import Entry, Option, register

EXACT = 20  # of so many classes, whose backward passes are made one by one; labels are sampled above it
KINDS = {
  "fisher": Option("auto", choices=("auto", "exact", "sampled", "empirical")),
  "fisher_batch_size": Option(64, 1),
}
MERGE = {"merge": Option("kl", choices=("kl", "additive"))}


def kind_of(spec: Spec, kind: str) -> str:
  """'auto': exact up to 20 classes, and where there are none and the objective has a factor; else sampled."""
  if kind == "auto" and spec.objective.classes and spec.num_classes > EXACT:
    return "sampled"
  return pulls.kind_of(spec, kind)


def factors(key, model, spec: Spec, learner, rows, kind: str, batch_size: int):
  """The Kronecker factors of the learner's own objective."""
  return estimators.kronecker_factors(
    model, learner.params, learner.model_state, rows, kind=kind, key=fold(key, "fisher"), batch_size=batch_size,
    learned=None if spec.objective.classes else spec.objective,
  )  # fmt: skip


def kfac_ewc(
  model, spec: Spec, *, strength, merge: str = "kl", fisher: str = "auto", fisher_batch_size: int = 64
) -> Method:
  """K-FAC EWC: ``strength/2 sum_l tr(D^T L D R)``, ``D`` the way of a layer's kernel and bias from the last boundary.

  ``L (x) R`` stands for ``sum_t n_t A_t (x) G_t`` over finished tasks t of n_t rows, ``A = E[a a^T]`` of layer inputs
  and ``G = E[g g^T]`` of output gradients: an online Laplace approximation's precision, of which ``strength = 1 / n``
  is the exact weight beside a mean loss over n rows. ``merge='kl'``: the pair nearest to the sum by KL, so that
  T equal tasks weigh T; ``'additive'`` adds the factors, whose product then grows as T^2. Layers that have no factors
  (norms, embeddings) have the diagonal Fisher, ``n_t F_t``, of :func:`cljax.methods.penalties.pulls.online_ewc`.
  ``fisher``: 'auto' is exact up to 20 classes and sampled above.

  SGD diverges where ``rate * strength * |L| |R| > 2``. Needs a model with ``capture``. Ritter, Botev and Barber 2018
  (the weight and the merge are UNVERIFIED there); spec S11.1.
  """
  kind = kind_of(spec, fisher)
  skipped, _ = projected(model, spec, "", parts=True)
  params = jax.eval_shape(model.init, jax.random.key(0))[0]
  held = {n for l in layers.found("kfac_ewc", params, skipped, True, None) for n in (l.kernel, l.bias)}
  rest = tree.map_named(lambda n, x: n not in held, params)
  penalty = regularizers.kfac_ewc(strength, skip=skipped)
  loose = any(jax.tree.leaves(rest))
  if loose:
    penalty = optax.chain(penalty, optax.masked(regularizers.online_ewc(strength, 1.0, name="kfac_rest"), rest))

  def end_task(key, learner, task):
    rows = task.count.astype(jnp.float32)
    found = factors(key, model, spec, learner, task.rows, kind, fisher_batch_size)
    state = regularizers.kfac_consolidate(learner.opt_state.penalty, learner.params, found, rows, merge)
    if loose:
      diagonal = pulls.fisher(key, model, spec, learner, task.rows, kind, fisher_batch_size)
      given = {"importance": tree.scale(rows, diagonal), "name": "kfac_rest"}
      state = regularizers.consolidate(state, learner.params, **given)
    return learner._replace(opt_state=learner.opt_state._replace(penalty=state))

  return Method(end_task=end_task, penalty=penalty)


PASS = Access(task_boundaries=True, boundary_data=True, needs=("each", "plain_inputs"))
register(
  "kfac_ewc",
  Entry(kfac_ewc, {"strength": Option(0.001, 0), **MERGE, **KINDS}, PASS, "Ritter et al. 2018"),
)
