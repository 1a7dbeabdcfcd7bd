"""Incremental rank updates: each task adds columns to the factors of every layer and selects among all there are."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from cljax.core import tree
from cljax.core.method import Method
from cljax.core.types import Access, Spec
from cljax.methods import heads
from cljax.methods.registry import Entry, Option, register
from cljax.methods.told import TOLD, task_at_test
from cljax.models import isolated


def opening(tasks: int, first: int, more: int):
  """``[R]`` int: the place of the task that adds each column: ``first`` of them the first, ``more`` each later one."""
  return np.repeat(np.arange(tasks), [first] + [more] * (tasks - 1))


def orthonormal(key, size: int, columns: int):
  """``[size, columns]`` with orthonormal columns, or, where there are more of these than rows, orthonormal rows."""
  wide = columns > size
  q, _ = jnp.linalg.qr(jax.random.normal(key, (columns, size) if wide else (size, columns), jnp.float32))
  return q.T if wide else q


def incremental_rank(
  model, spec: Spec, *, first: int = 11, more: int = 1, inference: str = "told"
) -> Method:  # fmt: skip
  """Incremental rank updates: ``W_t = U_{1:r_t} diag(s_t) V_{1:r_t}^T``, ``r_t = first + more (t - 1)``.

  U ``[d_in, R]`` and V^T ``[R, d_out]`` of each kernel begin with orthonormal columns and rows. The first task learns
  ``first`` of them; each later one adds ``more``, learns these, and its own selector s_t ``[R]`` over all that there
  are, which begins at 1 for its own and at 0 for old ones. Old columns stand, whatever momentum and weight decay the
  optimizer has, so old answers stay to the bit. Each task has biases, a classifier and BatchNorm of its own; one that
  comes back trains these and s_t. A later task's parameters are ``(d_in + d_out) more + r_t`` a kernel. Singular values
  begin at 1, not at those of the model's initial weights, whose kernels take no part. ``inference`` is of
  :func:`cljax.methods.told.task_at_test`.

  Deviations: the loss is the objective's, not the mean square of the softmax; nothing keeps new columns orthogonal to
  old ones behind the start, as in the released code. Spec B11; Hyder et al., 2022.
  """
  named = jax.eval_shape(model.init, jax.random.key(0))[0]
  kernels = isolated.kernels_of(named, heads.classifier(model, spec))
  own = frozenset(n for n in tree.paths(named) if n not in kernels)
  opens = opening(spec.num_tasks, first, more)
  rank = len(opens)
  where = jnp.asarray(opens, jnp.int32)

  def begin(key, weights):
    left, right, select = {}, {}, {}
    for name, w in tree.by_path(weights).items():
      if name in kernels:
        left[name] = orthonormal(tree.fold(key, f"{name}/left"), w.size // w.shape[-1], rank)
        right[name] = orthonormal(tree.fold(key, f"{name}/right"), w.shape[-1], rank).T
        select[name] = (where[None] == jnp.arange(spec.num_tasks)[:, None]).astype(jnp.float32)
    each = {n: jnp.repeat(a[None], spec.num_tasks, axis=0) for n, a in tree.by_path(weights).items() if n in own}
    return {"left": left, "right": right, "select": select, "own": each}, ()

  def weights(params, kept, slot, train):
    del kept, train
    made = []
    for name, shape in tree.by_path(named).items():
      if name in own:
        made.append(params["own"][name][slot])
        continue
      s = jnp.where(where <= slot, params["select"][name][slot], 0.0)
      w = (params["left"][name] * s[None]) @ params["right"][name]
      made.append(w.reshape(shape.shape).astype(shape.dtype))
    return jax.tree.unflatten(jax.tree.structure(named), made)

  def start_task(key, learner, task):
    del key
    slot, state = isolated.opened(learner.model_state, task.id)
    new = (where == slot) & task.visit.first
    params = learner.params
    may = {
      "left": {n: jnp.broadcast_to(new[None], a.shape) for n, a in params["left"].items()},
      "right": {n: jnp.broadcast_to(new[:, None], a.shape) for n, a in params["right"].items()},
      "select": {n: isolated.copy_of(slot, a) for n, a in params["select"].items()},
      "own": {n: isolated.copy_of(slot, a) for n, a in params["own"].items()},
    }
    return learner._replace(model_state=state, opt_state=isolated.held(learner.opt_state, may))

  network = isolated.per_task(model, spec.num_tasks, begin, weights)
  return Method(
    model=network, start_task=start_task, finalize=isolated.hold(), **task_at_test(network, spec, inference)
  )


register(
  "incremental_rank",
  Entry(
    incremental_rank,
    {"first": Option(11, 1), "more": Option(1, 1), **TOLD},
    Access(task_boundaries=True, task_id_at_test=True),
    "Hyder et al. 2022",
  ),
)
