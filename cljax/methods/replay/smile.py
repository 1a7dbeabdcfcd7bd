"""SMILe: replay whose features keep classes, and what is new from what was learned before, apart."""

from __future__ import annotations

import jax.numpy as jnp

from cljax import losses
from cljax.core.method import Method
from cljax.core.types import Spec
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay.buffers import ACCESS, BUFFER, er
from cljax.methods.replay.er_ace import labels_of
from cljax.models import heads

FUNCTIONS = ("facility_location", "graph_cut", "log_determinant")


def smile(
  model, spec: Spec, *, strength, mutual, temperature, balance, function: str = "facility_location", width: int = 32,
  capacity: int, policy: str = "class_balanced", replay_batch: int = 0, insert: str = "once",
) -> Method:  # fmt: skip
  """SMILe: ``CE(current; memory) + strength ((1 - mutual) f(classes) + mutual f({new, base}))``.

  f is a submodular information of the projected features of all rows of the step, replayed ones too
  (:func:`cljax.losses.facility_location`, :func:`~cljax.losses.graph_cut`, :func:`~cljax.losses.log_determinant`; the
  mean over rows): between all classes, and between two sets, the rows of classes that the step's own rows have, and the
  replayed rows of others. While nothing of another class is stored the second is 0. ``balance`` is the graph cut's
  weight of its own class in the first; ``temperature`` of its and facility location's kernel. Features go through a
  network of two layers to ``width`` numbers, which is of training alone. Rows are stored and replayed as in
  :func:`cljax.methods.replay.er`. Spec S4 of additions; Majee, Sharp and Iyer, 2024.

  Deviations: image rows in the place of regions of an object detector; nothing is frozen; the weight is constant, where
  the released code halves it at two fixed steps; log det over the number of rows. Raises UsageError for a model without
  features.
  """
  network = heads.with_projection(model, spec, "smile", width)
  base = er(network, spec, capacity=capacity, policy=policy, replay_batch=replay_batch, insert=insert)

  def information(z, sets, weight, within):
    if function == "log_determinant":
      return losses.log_determinant(z, sets, weight) / jnp.maximum(jnp.sum(weight > 0), 1).astype(jnp.float32)
    if function == "graph_cut":
      return losses.reduce(losses.graph_cut(z, sets, weight, temperature, within), weight)
    return losses.reduce(losses.facility_location(z, sets, weight, temperature), weight)

  def term(key, params, learner, batch, outputs):
    del key, learner
    z, own = heads.projected(params["projection"], outputs.features), slice(0, spec.batch_size)
    new = labels_of(batch.y[own], batch.weight[own], spec.num_classes)[batch.y].astype(jnp.int32)
    total = information(z, batch.y, batch.weight, balance)
    return strength * ((1 - mutual) * total + mutual * information(z, new, batch.weight, 0.0))

  return base._replace(model=network, terms={**base.terms, "smile": term})


register(
  "smile",
  Entry(
    smile,
    {
      "strength": Option(0.5, 0),
      "mutual": Option(0.5, 0, 1),
      "temperature": Option(0.7, 1e-6, needs={"function": ("facility_location", "graph_cut")}),
      "balance": Option(1.0, 0, needs={"function": ("graph_cut",)}),
      "function": Option(FUNCTIONS[0], choices=FUNCTIONS),
      "width": Option(32, 1),
      **BUFFER,
      "policy": BUFFER["policy"]._replace(default="class_balanced"),
    },
    ACCESS._replace(needs=("classes",)),
    "Majee et al. 2024",
  ),
)
