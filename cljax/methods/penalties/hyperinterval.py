"""HyperInterval: a network that makes intervals of weights out of intervals of embeddings, which all tasks' share."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cljax import losses
from cljax.core import tree
from cljax.core.method import Method
from cljax.core.types import Access, Model, Outputs, Spec, UsageError
from cljax.methods import intervals
from cljax.methods.intervals import Box
from cljax.methods.registry import Entry, Option, register
from cljax.methods.slots import no_slots, slot_of
from cljax.objectives.rows import eaten, grouped

FORMS = ("paper", "released")
SPREAD = 0.01  # of the first weights of the layer that gives the network's
LAYERS = ("hidden_0", "hidden_1", "head")
SHAPED = frozenset({"reshape", "broadcast_in_dim", "convert_element_type", "squeeze", "transpose", "copy"})


class Embedded(NamedTuple):
  """The model state: whose embedding each task has."""

  slots: Any  # [T] int32: in the order in which tasks are met, -1 before
  current: Any  # int32: that of the current task


class HyperIntervalState(NamedTuple):
  before: Any  # the parameters at the end of the last task
  steps: Any  # float32: of the current visit


class Moving(NamedTuple):
  """The state of the transform that holds other tasks' embeddings."""

  slot: Any  # int32


def operations(fn, *args) -> frozenset[str]:
  """The names of what a program does, those of programs within it too."""

  def of(jaxpr):
    found = set()
    for equation in jaxpr.eqns:
      inner = [v for v in jax.tree.leaves(list(equation.params.values())) if hasattr(v, "eqns") or hasattr(v, "jaxpr")]
      found |= set().union(*(of(getattr(v, "jaxpr", v)) for v in inner)) if inner else {equation.primitive.name}
    return found

  return frozenset(of(jax.make_jaxpr(fn)(*args).jaxpr))


def chain_of(model: Model, spec: Spec) -> list[tuple[str, str]]:
  """``[(kernel, bias)]``: the leaves of the layers of an MLP in their order. UsageError for a model whose leaves are
  others, or that does other things than ``relu(x W + b)`` layer by layer does."""
  kernels = [u.in_kernel for u in model.units] + [u.out_kernel for u in model.units[-1:]]
  layers = [(k, "/".join((*k.split("/")[:-1], "bias"))) for k in kernels]
  chained = kernels and all(a.out_kernel == b.in_kernel for a, b in itertools.pairwise(model.units))
  params, state = jax.eval_shape(model.init, jax.random.key(0))
  leaves = tree.by_path(params)
  plain = chained and not jax.tree.leaves(state) and set(leaves) == {n for pair in layers for n in pair}
  if plain and all(leaves[k].ndim == 2 for k in kernels):
    told = {"train": False, "key": jax.random.key(0), "task": None, "mask": None}
    x = jax.ShapeDtypeStruct((2, *spec.shown.shape), spec.shown.dtype)
    theirs = operations(lambda p, x: model.apply(p, state, x, **told)[0].logits, params, x)
    if theirs <= SHAPED | operations(lambda p, x: answers(layers, p, inputs(spec, x))[0], params, x):
      return layers
  raise UsageError("method.name: 'hyperinterval' makes the weights of an MLP of relu (models.mlp); the model is none")


def inputs(spec: Spec, x):
  """``[B, D]`` float32: rows as the first layer eats them."""
  x = eaten(x, spec.scale)
  return x.reshape(x.shape[0], -1).astype(jnp.float32)


def answers(layers, params, x):
  """``(logits, features)`` of ``relu(x W + b)`` layer by layer."""
  leaves = tree.by_path(params)
  for kernel, bias in layers[:-1]:
    x = jax.nn.relu(x @ leaves[kernel] + leaves[bias][None])
  return x @ leaves[layers[-1][0]] + leaves[layers[-1][1]][None], x


def answered(layers, low, high, x) -> Box:
  """The logits ``[B, C]`` of all networks whose parameters lie between the trees ``low`` and ``high``."""
  low, high = tree.by_path(low), tree.by_path(high)
  box = None
  for kernel, bias in layers:
    w, b = (Box(low[n], high[n]) for n in (kernel, bias))
    if box is None:
      box = intervals.of_point(w, b, x)
    else:
      box = intervals.of_positive(w, b, Box(jax.nn.relu(box.low), jax.nn.relu(box.high)))
  assert box is not None
  return box


def worst(box: Box, y):
  """``[B, C]``: the lower bound of the label's logit and the upper bounds of all others."""
  own = jax.nn.one_hot(y, box.low.shape[-1], dtype=bool)
  return jnp.where(own, box.low, box.high)


def generated(params, centre, radius):
  """``(low, mid, high) [P]``: of the generator's answers to all embeddings within ``radius`` of ``centre [n]`` the
  bounds, by :func:`cljax.methods.intervals.affine` and relu of both ends; and the answer to the centre itself."""
  mid, box = centre, Box(centre - radius, centre + radius)
  for layer in LAYERS:
    kernel, bias = params[layer]["kernel"], params[layer]["bias"]
    mid, box = mid @ kernel + bias, intervals.affine(kernel, bias, box)
    if layer != LAYERS[-1]:
      mid, box = jax.tree.map(jax.nn.relu, (mid, box))
  return box.low, mid, box.high


def centre_of(embedding, gamma):
  """``(gamma / 2 n) cos e`` of an embedding ``[n]``: intervals of radius ``gamma / n`` around any such all meet."""
  return gamma / (2 * embedding.shape[-1]) * jnp.cos(embedding)


def universal(embeddings, used, gamma):
  """``[n]``: the middle of what the intervals of the embeddings ``[T, n]`` of which ``used [T]`` share."""
  centres, radius = centre_of(embeddings, gamma), gamma / embeddings.shape[-1]
  low = jnp.max(jnp.where(used[:, None], centres - radius, -jnp.inf), axis=0)
  high = jnp.min(jnp.where(used[:, None], centres + radius, jnp.inf), axis=0)
  return (low + high) / 2


def hold_other_embeddings() -> optax.GradientTransformationExtraArgs:
  """``u <- 0`` for embeddings but the current task's, which momentum and weight decay would move."""

  def update(updates, state, params=None, **extra):
    del params, extra
    mine = (jnp.arange(updates["embeddings"].shape[0]) == state.slot)[:, None]
    return {**updates, "embeddings": jnp.where(mine, updates["embeddings"], 0.0)}, state

  return optax.GradientTransformationExtraArgs(lambda params: Moving(jnp.int32(0)), update)


def hyper_network(model: Model, spec: Spec, layers, gamma, embedding: int, width: int):
  """``(Model, made)``: the network whose weights are generated, by the current task's embedding where a task is given
  and else by :func:`universal`; ``made(vector [P])`` are the network's parameters."""
  treedef: Any
  shapes, treedef = jax.tree.flatten(jax.eval_shape(model.init, jax.random.key(0))[0])
  ends = list(itertools.accumulate(a.size for a in shapes))

  def made(vector):
    parts = jnp.split(vector, ends[:-1])
    return treedef.unflatten([p.reshape(a.shape) for p, a in zip(parts, shapes, strict=True)])

  def init(key):
    own = jax.tree.leaves(model.init(key)[0])
    params: dict[str, Any] = {
      "embeddings": jax.random.normal(tree.fold(key, "embeddings"), (spec.num_tasks, embedding))
    }
    sizes = (embedding, width, width, ends[-1])
    for layer, (inner, outer) in zip(LAYERS, itertools.pairwise(sizes), strict=True):
      spread = SPREAD if layer == LAYERS[-1] else (2 / inner) ** 0.5
      kernel = spread * jax.random.normal(tree.fold(key, layer), (inner, outer))
      params[layer] = {"kernel": kernel, "bias": jnp.zeros(outer)}
    params[LAYERS[-1]]["bias"] = jnp.concatenate([a.astype(jnp.float32).ravel() for a in own])
    return params, Embedded(no_slots(spec), jnp.int32(0))

  def apply(params, model_state, x, *, train, key, task=None, mask=None):
    del train, key, mask
    if task is None:
      used = jnp.arange(spec.num_tasks) <= jnp.maximum(jnp.max(model_state.slots), 0)
      centre = universal(params["embeddings"], used, gamma)
    else:
      centre = centre_of(params["embeddings"][model_state.current], gamma)
    mid = generated(params, centre, 0.0)[1]
    return Outputs(*answers(layers, made(mid), inputs(spec, x))), model_state

  return Model(init, apply), made


def hyperinterval(
  model,
  spec: Spec,
  *,
  gamma,
  beta,
  decay,
  least,
  ramp: int = 2500,
  embedding: int = 24,
  width: int = 100,
  form: str = "paper",
) -> Method:
  """HyperInterval: ``k CE(z) + (1 - k) CE(z_worst) + (beta / t) sum_old (|l - l'|^2 + |m - m'|^2 + |u - u'|^2) / 3``.

  The weights of an MLP are ``g(e)``, g a network of two hidden layers of ``width`` units, which all tasks share. A
  task's embedding e in R^n lies in an interval of centre ``(gamma / 2 n) cos a``, a learned, and radius ``gamma / n``;
  [l, u] are the bounds of the weights by interval arithmetic, z_worst the lower bound of the label's logit and the
  upper bounds of others. l', m', u': those of the t earlier tasks' embeddings, which stand, by the g of
  the last task's end. Intervals of all tasks meet in one of width gamma / n at least, whose middle gives the one
  network that answers: no task is asked for. In a task ``k = max(1 - decay n, least)`` after n steps, and the radius
  grows to its full size over ``ramp`` steps: half of the run's steps of a task in the paper, 5000. A new task begins
  with the embedding of the last. With gamma 0 all intervals are the point 0, and one network is learned.

  m is the answer of g to the middle of the embedding's interval (a reading), and z the logits under it. ``form``
  'released' divides the sum by t once more. Inputs may be negative, which the released code refuses. The last layer of
  g begins with the model's own weights as its bias. Deviations: the form of intervals that need not meet, and answers
  by the embedding of a told task, are left out; dropout of the model is not used. A request changes nothing (retraining
  does). Raises UsageError for a model that is no MLP with relu. Spec 7.8; Krukowski et al., 2024.
  """
  layers = chain_of(model, spec)
  network, made = hyper_network(model, spec, layers, gamma, embedding, width)
  full, number = gamma / embedding, spec.num_tasks

  def share(state):
    return jnp.maximum(1.0 - decay * state.steps, least)

  def prepare(key, learner, batch):
    del key
    batch = grouped(batch)
    return learner, batch._replace(scale=batch.scale * share(learner.method_state))

  def all_bounds(params, embeddings):
    one = lambda e: generated(params, centre_of(e, gamma), full)
    return jax.vmap(one)(embeddings)

  def term(key, params, learner, batch, outputs):
    del key, outputs
    state, current = learner.method_state, learner.model_state.current
    radius = full * jnp.minimum(state.steps / ramp, 1.0) if ramp else full
    centre = centre_of(params["embeddings"][current], gamma)
    low, _, high = generated(params, centre, radius)
    box = answered(layers, made(low), made(high), inputs(spec, batch.x))
    own = slice(0, spec.batch_size)
    each = losses.cross_entropy(worst(box, batch.y), batch.y, batch.class_mask)
    hard = (1.0 - share(state)) * losses.reduce(each[own], batch.weight[own])
    old = (jnp.arange(number) <= jnp.max(learner.model_state.slots)) & (jnp.arange(number) != current)
    count = jnp.maximum(jnp.sum(old, dtype=jnp.float32), 1.0)
    now = all_bounds(params, params["embeddings"])
    then = all_bounds(state.before, state.before["embeddings"])
    gaps = sum(jnp.sum(jnp.square(a - b), axis=-1) for a, b in zip(now, then, strict=True)) / 3
    kept = beta * jnp.sum(jnp.where(old, gaps, 0.0)) / count
    return hard + (kept / count if form == "released" else kept)

  def start_task(key, learner, task):
    del key
    slot, slots = slot_of(learner.model_state.slots, task.visit)
    embeddings = learner.params["embeddings"]
    new = task.visit.first & (slot > 0)
    begun = jnp.where(new, embeddings[jnp.maximum(slot - 1, 0)], embeddings[slot])
    opt_state = tree.edit_nodes(learner.opt_state, Moving, lambda _: Moving(slot))[0]
    return learner._replace(
      params={**learner.params, "embeddings": embeddings.at[slot].set(begun)},
      model_state=Embedded(slots, slot),
      opt_state=opt_state,
      method_state=learner.method_state._replace(steps=jnp.float32(0)),
    )

  def after_step(key, learner, info):
    del key, info
    state = learner.method_state
    return learner._replace(method_state=state._replace(steps=state.steps + 1))

  def end_task(key, learner, task):
    del key, task
    return learner._replace(method_state=learner.method_state._replace(before=tree.copy(learner.params)))

  def after_forget(learner, before):
    state = learner.method_state
    followed = tree.follow(state.before, before, learner.params)
    return learner._replace(method_state=state._replace(before=followed))

  def remarks(outlook):
    each = outlook.steps // max(len(outlook.tasks), 1)
    if ramp <= each:
      return []
    return [
      f"method.ramp: got {ramp}; a task has about {each} steps here, so that its interval never has its full size"
    ]

  return Method(
    model=network,
    init=lambda key, learner: HyperIntervalState(tree.copy(learner.params), jnp.float32(0)),
    start_task=start_task,
    prepare=prepare,
    terms={"hyperinterval": term},
    finalize=hold_other_embeddings(),
    after_step=after_step,
    end_task=end_task,
    after_forget=after_forget,
    remarks=remarks,
  )


register(
  "hyperinterval",
  Entry(
    hyperinterval,
    {
      "gamma": Option(5.0, 0),
      "beta": Option(0.005, 0),
      "decay": Option(5e-5, 0, 1),
      "least": Option(0.5, 0, 1),
      "ramp": Option(2500, 0),
      "embedding": Option(24, 1),
      "width": Option(100, 1),
      "form": Option(FORMS[0], choices=FORMS),
    },
    Access(task_boundaries=True, needs=("classes", "plain_inputs")),
    "Krukowski et al. 2024",
  ),
)
