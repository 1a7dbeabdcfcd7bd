"""XdG: for each task a fixed random part of the units is silent."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax.core import tree
from cljax.core.method import Method
from cljax.core.types import Access, Spec, UsageError
from cljax.methods.masks.gates import gated, layers_of, sizes
from cljax.methods.registry import Entry, Option, register
from cljax.methods.told import TOLD, task_at_test
from cljax.models import isolated
from cljax.models.masks import floor_of_share


def silenced(key, tasks: int, count: int, share):
  """``[tasks, count]`` bool: of each task ``floor(share count)`` units, drawn by the key and the task's place."""
  drawn = jax.vmap(lambda t: jax.random.permutation(jax.random.fold_in(key, t), count))(jnp.arange(tasks))
  return drawn < jnp.asarray(floor_of_share(jnp.asarray(share, jnp.float32), count), drawn.dtype)


def xdg(model, spec: Spec, *, share, inference: str = "told") -> Method:
  """XdG: for rows of task t the units in a random set G_t answer 0, ``h_i [i not in G_t]``, in training and at test.

  In each dense hidden layer ``floor(share n)`` of the n units, the same for the seed and the place of the task among
  those met; nothing is scaled up for it, and convolutions are not gated. Parameters are the model's own, so that
  penalties stand beside it: the paper's results are those with one (``compose(xdg=..., si=...)``). Alone it protects
  no weight that two tasks share, which two tasks' units do with share ``(1 - share)^2``. BatchNorm has statistics of
  each task. ``share`` 0 is plain training. ``inference`` is of :func:`cljax.methods.told.task_at_test`.

  Raises UsageError for a model whose units do not form a chain, or with none in a dense layer. Spec D5; Masse et al.,
  2018.
  """
  layers = layers_of(model, "xdg")
  named = tree.by_path(jax.eval_shape(model.init, jax.random.key(0))[0])
  layers = {i: u for i, u in layers.items() if named[u.in_kernel].ndim == 2}
  if not layers:
    raise UsageError("method.name: 'xdg' gates dense hidden layers, of which this model has none; use the zoo's mlp")
  count = sizes(model, layers)

  def begin(key, weights):
    return weights, {i: silenced(tree.fold(key, i), spec.num_tasks, n, share) for i, n in count.items()}

  def weights(params, silent, slot, train):
    del train
    return gated(params, layers, {i: ~s[slot] for i, s in silent.items()})

  def start_task(key, learner, task):
    del key
    return learner._replace(model_state=isolated.opened(learner.model_state, task.id)[1])

  network = isolated.per_task(model, spec.num_tasks, begin, weights)
  return Method(model=network, start_task=start_task, **task_at_test(network, spec, inference))


register(
  "xdg",
  Entry(
    xdg,
    {"share": Option(0.8, 0, 1, below=True), **TOLD},
    Access(task_boundaries=True, task_id_at_test=True),
    "Masse et al. 2018",
  ),
)
