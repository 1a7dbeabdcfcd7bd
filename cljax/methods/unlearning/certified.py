"""Certified removal as a learner: a convex head on features that nothing trains."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cljax import unlearning
from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Access, Spec, UsageError
from cljax.methods.registry import Entry, Option, register


class CertifiedState(NamedTuple):
  """Features of all rows ``[M, D]`` with label, id and task; the head; each head's noise, and what its certificate has
  spent since it was trained."""

  features: Any
  y: Any
  id: Any
  task: Any
  weight: Any  # [M]: 1 where a row is there
  filled: Any  # int32
  head: Any  # [C, D]
  noise: Any  # [C, D]
  spent: Any  # [C]
  trainings: Any  # int32, with noise drawn anew each time
  removals: Any  # int32, answered by a step alone


def certified_removal(
  model,
  spec: Spec,
  *,
  strength,
  sigma,
  epsilon,
  delta,
  loss: str = "logistic",
  constant: str = "tight",
  batch: int = 64,
) -> Method:
  """Certified removal: one convex head a class against the rest, ``sum_i l(h . x_i) + strength/2 n |h|^2 + b . h``,
  ``b ~ N(0, sigma^2)``; a request is a Newton step while its bound stays within the budget.

  The network gives features at its initial parameters, which no step moves: the certificate is of the head alone, and
  holds for features that no row of the data has made (random ones, or parameters of a public model in ``model.init``).
  ``x``: :func:`cljax.unlearning.unit_features`. When a task ends, heads of all classes are trained on all rows so far
  with noise drawn anew. A request: ``h <- h + H^-1 sum [strength h + grad l]`` (:func:`cljax.unlearning.remove_rows`);
  its residual adds to what is spent, the gradient that training left included; where that passes ``sigma e / sqrt(2
  ln(1.5 / d))`` for any class, with ``e, d`` the C-th parts of ``epsilon, delta``, all heads are trained anew with
  fresh noise instead. ``constant='released'`` counts residuals with 1/4 in the place of ``1 / (6 sqrt 3)``.

  It keeps the features of every row (of deleted ones zeros): memory grows with the data. Bounds are computed in
  float32. Raises UsageError for a model without features, or with statistics of batches, which rows would move. Guo et
  al., 2020 (theorem from memory, UNVERIFIED); spec S12.1.
  """
  room = spec.total_rows + spec.task_rows

  def features_of(learner, key, x, row_task, weight):
    given = {"train": False, "key": fold(key, "model"), "task": model.task_for(row_task), "mask": weight}
    found = model.apply(learner.params, learner.model_state, x, **given)[0].features
    return unlearning.unit_features(found)

  def init(key, learner):
    if jax.tree.leaves(learner.model_state):
      raise UsageError(
        "model: certified_removal needs one without BatchNorm, whose statistics hold the rows, or tuning"
      )
    x = jax.ShapeDtypeStruct((1, *spec.input_shape), spec.input_dtype)
    told = model.task_for(jnp.zeros(1, jnp.int32))
    look = lambda x: model.apply(learner.params, {}, x, train=False, key=key, task=told, mask=None)[0].features
    found = jax.eval_shape(look, x)
    if found is None:
      raise UsageError("method.name: 'certified_removal' needs a model that returns features (it returns none)")
    width = found.size + 1
    whole = lambda kind=jnp.int32: jnp.zeros(room, kind)
    heads = lambda: jnp.zeros((spec.num_classes, width), jnp.float32)
    return CertifiedState(
      jnp.zeros((room, width), jnp.float32), whole(), whole() - 1, whole(), whole(jnp.float32),
      jnp.zeros((), jnp.int32), heads(), heads(), jnp.zeros(spec.num_classes, jnp.float32),
      jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32),
    )  # fmt: skip

  def targets(state):
    return 2.0 * jax.nn.one_hot(state.y, spec.num_classes, dtype=jnp.float32).T - 1.0

  def trained(key, state):
    noise = sigma * jax.random.normal(fold(key, "noise"), state.noise.shape, jnp.float32)
    fitted = unlearning.fit_head(state.features, targets(state), state.weight, noise, strength, loss)
    return state._replace(head=fitted.head, noise=noise, spent=fitted.residual, trainings=state.trainings + 1)

  def end_task(key, learner, task):
    state, rows = learner.method_state, task.rows
    size = spec.task_rows
    blocks = -(-size // batch)

    def block(i):
      some = rows.batch(i * batch, batch)
      here = (some.weight > 0).astype(jnp.float32)
      return features_of(learner, key, some.x, some.task, here) * here[:, None], some.y, some.id, some.task, here

    read = [a.reshape(blocks * batch, *a.shape[2:])[:size] for a in jax.lax.map(block, jnp.arange(blocks))]

    def stored(state):
      kept = (state.features, state.y, state.id, state.task, state.weight)
      put = lambda a, new: jax.lax.dynamic_update_slice_in_dim(a, new.astype(a.dtype), state.filled, 0)
      new = map(put, kept, read)
      count = rows.count.astype(jnp.int32)
      names = ("features", "y", "id", "task", "weight")
      return state._replace(filled=state.filled + count, **dict(zip(names, new, strict=True)))

    state = jax.lax.cond(task.visit.first, stored, lambda state: state, state)
    return learner._replace(method_state=trained(key, state))

  def forget(key, learner, request, tools):
    del tools
    state = learner.method_state
    gone = request.names(state.id, state.task) & (state.weight > 0)
    given = (state.features, targets(state), state.weight, gone, strength, loss, constant)
    step = unlearning.remove_rows(state.head, *given)
    spent = state.spent + step.residual
    erase = lambda a, nothing: jnp.where(gone.reshape(-1, *(1,) * (a.ndim - 1)), nothing, a)
    left = state._replace(
      features=erase(state.features, 0.0), y=erase(state.y, 0), id=erase(state.id, -1), task=erase(state.task, 0),
      weight=erase(state.weight, 0.0),
    )  # fmt: skip
    within = (spent <= unlearning.certified_budget(sigma, epsilon, delta, spec.num_classes)).all()
    stepped = left._replace(head=step.head, spent=spent, removals=state.removals + 1)
    new = jax.lax.cond(within, lambda: stepped, lambda: trained(key, left))
    return learner._replace(method_state=new)

  def predict(key, learner, x, task):
    size = jax.tree.leaves(x)[0].shape[0]
    told = jnp.broadcast_to(jnp.asarray(task, jnp.int32), (size,)) if model.by_task else jnp.zeros(size, jnp.int32)
    return features_of(learner, key, x, told, None) @ learner.method_state.head.T

  return Method(init=init, end_task=end_task, forget=forget, predict=predict, finalize=optax.set_to_zero())


register(
  "certified_removal",
  Entry(
    certified_removal,
    {
      "strength": Option(1e-3, 0, above=True),
      "sigma": Option(1.0, 0, above=True),
      "epsilon": Option(1.0, 0, above=True),
      "delta": Option(1e-4, 0, 1, above=True),
      "loss": Option("logistic", choices=("logistic", "squared")),
      "constant": Option("tight", choices=("tight", "released")),
      "batch": Option(64, 1),
    },
    Access(task_boundaries=True, boundary_data=True, forgets=True, needs=("classes", "plain_inputs")),
    "Guo et al. 2020",
    exactness="certified",
  ),
)
