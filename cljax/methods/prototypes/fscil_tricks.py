"""A bag of tricks for few shots: contrast and pseudo-classes, targets for all classes, then a small part that moves."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax import losses
from cljax.core.method import Method
from cljax.core.tree import fold
from cljax.core.types import Access, Spec, UsageError
from cljax.estimators import class_moments
from cljax.methods import views as second
from cljax.methods.prototypes.frozen import over
from cljax.methods.prototypes.rotations import TURNS
from cljax.methods.prototypes.simplex import Part, later, matched_where, part_of, simplex
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay.dual_mix import partners
from cljax.models import heads
from cljax.objectives.rows import grouped

MIXED = (0.4, 0.6)  # the share of one row in a mixture that is a class of its own
MOMENTUM = 0.9  # of the running class means of the first task
WIDTH = 128
TARGETS = ("simplex", "learned")
OF_SIMPLEX: dict[str, tuple] = {"targets": ("simplex",)}


class Tricks(NamedTuple):
  means: Any  # [C, W] running means of projected features; 0 once the first task's classes have their targets
  taken: Any  # [C] bool: classes that have their targets for good
  waiting: Any  # [C] bool: classes of the first task before that
  left: Any  # int32: steps until then


def mixtures(key, x, y, weight, classes: int):
  """``(x [B, ...], label [B], weight [B])``: of each row a mixture with another of the batch, ``l x_i + (1 - l) x_j``
  with ``l ~ U(0.4, 0.6)``, of a class for each pair of classes, behind the ``TURNS`` times ``classes`` of turned rows;
  of weight 0 where both are of one class."""
  there = weight > 0
  at = partners(fold(key, "partners"), there)
  low, high = jnp.minimum(y, y[at]), jnp.maximum(y, y[at])
  share = jax.random.uniform(fold(key, "share"), y.shape, minval=MIXED[0], maxval=MIXED[1])
  share = share.reshape(-1, *(1,) * (x.ndim - 1))
  return share * x + (1 - share) * x[at], (TURNS + low) * classes + high, jnp.where(there & (low < high), weight, 0.0)


def refuse(spec: Spec, views: bool, turns: bool, pseudo: bool) -> None:
  """UsageError for inputs that can not be shown again, turned or mixed."""
  shape: tuple[int, ...] = spec.shown.shape if hasattr(spec.shown, "shape") else ()
  if views:
    second.refuse_other_inputs(spec, "fscil_tricks", ", or method.views=False")
  if turns and (len(shape) != 3 or shape[0] != shape[1]):
    raise UsageError(f"method.turns: 'fscil_tricks' turns pictures; expected square inputs [H, H, C], got {[*shape]}")
  tokens = spec.scale is None and shape and jnp.issubdtype(spec.shown.dtype, jnp.integer)
  if pseudo and (not shape or tokens):
    raise UsageError("method.pseudo: 'fscil_tricks' mixes inputs; expected one array of numbers, or pseudo=False")


def of_contrast(key, x, y, weight, classes: int, turns: bool, pseudo: bool):
  """``(x [M, ...], y [M], weight [M])``: the rows, of label ``TURNS y``, and behind them turned ones and mixtures."""
  parts = [(x, TURNS * y, weight)]
  if turns:
    parts += [(jnp.rot90(x, k, axes=(1, 2)), TURNS * y + k, weight) for k in range(1, TURNS)]
  if pseudo:
    parts += [mixtures(fold(key, "mixtures"), x, y, weight, classes)]
  return tuple(jnp.concatenate(a) for a in zip(*parts, strict=True))


def on_targets(model, spec: Spec, width: int, scale, targets: str):
  """The model with a projection, which ``targets`` 'simplex' makes its features, with the logits ``scale cos(features,
  target)``. Its state has the target of each class, and whether the model's own state stays as it is."""
  network, directions = heads.with_projection(model, spec, "fscil_tricks", width), simplex(spec.num_classes, width)

  def init(key):
    params, state = network.init(key)
    places = jnp.arange(spec.num_classes, dtype=jnp.int32)
    return params, {"network": state, "places": places, "held": jnp.zeros((), bool)}

  def apply(params, state, x, **told):
    out, moved = network.apply(params, state["network"], x, **told)
    moved = jax.tree.map(lambda old, new: jnp.where(state["held"], old, new), state["network"], moved)
    if targets == "simplex":
      z = heads.projected(params["projection"], out.features)
      logits = scale * jnp.matmul(z, directions[state["places"]].T, precision="highest")
      out = out._replace(logits=logits, features=z)
    return out, {**state, "network": moved}

  return network._replace(init=init, apply=apply)


def hooks_of_targets(network, spec: Spec, width: int, warmup) -> dict[str, Any]:
  """The hooks that give classes their targets: those of the first task after its warm-up, of later ones at once."""
  classes, directions, of_rows = spec.num_classes, simplex(spec.num_classes, width), class_moments("none")
  none = of_rows.start(classes, width)

  def given(learner, due, means, new):
    """The learner after the classes ``new`` that have none got their targets, where it is ``due``."""
    state, places = learner.method_state, learner.model_state["places"]
    due = due & (new & ~state.taken).any()
    places = matched_where(due, places, means, new, state.taken, directions)
    means, taken = jnp.where(due, 0.0, state.means), state.taken | (new & due)
    state = state._replace(means=means, taken=taken, waiting=state.waiting & ~due)
    return learner._replace(method_state=state, model_state={**learner.model_state, "places": places})

  def start_task(key, learner, task):
    told = lambda b: {"task": network.task_for(b.task), "mask": None}
    apply = lambda b: network.apply(learner.params, learner.model_state, b.x, train=False, key=key, **told(b))[0]
    found = over(task.rows, lambda s, b: of_rows.add(s, apply(b).features, b.y, b.weight), none)
    new, base = found.counts > 0, task.visit.others == 0
    learner = given(learner, ~base, found.means, new)
    state, steps = learner.method_state, jnp.asarray(task.steps).astype(jnp.float32)
    waiting = new & ~state.taken & base
    left = jnp.where(base, jnp.floor(warmup * steps), 0).astype(jnp.int32)
    return learner._replace(method_state=state._replace(waiting=waiting, left=left))

  def prepare(key, learner, batch):
    del key
    state = learner.method_state
    learner = given(learner, state.left <= 0, state.means, state.waiting)
    batch, waits = grouped(batch), learner.method_state.waiting.any()
    return learner, batch._replace(scale=jnp.where(waits, 0.0, batch.scale))

  def after_step(key, learner, info):
    del key
    state = learner.method_state
    found = of_rows.add(none, info.outputs.features, info.batch.y, info.batch.weight)
    seen = (found.counts > 0) & state.waiting
    moved = state.means + (1 - MOMENTUM) * (found.means - state.means)
    means, left = jnp.where(seen[:, None], moved, state.means), jnp.maximum(state.left - 1, 0)
    return learner._replace(method_state=state._replace(means=means, left=left))

  def end_task(key, learner, task):
    del key, task
    return given(learner, jnp.asarray(True), learner.method_state.means, learner.method_state.waiting)

  def scrub(learner, request):
    state = learner.method_state
    return learner._replace(method_state=state._replace(taken=state.taken & ~request.classes))

  start = Tricks(none.means, jnp.zeros(classes, bool), jnp.zeros(classes, bool), jnp.int32(0))
  return {
    "init": lambda key, learner: start, "start_task": start_task, "prepare": prepare, "after_step": after_step,
    "end_task": end_task, "scrub": scrub,
  }  # fmt: skip


def fscil_tricks(
  model, spec: Spec, *, contrast, temperature, warmup, scale, later_rate, subnet, least_area, jitter, grey,
  flip: bool = True, views: bool = True, turns: bool = False, pseudo: bool = True, targets: str = "simplex",
  width: int = 0,
) -> Method:  # fmt: skip
  """A bag of tricks for few-shot class-incremental learning: ``CE(scale z e_y) + contrast SupCon(z)`` in the first task
  that is met, ``CE(scale z e_y)`` in later ones, whose updates are ``later_rate m u``; z: features projected to norm 1.

  Each trick has a setting without it. (1) ``contrast`` 0: :func:`cljax.losses.supcon` of rows and their second views
  (``views`` False: of rows alone). (2) ``targets`` 'learned', the model's own classifier: e are a simplex of ``width``
  numbers with cosines ``-1 / (C - 1)``, a target for each class of the stream from the start. After a ``warmup`` share
  of the first task, which is of contrast alone, its classes get those that fit their running means best (the largest
  sum of cosines); classes of a later task the best that are left, by the means of its rows when it begins. What a class
  has it keeps. (3) ``pseudo`` False: mixtures of two rows are classes of the contrast, one for each pair of classes.
  (4) ``later_rate`` 1: the share of an update that later tasks make. (5) ``subnet`` 1: the share of each kernel that
  they move, its smallest weights when the first task ended; the rest, all biases and BatchNorm's running statistics
  keep their bits. (6) ``turns`` False: rows turned by 90, 180 and 270 degrees are classes of the contrast. A larger or
  self-supervised encoder is the model's affair.

  ``width`` 0 is 128, or C where that is more; the projection has two layers. Second views, turned rows and mixtures go
  through the network in a pass of their own, of which BatchNorm's running statistics count nothing. Written from
  the abstract and UNVERIFIED as a whole: the form of each trick, how they are joined and all numbers are readings
  (mixtures ``U(0.4, 0.6)``; running means of momentum 0.9; the smallest weights move, as in few-shot lifelong
  learning). Targets that no class has yet push in the softmax where the run has all classes in it. No row is kept. A
  request frees the targets of classes that go whole; the matches of others and the mask stay as the rows made them.
  Raises UsageError for a model without features, a ``width`` below C, and inputs that are no pictures ``[H, W, C]`` for
  views, not square for turns, tokens or several for mixtures. Spec A19; Roy et al., 2024 (A Bag of Tricks for Few-Shot
  Class-Incremental Learning).
  """
  refuse(spec, views, turns, pseudo)
  width = width or max(WIDTH, spec.num_classes)
  if width < spec.num_classes:
    raise UsageError(f"method.width: got {width}; targets of {spec.num_classes} classes need at least as many, or 0")
  network = on_targets(model, spec, width, scale, targets)
  how = {"least_area": least_area, "jitter": jitter, "grey": grey, "flip": flip}

  def projected(params, out):
    return out.features if targets == "simplex" else heads.projected(params["projection"], out.features)

  def contrasted(key, params, learner, batch, outputs):
    z, y, weight, size = projected(params, outputs), batch.y, batch.weight, batch.y.shape[0]
    if views or turns or pseudo:
      made = lambda x: of_contrast(key, x.astype(jnp.float32), batch.y, batch.weight, spec.num_classes, turns, pseudo)
      x, y, weight = made(batch.x)
      again, there = x[size:], weight[size:]
      if views:
        shown = made(second.shown_again(key, spec, batch.x, **how))[0]
        again, there = jnp.concatenate([again, shown]), jnp.concatenate([there, weight])
      beside = batch._replace(weight=there, task=jnp.tile(batch.task, there.shape[0] // size))
      out = second.outputs_again(key, network, params, learner.model_state, beside, again)
      z = jnp.concatenate([z, projected(params, out)])
    first, other = z[: y.shape[0]], z[y.shape[0] :] if views else z
    return contrast * losses.reduce(losses.supcon(first, other, y, weight, temperature), weight)

  def term(key, params, learner, batch, outputs):
    some = lambda: contrasted(key, params, learner, batch, outputs)
    return jax.lax.cond(batch.visit.others == 0, some, lambda: jnp.float32(0))

  hooks = hooks_of_targets(network, spec, width, warmup) if targets == "simplex" else {}
  matched = hooks.pop("end_task", lambda key, learner, task: learner)

  def end_task(key, learner, task):
    learner, base = matched(key, learner, task), task.visit.others == 0
    before = learner.opt_state.finalize.free
    free = jax.tree.map(lambda new, old: jnp.where(base, new, old), part_of(learner.params, subnet), before)
    state = {**learner.model_state, "held": learner.model_state["held"] | (base & (subnet < 1))}
    return learner._replace(model_state=state, opt_state=learner.opt_state._replace(finalize=Part(free)))

  return Method(model=network, terms={"contrast": term}, finalize=later(later_rate), end_task=end_task, **hooks)


register(
  "fscil_tricks",
  Entry(
    fscil_tricks,
    {
      "contrast": Option(1.0, 0),
      "temperature": Option(0.1, 1e-6),
      **second.VIEWS,
      "turns": Option(False),
      "pseudo": Option(True),
      "targets": Option("simplex", choices=TARGETS),
      "warmup": Option(0.5, 0, 1, needs=OF_SIMPLEX),
      "scale": Option(16.0, 0, above=True, needs=OF_SIMPLEX),
      "width": Option(0, 0),
      "later_rate": Option(0.1, 0, 1),
      "subnet": Option(0.1, 0, 1),
    },
    Access(task_boundaries=True, boundary_data=True, needs=("classes", "plain_inputs")),
    "Roy et al. 2024",
  ),
)
