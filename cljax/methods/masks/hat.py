"""HAT: learned gates on units for each task, which also say how far weights may move."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax.core import tree
from cljax.core.method import Method
from cljax.core.types import Access, Spec
from cljax.methods.masks.gates import gated, layers_of, sizes
from cljax.methods.registry import Entry, Option, register
from cljax.methods.told import TOLD, task_at_test
from cljax.models import isolated

STEEPEST, MOST = 50.0, 6.0  # of |s e|, up to which the slope is compensated; of |e|


class Attention(NamedTuple):
  """What the network of :func:`hat` keeps."""

  above: Any  # {layer: [n]}: the largest gate of each unit in finished tasks
  scale: Any  # float32: s of the current step


class Batches(NamedTuple):
  """Where an epoch stands."""

  step: Any  # int32: the place of the step in its epoch, from 0
  steps: Any  # int32: steps in an epoch


@jax.custom_jvp
def gate(e, scale, steepest):
  """``sigmoid(scale e)`` with the compensated slope, which does not depend on the scale: ``steepest sigmoid'(e)``.

  It is ``steepest / scale (cosh(c) + 1) / (cosh(e) + 1)`` times that of the gate, c being ``scale e`` within -+ 50;
  beyond it falls as the gate's does."""
  del steepest
  return jax.nn.sigmoid(scale * e)


@gate.defjvp
def _gate_jvp(primals, tangents):
  e, scale, steepest = primals
  size = jnp.abs(scale * e)
  bound = jnp.minimum(size, STEEPEST)
  # (cosh c + 1) / (cosh x + 1), which neither over- nor underflows
  left = jnp.exp(bound - size) * jnp.square((1 + jnp.exp(-bound)) / (1 + jnp.exp(-size)))
  return gate(*primals), steepest * left / (2 * (jnp.cosh(e) + 1)) * tangents[0]


def scale_at(step, steps, steepest):
  """``1/smax + (smax - 1/smax) i/(n - 1)`` for step i of n, from 0; smax where n is 1."""
  part = step.astype(jnp.float32) / jnp.maximum(steps - 1, 1).astype(jnp.float32)
  return 1 / steepest + (steepest - 1 / steepest) * jnp.where(steps > 1, part, 1.0)


def hat(model, spec: Spec, *, strength, steepest, binary: bool = True, inference: str = "told") -> Method:
  """HAT: unit i answers ``a_i h_i``, ``a = sigmoid(s e_t)``; ``u_ij <- (1 - min(A_j, A_i)) u_ij``, A the max of old a.

  e_t ``[n]`` of each layer is learned for the task, from N(0, 1), within -+ 6; s goes in each epoch from ``1/smax`` to
  ``smax = steepest``, which is s at test, and the slope of e is compensated so that it does not depend on s. The loss
  gets ``strength sum a (1 - A) / sum (1 - A)``, which asks for few units that no finished task has. What is scaled is
  the update, behind momentum, weight decay and Adam's quotient, which would undo a scaled gradient; of plain SGD it is
  the same. ``binary`` makes gates of finished tasks and at test 1 above one half and else 0, so that old answers
  stay to the bit; False is the published rule, exact up to the softness of the gates. Leaves that belong to no unit
  (the classifier, BatchNorm) are of each task, as e is; those of other tasks, and e of a task that comes back, are
  held.

  The model's units must form a chain (mlp, cnn); else UsageError. ``inference`` is of
  :func:`cljax.methods.told.task_at_test`. Deviations: the published float32 code has no slope from ``|s e|`` about 17
  on, where ``1 - a`` rounds to 0, here up to 50, which the paper names; its clipping of gradients is the optimizer's to
  do. Spec D2; Serra et al., 2018.
  """
  layers = layers_of(model, "hat")
  count, named = sizes(model, layers), tree.paths(jax.eval_shape(model.init, jax.random.key(0))[0])
  reads: dict[str, str] = {u.in_kernel: str(int(i) - 1) for i, u in layers.items() if i != "0"}
  writes = {name: i for i, u in layers.items() for name in (u.in_kernel, u.in_bias)}
  own = frozenset(n for n in named if n not in writes)

  def begin(key, weights):
    draw = lambda i, n: jax.random.normal(tree.fold(key, i), (spec.num_tasks, n), jnp.float32)
    params = {
      "network": isolated.copied(weights, own, spec.num_tasks),
      "embeddings": {i: draw(i, n) for i, n in count.items()},
    }
    return params, Attention({i: jnp.zeros(n, jnp.float32) for i, n in count.items()}, jnp.float32(1))

  def gates(params, kept, slot, train):
    e = {i: a[slot] for i, a in params["embeddings"].items()}
    soft = {i: gate(a, kept.scale if train else jnp.asarray(steepest, jnp.float32), steepest) for i, a in e.items()}
    return {i: (a > 0.5).astype(a.dtype) for i, a in soft.items()} if binary and not train else soft

  def weights(params, kept, slot, train):
    picked = tree.map_named(lambda n, a: a[slot] if n in own else a, params["network"])
    return gated(picked, layers, gates(params, kept, slot, train))

  def share(params, above, slot, first):
    """What part of each update is made."""

    def one(name, w):
      if name in own:
        return isolated.copy_of(slot, w).astype(jnp.float32)
      both = above[writes[name]]
      if name in reads:
        both = jnp.minimum(both[None], above[reads[name]][:, None])
      return jnp.broadcast_to(1 - both, w.shape)

    e = jax.tree.map(lambda a: (isolated.copy_of(slot, a) & first).astype(jnp.float32), params["embeddings"])
    return {"network": tree.map_named(one, params["network"]), "embeddings": e}

  def at(learner, batches):
    kept = learner.model_state.kept._replace(scale=scale_at(batches.step, batches.steps, steepest))
    return learner._replace(model_state=learner.model_state._replace(kept=kept), method_state=batches)

  def start_task(key, learner, task):
    del key
    slot, state = isolated.opened(learner.model_state, task.id)
    steps = (task.count + spec.batch_size - 1) // spec.batch_size
    held = isolated.held(learner.opt_state, share(learner.params, state.kept.above, slot, task.visit.first))
    return at(learner._replace(model_state=state, opt_state=held), Batches(jnp.int32(0), steps.astype(jnp.int32)))

  def few(key, params, learner, batch, outputs):
    del key, outputs
    state = learner.model_state
    now = gates(params, state.kept, isolated.place_of(state.slots, batch.visit.task), True)
    free = {i: 1 - a for i, a in state.kept.above.items()}
    used = sum(jnp.sum(now[i] * free[i]) for i in now)
    left = jnp.asarray(sum(jnp.sum(f) for f in free.values()))
    return strength * used / jnp.where(left > 0, left, 1.0)

  def after_step(key, learner, info):
    del key, info
    e = jax.tree.map(lambda a: jnp.clip(a, -MOST, MOST), learner.params["embeddings"])
    batches = learner.method_state
    batches = batches._replace(step=jnp.where(batches.step + 1 < batches.steps, batches.step + 1, 0))
    return at(learner._replace(params={**learner.params, "embeddings": e}), batches)

  def end_task(key, learner, task):
    del key
    state = learner.model_state
    now = gates(learner.params, state.kept, isolated.place_of(state.slots, task.id), False)
    kept = state.kept._replace(above=jax.tree.map(jnp.maximum, state.kept.above, now))
    return learner._replace(model_state=state._replace(kept=kept))

  network = isolated.per_task(model, spec.num_tasks, begin, weights)
  return Method(
    model=network,
    init=lambda key, learner: Batches(jnp.int32(0), jnp.int32(1)),
    start_task=start_task,
    terms={"few": few},
    finalize=isolated.hold(jnp.float32),
    after_step=after_step,
    end_task=end_task,
    **task_at_test(network, spec, inference),
  )


register(
  "hat",
  Entry(
    hat,
    {
      "strength": Option(0.75, 0),
      "steepest": Option(400.0, 1),
      "binary": Option(True),
      **TOLD,
    },
    Access(task_boundaries=True, task_id_at_test=True),
    "Serra et al. 2018",
  ),
)
