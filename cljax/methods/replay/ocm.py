"""OCM: turned pictures are contrasted among new rows, among stored ones, and with what the last network says."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from cljax import losses
from cljax.core import tree
from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Spec, UsageError
from cljax.methods import views
from cljax.methods.distillation.outputs import Teacher
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay import exemplars as sets
from cljax.methods.replay.buffers import (
  ACCESS,
  BUFFER,
  Replay,
  append,
  drawn,
  example_row,
  insert_pending,
  make_memory,
  offered,
  rows_of,
  scrub_memory,
  start,
)
from cljax.models import heads
from cljax.objectives.rows import of_terms_alone

LIKENESS = ("sum", "mean", "projection")
ROTATIONS = (16, 4, 1)


class Contrasted(NamedTuple):
  """The memory of :func:`ocm`, and the network at the end of the last task."""

  replay: Replay
  teacher: Teacher


def turned(x, rotations: int):
  """``[rotations, B, H, H, ...]``: the pictures as they are first; of 4 turned by 0, 180, 90 and 270 degrees; of 16
  each of these of pictures whose left half, both halves, or right half was turned by 180 degrees."""
  if rotations == 1:
    return x[None]
  half = x.shape[2] // 2
  left, right = x[:, :, :half], x[:, :, half:]
  over = lambda a: jnp.rot90(a, 2, axes=(1, 2))
  parts = [x]
  if rotations == 16:
    pairs = ((over(left), right), (over(left), over(right)), (left, over(right)))
    parts += [jnp.concatenate(pair, axis=2) for pair in pairs]
  return jnp.stack([jnp.rot90(part, k, axes=(1, 2)) for k in (0, 2, 1, 3) for part in parts])


def label_contrast(similarity, label, weight, others):
  """``-1/|P_i| sum_(p in P_i) log softmax_j(similarity_ij)`` of each anchor, ``[N]``; P_i those of ``others [N, M]`` of
  its label, j over others. Of rows of weight 0 none is there; 0 where P_i is empty."""
  inside = others & (weight > 0)[None]
  mates = inside & (label[:, None] == label[None])
  log_p = losses.masked_log_softmax(similarity, inside)
  return -jnp.sum(jnp.where(mates, log_p, 0.0), axis=1) / jnp.maximum(jnp.sum(mates, axis=1, dtype=jnp.float32), 1.0)


def likeness(key, z, f, kind: str):
  """``[N, N]``: ``z_i.z_j`` plus ``z_i.phi_j``, phi a slice of the features of norm 1, as wide as z, at a place drawn
  uniformly; 'mean': half of that; 'projection': the first alone. z ``[N, W]`` of norm 1, f ``[N, D]``, W <= D."""
  own = z @ z.T
  if kind == "projection":
    return own
  at = jax.random.randint(key, (), 0, f.shape[1] - z.shape[1] + 1)
  both = own + z @ jax.lax.dynamic_slice_in_dim(heads.unit(f), at, z.shape[1], axis=1).T
  return both / 2 if kind == "mean" else both


def ocm(
  model, spec: Spec, *, temperature, distillation, least_area, jitter, grey, capacity: int, policy: str = "reservoir",
  replay_batch: int = 64, insert: str = "once", flip: bool = True, rotations: int = 16, similarity: str = "sum",
  width: int = 128,
) -> Method:  # fmt: skip
  """OCM: ``C(new) + C(stored) + C(stored; last network) + mean CE(stored) + distillation MSE(stored; last network)``.

  C is :func:`label_contrast` over T, of each row turned :func:`turned` ways and a second view of each
  (:func:`cljax.methods.views.shown_again`): 32 pictures a row and step for 16 ``rotations``. A label has a class for
  each turn. What is compared is :func:`likeness`, z a linear layer of the features to ``min(width, D)`` numbers of norm
  1; a view is not compared with itself. The third term compares z of the turned stored rows, without second views, with
  those of the network at the end of the last task. CE and MSE, of the classes met before that the task has not, are of
  second views of stored rows. In the first task, which has no last network, the loss is ``C(new) + mean CE(new)``. New
  rows are never in the cross-entropy of later tasks: what is answered of them is learned from the memory.

  ``similarity`` 'sum' lies in [-2, 2], so that its T is like half of one of cosines; the released code has 'mean' in
  some of its runs; 'projection' with ``rotations=1`` is SupCon. Deviations from that code, whose runs differ among
  themselves: one form of C, where some of its terms count views as their own mates or rows twice; no ``eps`` in
  logarithms; no rule of 7 stored rows a class; answers are the network's, whose BatchNorm counts rows as the run shows
  them. Raises UsageError for inputs that are no square pictures of even sides, and a model without features. Spec A16;
  Guo et al., 2022.
  """
  views.refuse_other_inputs(spec, "ocm")
  if rotations > 1 and (spec.shown.shape[0] != spec.shown.shape[1] or spec.shown.shape[1] % 2):
    raise UsageError(
      f"method.rotations: got {rotations}; of pictures {list(spec.shown.shape)}, which are not square with even sides, "
      "expected 1"
    )
  numbers = min(width, heads.width_of(model, spec, "ocm"))
  network, memory = heads.with_embedding(model, spec, "ocm", numbers), make_memory(spec, capacity, policy)
  size, scrub_rows = min(replay_batch or spec.batch_size, capacity), scrub_memory(memory)
  how = {"least_area": least_area, "jitter": jitter, "grey": grey, "flip": flip}
  flat_views = lambda a: a.reshape(-1, *a.shape[2:])

  def prepare(key, learner, batch):
    replay = insert_pending(key, memory, learner.method_state.replay)
    rows, weight = memory.sample(fold(key, "sample"), replay.memory, size)
    learner = learner._replace(method_state=learner.method_state._replace(replay=replay))
    return learner, of_terms_alone(append(batch, drawn(spec, rows, weight, batch.visit)))

  def outputs(key, params, model_state, batch, x, repeats: int, train: bool):
    """Of pictures ``x [repeats B, ...]``, those of the batch ``repeats`` times."""
    told = {"task": network.task_for(jnp.tile(batch.task, repeats))}
    mask = jnp.tile((batch.weight > 0).astype(jnp.float32), repeats) if train else None
    return network.apply(params, model_state, x, train=train, key=fold(key, "model"), mask=mask, **told)[0]

  def contrasts(key, params, learner, batch):
    """Of new rows, of stored ones, and of these with the last network."""
    teacher, turns = learner.method_state.teacher, turned(batch.x, rotations)
    again = jax.vmap(lambda key, x: views.shown_again(key, spec, x, **how))
    second = again(jax.random.split(fold(key, "turned"), rotations), turns)
    plain = flat_views(turns).astype(second.dtype)
    x = jnp.concatenate([plain, flat_views(second)])
    f = heads.flat(outputs(key, params, learner.model_state, batch, x, 2 * rotations, True).features)
    z = heads.embedded(params["embedding"], f).reshape(2 * rotations, -1, numbers)
    f = f.reshape(2 * rotations, -1, f.shape[-1])
    label = jnp.tile(batch.y[None] + spec.num_classes * jnp.arange(rotations)[:, None], (2, 1))
    weight = jnp.tile(batch.weight[None], (2 * rotations, 1))

    def among(rows, name):
      alike = likeness(fold(key, name), flat_views(z[:, rows]), flat_views(f[:, rows]), similarity) / temperature
      w = flat_views(weight[:, rows])
      return losses.reduce(label_contrast(alike, flat_views(label[:, rows]), w, ~jnp.eye(w.shape[0], dtype=bool)), w)

    own, kept = slice(0, spec.batch_size), slice(spec.batch_size, None)
    old = outputs(key, teacher.params, teacher.model_state, batch, plain, rotations, False).features
    old = heads.embedded(teacher.params["embedding"], old).reshape(rotations, -1, numbers)
    cut = lambda a: flat_views(a[:rotations, kept])
    alike, w = cut(z) @ cut(old).T / temperature, cut(weight)
    each = label_contrast(alike, cut(label), w, jnp.ones(alike.shape, bool))
    return among(own, "new"), among(kept, "stored"), losses.reduce(each, w)

  def term(key, params, learner, batch, outputs_of_rows):
    del outputs_of_rows
    teacher, later = learner.method_state.teacher, batch.visit.others > 0
    x = views.shown_again(fold(key, "labels"), spec, batch.x, **how)
    answer = fold(key, "labels")
    z = outputs(answer, params, learner.model_state, batch, x, 1, True).logits
    said = outputs(answer, teacher.params, teacher.model_state, batch, x, 1, False).logits
    new = jnp.arange(batch.weight.shape[0]) < spec.batch_size
    weight = jnp.where(new == ~later, batch.weight, 0.0)
    loss = losses.reduce(losses.cross_entropy(z, batch.y, batch.class_mask), weight)
    old = sets.old_and_new(spec, batch.visit)[0]
    gap = jnp.where(old[None], jnp.square(z - said), 0.0).sum(-1) / jnp.maximum(jnp.sum(old, dtype=jnp.float32), 1.0)
    own, kept, last = contrasts(key, params, learner, batch)
    return loss + own + jnp.where(later, kept + last + distillation * losses.reduce(gap, weight), 0.0)

  def after_step(key, learner, info):
    del key
    state, weight = learner.method_state, offered(spec, info.batch, insert)
    replay = state.replay._replace(pending=rows_of(spec, info.batch), weight=weight)
    return learner._replace(method_state=state._replace(replay=replay))

  def end_task(key, learner, task):
    del key, task
    return learner._replace(method_state=learner.method_state._replace(teacher=sets.teacher_of(learner)))

  def scrub(learner, request):
    state = learner.method_state
    replay = scrub_rows(learner._replace(method_state=state.replay), request).method_state
    return learner._replace(method_state=state._replace(replay=replay))

  def after_forget(learner, before):
    state = learner.method_state
    followed = tree.follow(state.teacher.params, before, learner.params)
    return learner._replace(method_state=state._replace(teacher=state.teacher._replace(params=followed)))

  def init(key, learner):
    del key
    return Contrasted(start(memory, spec, example_row(spec)), sets.teacher_of(learner))

  return Method(
    network, init, prepare=prepare, terms={"ocm": term}, after_step=after_step, end_task=end_task, scrub=scrub,
    after_forget=after_forget,
  )  # fmt: skip


register(
  "ocm",
  Entry(
    ocm,
    {
      "temperature": Option(0.07, 0, above=True),
      "distillation": Option(1.0, 0),
      "rotations": Option(ROTATIONS[0], choices=ROTATIONS),
      "similarity": Option(LIKENESS[0], choices=LIKENESS),
      "width": Option(128, 1),
      **views.VIEW,
      "least_area": views.VIEW["least_area"]._replace(default=0.3),
      "jitter": views.VIEW["jitter"]._replace(default=0.0),
      "grey": views.VIEW["grey"]._replace(default=0.25),
      **BUFFER,
      "replay_batch": Option(64, 0),
    },
    ACCESS._replace(task_boundaries=True, needs=("classes", "plain_inputs")),
    "Guo et al. 2022",
  ),
)
