"""Shrink and perturb: what was learned is made smaller, and noise is added, before the next task or at each step."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax.core import layers, tree
from cljax.core.dtypes import wide
from cljax.core.method import Method
from cljax.core.types import Access, Spec
from cljax.methods.registry import Entry, Option, register


def shrunk(key, params, names, shrink, noise):
  """``shrink theta + noise xi``, ``xi ~ N(0, 1)`` by each leaf's name, of the leaves ``names``; others as they are."""

  def one(name, p):
    if name not in names:
      return p
    drawn = jax.random.normal(tree.fold(key, name), p.shape, wide(p.dtype))
    return (shrink * p.astype(drawn.dtype) + noise * drawn).astype(p.dtype)

  return tree.map_named(one, params)


def shrink_perturb(model, spec: Spec, *, shrink, noise, when: str = "task") -> Method:
  """Shrink and perturb: ``theta <- shrink theta + xi``, ``xi ~ N(0, noise^2)``, of kernels and their biases.

  ``when='task'``: where a task begins and another was met before, once; 'step': behind each step, which is weight decay
  and noise beside it (Dohare et al.): of both far smaller numbers are meant then, such as 0.9999 and 1e-4. Scales and
  biases of norms, and BatchNorm's statistics, are no part of it: a norm undoes what its layer is shrunk by, and would
  not be itself. The optimizer's moments stay. ``shrink=1``, ``noise=0`` is plain training. Keeps no state. Errors:
  complex parameters, an Equinox module, a model without kernels. Ash and Adams 2020; spec G2.
  """
  del spec
  params = jax.eval_shape(model.init, jax.random.key(0))[0]
  found = layers.found("shrink_perturb", params, None, True, None)
  names = {n for layer in found for n in (layer.kernel, layer.bias) if n is not None}

  def start_task(key, learner, task):
    new = shrunk(key, learner.params, names, shrink, noise)
    again = task.visit.met.any()
    return learner._replace(params=jax.tree.map(lambda n, p: jnp.where(again, n, p), new, learner.params))

  def after_step(key, learner, info):
    del info
    return learner._replace(params=shrunk(key, learner.params, names, shrink, noise))

  return Method(start_task=start_task) if when == "task" else Method(after_step=after_step)


register(
  "shrink_perturb",
  Entry(
    shrink_perturb,
    {"shrink": Option(0.8, 0, 1), "noise": Option(0.01, 0), "when": Option("task", choices=("task", "step"))},
    Access(task_boundaries=True, needs=()),
    "Ash and Adams 2020",
  ),
)
