"""MVP: prompts of a pool that rows find by keys and by how often each was taken, with a mask of logits for each."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax import losses
from cljax.core import tree
from cljax.core.method import Method
from cljax.core.types import Access, Spec
from cljax.methods.pretrained import local
from cljax.methods.prompts.tuning import (
  Asked,
  Kept,
  among_labels,
  asked_in,
  blocks_of_own,
  likeness,
  prompted,
  two_kinds,
)
from cljax.methods.registry import Entry, Option, register
from cljax.models import heads
from cljax.models.prompts import places_of
from cljax.objectives.objective import reduced

LEAST = 1e-6  # within the logarithm of the keys' loss, as in the released code


def nearest(keys, asked: Asked):
  """``[B]`` int32: of each query the place j of the least ``(1 - cos(q, K_j)) (n_j + 1)``, n ``asked.kept [M]``."""
  times = (asked.kept + 1).astype(jnp.float32)[None]
  return jnp.argmin((1.0 - likeness(asked.query, keys)) * times, axis=-1).astype(jnp.int32)


def key_loss(keys, asked: Asked, weight):
  """``-log(E / (D + E) + 1e-6)``: D the mean over rows of ``exp((1 - cos(q_i, K_k)) / (n_k + 1))``, k the place of a
  row, and E that of ``mean_j exp((1 - cos(K_k, K_j)) / (n_k + 1))``, k itself among the j; ``weight [B]``."""
  at = nearest(keys, asked)
  times = (asked.kept[at] + 1).astype(jnp.float32)
  near = jnp.take_along_axis(likeness(asked.query, keys), at[:, None], axis=-1)[:, 0]
  own = losses.reduce(jnp.exp((1.0 - near) / times), weight)
  every = losses.reduce(jnp.exp((1.0 - likeness(keys[at], keys)) / times[:, None]).mean(-1), weight)
  return -jnp.log(every / jnp.maximum(own + every, 1.0) + LEAST)  # the sum is 2 at least, and 0 of no rows


def gaps(features, slopes, y):
  """``[B]``: ``1 - cos(g_i, g)`` of the gradients of W's column y_i, of row i's loss and of the batch's.

  ``slopes [B, C]``: the rows' weights times their losses' slopes by ``f W + b``. A row's slope at its own label is
  negative, so that its own gradient points along ``-f_i``.
  """
  of_batch = jnp.matmul(slopes.T, features, precision="highest")
  like = jnp.sum(heads.unit(features) * heads.unit(of_batch)[y], axis=-1)
  return jnp.maximum(1.0 + like, 0.0)  # rounding may leave less, of which a power is NaN


def mvp(
  model, spec: Spec, *, strength, margin, focus, power, pool: int = 10, length: int = 20, general_length: int = 5,
  general_blocks: int = 2, expert_blocks: int = 3,
) -> Method:  # fmt: skip
  """MVP: ``mean_i (1 - focus + focus g_i^power) CE(m_k * (W f_i / c_i + b)) - strength log(E / (D + E) + 1e-6)``,
  ``k = argmin_j (1 - cos(q_i, K_j)) (n_j + 1)``, ``m_k = 2 sigmoid(M_k)``, on a frozen network.

  Prefixes of keys and values: G of ``general_length`` in the first ``general_blocks`` blocks, of all rows, and of the
  pool's k-th, ``[length, D]``, in the next ``expert_blocks``, or as many as there are; q_i is the class token's feature
  without prompts, n_j how many rows have taken the j-th in steps so far. f_i ``[D]`` is the feature with prompts; M
  ``[pool, C]`` begins at -1, where a mask is 0.54 for all labels; 0 is a mask of 1. In a step alone, for it takes the
  label: ``c_i = 1 - cos(W_y, f_i) + margin``, and g_i the :func:`gaps` of the losses without it; neither has a slope.
  CE is over the labels that rows have had. D and E draw a row's key to its query and off the other keys
  (:func:`key_loss`). Prompts and keys are of N(0, 1), the classifier begins at 0. Knows no tasks: borders, such as
  Si-Blurry's, are not seen. Answers: -inf for labels that no row has had; a request that takes a class whole makes it
  one of these again, and prompts, masks and counts know nothing of it. Keeps ``[pool]`` counts and ``[C]`` bools.

  Deviations: each row is weighed by its own g_i, where the released code reduces the losses before it weighs them; a
  row's distances are divided by its own n_k + 1, where that code divides each by every row's; prefixes of projected
  keys and values, where that code's prompts are tokens of a block or go through its projections; no rows are stored,
  which is an option there. Raises UsageError for a model that takes no prompts or has no features, and where no block
  is left for the pool. Spec B2; Moon et al., 2023.
  """
  places = places_of(model, "mvp")
  experts = blocks_of_own(places, general_blocks, expert_blocks)
  width, classes = places.width, spec.num_classes

  def init(key):
    draw = lambda name, *shape: jax.random.normal(tree.fold(key, name), (*shape, width), jnp.float32)
    pair = lambda name, *shape: {part: draw(f"{name}/{part}", *shape) for part in ("keys", "values")}
    own = {**pair("own", pool, len(experts), length), "match": draw("match", pool)}
    own["mask"] = jnp.full((pool, classes), -1.0, jnp.float32)
    return {"general": pair("general", general_blocks, general_length), "own": own}

  def place_of(trained, asked):
    return nearest(trained["own"]["match"], asked)

  def mask_of(trained, asked):
    """``[B, C]``."""
    return 2.0 * jax.nn.sigmoid(trained["own"]["mask"][place_of(trained, asked)].astype(jnp.float32))

  def prompts(trained, asked: Asked):
    return two_kinds(trained["general"], trained["own"], place_of(trained, asked), experts)

  def counted(trained, asked: Asked):
    taken = jax.nn.one_hot(place_of(trained, asked), pool, dtype=jnp.int32)
    return asked.kept + jnp.where(asked.there[:, None], taken, 0).sum(0, dtype=jnp.int32)

  kept = Kept(jnp.zeros(pool, jnp.int32), lambda trained, asked, logits: logits * mask_of(trained, asked), counted)
  network = prompted(model, spec, "mvp", init, prompts, kept)

  def prepare(key, learner, batch):
    del key
    seen = learner.method_state | local.labels(spec, batch)
    mask = jnp.broadcast_to((seen | ~seen.any())[None], (*batch.y.shape, classes))
    batch = batch._replace(class_mask=mask if batch.class_mask is None else mask & batch.class_mask)
    return learner._replace(method_state=seen), batch

  def scaled(key, params, learner, batch, outputs):
    """What makes of the task's loss, which knows neither c nor g, the one above."""
    del key
    f, head = heads.flat(outputs.features), params["linear"]
    mask = mask_of(params["prompts"], asked_in(learner, batch, outputs))
    shown = jnp.where(batch.class_mask, outputs.logits, -jnp.inf)
    slopes = (
      (jax.nn.softmax(shown) - jax.nn.one_hot(batch.y, classes, dtype=jnp.float32)) * mask * batch.weight[:, None]
    )
    apart = jax.lax.stop_gradient(gaps(f, slopes, batch.y))
    weights = heads.unit(head["kernel"], axis=0).T[batch.y]
    away = jax.lax.stop_gradient(1.0 - jnp.sum(weights * heads.unit(f), axis=-1) + margin)
    plain, inside = spec.objective.each(outputs.logits, batch)
    each, _ = spec.objective.each(heads.linear(head, f / away[:, None]) * mask, batch)
    return reduced((1.0 - focus + focus * jnp.power(apart, power)) * each - plain, inside, batch)

  def keys(key, params, learner, batch, outputs):
    del key
    asked = asked_in(learner, batch, outputs)
    return strength * key_loss(params["prompts"]["own"]["match"], asked, batch.weight)

  return among_labels(network, spec)._replace(prepare=prepare, terms={"scaled": scaled, "keys": keys})


register(
  "mvp",
  Entry(
    mvp,
    {
      "strength": Option(1.0, 0),
      "margin": Option(0.5, 0, above=True),
      "focus": Option(0.5, 0, 1),
      "power": Option(2.0, 0),
      "pool": Option(10, 1),
      "length": Option(20, 1),
      "general_length": Option(5, 1),
      "general_blocks": Option(2, 0),
      "expert_blocks": Option(3, 1),
    },
    Access(needs=("classes", "plain_inputs", "each")),
    "Moon et al. 2023",
    network="vit",
  ),
)
