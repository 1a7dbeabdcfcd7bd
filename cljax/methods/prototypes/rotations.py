"""PASS: rotated rows as classes of their own, old classes as noisy means, and features held to the old network's."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax.core import tree
from cljax.core.dtypes import wide
from cljax.core.method import Method
from cljax.core.types import Access, Spec, UsageError
from cljax.estimators import class_moments
from cljax.methods.distillation.outputs import Teacher
from cljax.methods.prototypes.frozen import outputs_of, over
from cljax.methods.registry import Entry, Option, register

TURNS = 4
FORMS = ("paper", "released")


class PassState(NamedTuple):
  teacher: Teacher  # the model at the end of the last task
  means: Any  # [C, D] of features, at the end of the task that showed the class
  counts: Any  # [C]
  radius: Any  # standard deviation of a feature within the classes of the first task


def turned(x, y):
  """``(x [4B, H, H, ...], y [4B])``: all rows turned by 0, 90, 180 and 270 degrees, of class ``4 y + turn``."""
  turns = [jnp.rot90(x, k, axes=(1, 2)) for k in range(TURNS)]
  return jnp.concatenate(turns), jnp.concatenate([TURNS * y + k for k in range(TURNS)])


def radius_of(squares, counts, width: int):
  """``sqrt(mean_c tr S_c / D)`` over the classes with rows: ``squares [C]`` sums of ``|f - mu_c|^2``, S_c by counts."""
  trace = squares / jnp.maximum(counts, 1)
  classes = jnp.maximum(jnp.sum(counts > 0, dtype=trace.dtype), 1)
  return jnp.sqrt(jnp.sum(jnp.where(counts > 0, trace, 0)) / width / classes)


def noisy_prototypes(key, means, old, radius, size: int):
  """``(p [size, D], class [size])``: means of classes drawn uniformly from ``old [C]``, with noise of N(0, radius^2);
  each by its place, whatever the size."""

  def one(place):
    own = jax.random.fold_in(key, place)
    label = jax.random.categorical(tree.fold(own, "class"), jnp.where(old, 0.0, -jnp.inf)).astype(jnp.int32)
    return means[label] + radius * jax.random.normal(tree.fold(own, "noise"), means.shape[1:], means.dtype), label

  return jax.vmap(one)(jnp.arange(size, dtype=jnp.int32))


def gap_norm(a, b, weight, form: str):
  """The mean over rows of ``|a_i - b_i|``; 'released': the norm of all rows together, which grows as the root of their
  number. Where rows agree the gradient is 0."""
  squares = jnp.sum(jnp.square(a - b), axis=-1) * weight
  root = lambda v: jnp.where(v > 0, jnp.sqrt(jnp.where(v > 0, v, 1)), 0)
  if form == "released":
    return root(squares.sum())
  return root(squares).sum() / jnp.maximum(weight.sum(), 1)


def crossed(logits, labels, weight, inside):
  """The weighted mean of cross-entropies over the outputs ``inside [C]``."""
  log_p = jax.nn.log_softmax(jnp.where(inside[None], logits, -jnp.inf), axis=-1)
  each = -jnp.take_along_axis(jnp.where(inside[None], log_p, 0), labels[:, None], axis=-1)[:, 0]
  return jnp.sum(each * weight) / jnp.maximum(weight.sum(), 1)


def prototype_augmentation(model, spec: Spec, *, distillation, prototypes, temperature, form: str = "paper") -> Method:
  """PASS: ``CE(h(f(x')) / t, 4 y + turn) + l_d |f(x') - f_old(x')| + l_p CE(h(mu_o + r e) / t, 4 o)``, x' turned rows.

  h is a layer of 4 outputs a class, of which those of unturned rows answer; outputs are those of classes met so far. o
  are classes met before that the task has not, drawn uniformly, as many as rows; e is N(0, I); r is measured when the
  first task ends and never again. The last two terms begin with the second task. ``form`` 'paper': the mean of rows'
  distances; 'released': the norm over the whole batch, which grows as the root of its size. Means are of all rows of a
  task, the last short batch too, which the released loop drops. Deviation: statistics of BatchNorm move by unturned
  rows. A request clears the means of classes that go whole. Raises UsageError for inputs that are no square pictures
  and for a model without features. Spec C5; Zhu et al., 2021.
  """
  shape: tuple[int, ...] = spec.shown.shape if hasattr(spec.shown, "shape") else ()
  if len(shape) != 3 or shape[0] != shape[1]:
    raise UsageError(f"method.name: 'pass' turns pictures; expected square inputs [H, H, C], got {list(shape)}")
  of_task = jnp.asarray(spec.classes_of_task)

  def init_model(key):
    params, state = model.init(key)
    x, task = jnp.zeros((1, *shape), spec.shown.dtype), jnp.zeros(1, jnp.int32)
    width = jax.eval_shape(lambda: outputs_of(model, params, state, x, task, key)[0]).shape[-1]
    kernel = jax.random.normal(tree.fold(key, "turns"), (width, TURNS * spec.num_classes), jnp.float32)
    return {"network": params, "turns": {"kernel": kernel / width**0.5, "bias": jnp.zeros(kernel.shape[1])}}, state

  def layer(params, f):
    kernel, bias = (params["turns"][k].astype(f.dtype) for k in ("kernel", "bias"))
    return f @ kernel + bias[None]

  def features(params, state, x, train, key, **told):
    out, moved = model.apply(params["network"], state, x, train=train, key=key, **told)
    f = out.features.reshape(out.features.shape[0], -1)
    return f.astype(wide(f.dtype)), out, moved

  def apply(params, state, x, *, train, key, **told):
    f, out, moved = features(params, state, x, train, key, **told)
    return out._replace(logits=layer(params, f)[:, ::TURNS], features=f), moved

  own = model._replace(init=init_model, apply=apply, capture=None, units=(), with_activation=None)

  def init(key, learner):
    del key
    width = learner.params["turns"]["kernel"].shape[0]
    teacher = Teacher(tree.copy(learner.params), tree.copy(learner.model_state))
    zeros = lambda *s: jnp.zeros(s, jnp.float32)
    return PassState(teacher, zeros(spec.num_classes, width), zeros(spec.num_classes), jnp.float32(0))

  def prepare(key, learner, batch):
    del key
    group = jnp.zeros(batch.weight.shape, jnp.int32)
    return learner, batch._replace(group=group, scale=jnp.zeros(1, jnp.float32))  # the term is the whole loss

  def term(key, params, learner, batch, outputs):
    del outputs
    state, visit = learner.method_state, batch.visit
    x, y = turned(batch.x, batch.y)
    weight, told = jnp.tile(batch.weight, TURNS), {"task": model.task_for(jnp.tile(batch.task, TURNS))}
    f = features(params, learner.model_state, x, True, tree.fold(key, "model"), mask=weight, **told)[0]
    teacher = state.teacher
    before = features(teacher.params, teacher.model_state, x, False, key, mask=None, **told)[0]
    inside = jnp.repeat((of_task & visit.seen[:, None]).any(0), TURNS)
    loss = crossed(layer(params, f) / temperature, y, weight, inside)
    new = of_task[visit.task]
    old = (state.counts > 0) & ~new
    kept = gap_norm(f, before, weight, form)
    p, label = noisy_prototypes(tree.fold(key, "old"), state.means, old | ~old.any(), state.radius, batch.y.shape[0])
    shown = crossed(layer(params, p) / temperature, TURNS * label, batch.weight, inside | ~old.any())
    more = distillation * kept + prototypes * jnp.where(old.any(), shown, 0)
    return loss + jnp.where(visit.others > 0, more, 0)

  def end_task(key, learner, task):
    state = learner.method_state
    look = lambda b: features(
      learner.params, learner.model_state, b.x, False, key, task=model.task_for(b.task), mask=None
    )[0]
    statistics, width = class_moments("none"), state.means.shape[1]
    start = statistics.start(spec.num_classes, width, state.means.dtype)
    found = over(task.rows, lambda s, b: statistics.add(s, look(b), b.y, b.weight), start)
    here = found.counts > 0

    def spread(sums, b):
      away = jnp.sum(jnp.square(look(b) - found.means[b.y]), axis=-1)
      return sums.at[b.y].add(jnp.where(b.weight > 0, away, 0))

    squares = over(task.rows, spread, jnp.zeros_like(found.counts))
    new = PassState(
      Teacher(tree.copy(learner.params), tree.copy(learner.model_state)),
      jnp.where(here[:, None], found.means, state.means),
      jnp.where(here, found.counts, state.counts),
      jnp.where(state.radius > 0, state.radius, radius_of(squares, found.counts, width)),
    )
    return learner._replace(method_state=new)

  def scrub(learner, request):
    state, gone = learner.method_state, request.classes
    means, counts = jnp.where(gone[:, None], 0, state.means), jnp.where(gone, 0, state.counts)
    return learner._replace(method_state=state._replace(means=means, counts=counts))

  def after_forget(learner, before):
    state = learner.method_state
    followed = tree.follow(state.teacher.params, before, learner.params)
    return learner._replace(method_state=state._replace(teacher=state.teacher._replace(params=followed)))

  return Method(
    model=own, init=init, prepare=prepare, terms={"pass": term}, end_task=end_task, scrub=scrub,
    after_forget=after_forget,
  )  # fmt: skip


register(
  "pass",
  Entry(
    prototype_augmentation,
    {
      "distillation": Option(10.0, 0),
      "prototypes": Option(10.0, 0),
      "temperature": Option(0.1, 0, above=True),
      "form": Option("paper", choices=FORMS),
    },
    Access(task_boundaries=True, boundary_data=True, needs=("classes", "plain_inputs")),
    "Zhu et al. 2021",
  ),
)
