"""Non-interfering weight fields: a network makes adapters of coordinates, and stands where tasks were committed."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax.core import layout, tree
from cljax.core.method import Method
from cljax.core.types import Access, Model, Spec, UsageError
from cljax.methods.registry import Entry, Option, register
from cljax.methods.told import TOLD, task_at_test
from cljax.models import isolated, tuning

A, B = "/lora_a", "/lora_b"
REGIONS = ("locked", "disjoint")


class Places(NamedTuple):
  """What the network of :func:`niwf` keeps, and nothing moves."""

  frozen: Any  # {path: leaf}: the network's own
  centres: Any  # [T, k]: where each place's region lies
  around: Any  # [T, J, k]: its anchors, as shares of the radius; the first is the centre


class Commits(NamedTuple):
  """What the field gave at the anchors of finished tasks."""

  values: Any  # {leaf: [T, J, ...]}
  done: Any  # [T] bool: places that are committed
  locked: Any  # [T] bool: those of them that are not learned now


def field(params, c, gate):
  """``{leaf: value}`` at the coordinate ``c [k]``: ``(relu(c K + b) gate) M + m`` of each leaf, ``gate [H]``."""
  h = jax.nn.relu(c @ params["hidden"]["kernel"] + params["hidden"]["bias"]) * gate
  return {n: jnp.tensordot(h.astype(o["kernel"].dtype), o["kernel"], 1) + o["bias"] for n, o in params["out"].items()}


def begun(key, leaves: dict, names: list, rank: int, size: int, width: int) -> dict:
  """The parameters of :func:`field`: biases the start of :func:`cljax.models.tuning.low_rank`, so that B is 0 wherever
  it is asked for; A's kernels of the spread of A over sqrt(H), B's 0."""
  normal = lambda name, *shape: jax.random.normal(tree.fold(key, name), shape, jnp.float32)
  out = {}
  for n in names:
    a, b = tuning.low_rank(tree.fold(key, n), leaves[n], rank)
    kernel = (normal(n + A, width, *a.shape) * (layout.fan_in(leaves[n].shape) * 3 * width) ** -0.5).astype(a.dtype)
    out[n + A], out[n + B] = {"kernel": kernel, "bias": a}, {"kernel": jnp.zeros((width, *b.shape), b.dtype), "bias": b}
  hidden = {"kernel": normal("hidden", size, width) * (2 / size) ** 0.5, "bias": jnp.zeros(width, jnp.float32)}
  return {"hidden": hidden, "out": out}


def at_anchors(params, kept: Places, radius, gates):
  """``{leaf: [T, J, ...]}``: what the field makes at the anchors ``a_tj = c_t + radius u_tj`` of all places."""

  def one(centre, shares, gate):
    return jax.vmap(lambda c: field(params, c, gate))(centre[None] + radius * shares)

  return jax.vmap(one)(kept.centres, kept.around, gates)


def moved(new: dict, commits: Commits):
  """``sum_t sum_j sum |F(a_tj) - F*_tj|^2`` over the locked places t, their anchors and all numbers of an adapter."""
  gap = lambda n: jnp.square((new[n] - commits.values[n]).astype(jnp.float32))
  each = sum(jnp.sum(gap(n).reshape(commits.done.shape[0], -1), axis=1) for n in new)
  return jnp.sum(jnp.where(commits.locked, each, 0.0))


def niwf(
  model, spec: Spec, *, strength, radius, trained: str, rank: int = 4, layers: str = "", size: int = 4, width: int = 32,
  anchors: int = 4, regions: str = "locked", inference: str = "told",
) -> Method:  # fmt: skip
  """NIWF: kernels ``W + A(c) B(c)``, ``(A, B) = F(c)``; loss plus ``strength sum_t sum_j |F(a_tj) - F*_tj|^2``.

  F is one hidden layer of ``width`` units from coordinates ``c [size]`` to the low-rank factors of every frozen kernel
  that ``layers`` finds. Task t has a region around c_t, drawn from N(0, 1) when the run begins: each of its steps is at
  ``c_t + radius u``, u uniform in ``[-1, 1]``, and it answers at c_t. When it ends F is committed: what it gives at
  ``anchors`` places of the region, the first c_t, is kept as F*, and later tasks are held to it; t goes over the other
  committed tasks. The lock is stiff: SGD overshoots at rates above about ``1 / (strength J |h|^2)``, h F's units.
  ``regions`` 'disjoint': each region has ``width / T`` units of F to itself, and what other regions read stands, so
  that old answers stay to the bit without a lock. Each task has copies of the leaves that ``trained`` finds (the
  classifier), and BatchNorm statistics; W stands, and other tasks' copies do. A task that comes back is unlocked while
  it learns, and committed anew; after a request all are, as the field then is. Keeps ``T J`` times the adapter's
  numbers.

  Read in the abstract alone: the form of F, the numbers of anchors and of the strength are UNVERIFIED. ``inference`` is
  of :func:`cljax.methods.told.task_at_test`; requests are answered by ``forget.name``. Raises UsageError for patterns
  that find nothing, and for fewer units than tasks with disjoint regions. Spec B13; "Non-interfering weight fields",
  2026.
  """
  tasks = spec.num_tasks
  named = tree.by_path(jax.eval_shape(model.init, jax.random.key(0))[0])
  treedef = jax.tree.structure(jax.eval_shape(model.init, jax.random.key(0))[0])
  names = tuning.chosen(named, layers, trained, label="method.")
  own = tuning.in_full(named, trained, "method.")
  gates = jnp.ones((tasks, width), jnp.float32)
  if regions == "disjoint":
    if width < tasks:
      raise UsageError(f"method.width: got {width}; disjoint regions of {tasks} tasks need at least as many units")
    gates = ((jnp.arange(width) * tasks // width)[None] == jnp.arange(tasks)[:, None]).astype(jnp.float32)

  def begin(key, weights):
    leaves = tree.by_path(weights)
    centres = jax.random.normal(tree.fold(key, "centres"), (tasks, size), jnp.float32)
    around = jax.random.uniform(tree.fold(key, "anchors"), (tasks, anchors, size), jnp.float32, -1.0, 1.0)
    params = {
      "field": begun(key, leaves, names, rank, size, width),
      "own": {n: jnp.repeat(leaves[n][None], tasks, axis=0) for n in own},
      "offset": jnp.zeros(size, jnp.float32),  # of a step from its centre; 0 but within a step
    }
    frozen = {n: a for n, a in leaves.items() if n not in own}
    return params, Places(frozen, centres, around.at[:, 0].set(0.0))

  def weights(params, kept, slot, train):
    del train
    made = field(params["field"], kept.centres[slot] + params["offset"], gates[slot])
    leaves = {**jax.lax.stop_gradient(kept.frozen), **{n: a[slot] for n, a in params["own"].items()}}
    for n in names:
      leaves[n] = leaves[n] + layout.unmatrix(made[n + A] @ made[n + B], leaves[n])
    return jax.tree.unflatten(treedef, [leaves[n] for n in named])

  def start_task(key, learner, task):
    del key
    slot, state = isolated.opened(learner.model_state, task.id)
    every = lambda a: jnp.ones(a.shape, bool)
    may = jax.tree.map(every, learner.params["field"])
    if regions == "disjoint":
      mine = gates[slot] > 0
      rows = lambda a: jnp.broadcast_to(mine.reshape(-1, *(1,) * (a.ndim - 1)), a.shape)
      columns = lambda a: jnp.broadcast_to(mine.reshape(*(1,) * (a.ndim - 1), -1), a.shape)
      out = {n: {"kernel": rows(o["kernel"]), "bias": jnp.zeros(o["bias"].shape, bool)} for n, o in may["out"].items()}
      may = {"hidden": jax.tree.map(columns, may["hidden"]), "out": out}
    may = {
      "field": may, "own": {n: isolated.copy_of(slot, a) for n, a in learner.params["own"].items()},
      "offset": jnp.zeros(size, bool),
    }  # fmt: skip
    commits = learner.method_state
    commits = commits._replace(locked=commits.done & (jnp.arange(tasks) != slot))
    return learner._replace(model_state=state, opt_state=isolated.held(learner.opt_state, may), method_state=commits)

  def gradient(key, loss_fn, learner):
    kept = learner.model_state.kept
    offset = radius * jax.random.uniform(key, (size,), jnp.float32, -1.0, 1.0)
    (loss, aux), grads = jax.value_and_grad(loss_fn, has_aux=True)({**learner.params, "offset": offset})
    grads = {**grads, "offset": jnp.zeros_like(offset)}
    if regions == "disjoint":
      return (loss, aux), grads
    lock = lambda p: strength * moved(at_anchors(p, kept, radius, gates), learner.method_state)
    value, more = jax.value_and_grad(lock)(learner.params["field"])
    return (loss + value, aux), {**grads, "field": tree.add(grads["field"], more)}

  def recommitted(learner, which):
    """The learner whose field is committed as it is now at the places ``which [T]``."""
    commits = learner.method_state
    new = at_anchors(learner.params["field"], learner.model_state.kept, radius, gates)
    at = lambda a: which.reshape(-1, *(1,) * (a.ndim - 1))
    values = {n: jnp.where(at(v), new[n], v) for n, v in commits.values.items()}
    return learner._replace(method_state=commits._replace(values=values, done=commits.done | which))

  def end_task(key, learner, task):
    del key
    return recommitted(learner, jnp.arange(tasks) == isolated.place_of(learner.model_state.slots, task.id))

  def init(key, learner):
    del key
    out = learner.params["field"]["out"]
    values = {n: jnp.zeros((tasks, anchors, *o["bias"].shape), o["bias"].dtype) for n, o in out.items()}
    return Commits(values, jnp.zeros(tasks, bool), jnp.zeros(tasks, bool))

  network: Model = isolated.per_task(model, tasks, begin, weights)
  return Method(
    model=network, init=init, start_task=start_task, gradient=gradient, finalize=isolated.hold(), end_task=end_task,
    after_forget=lambda learner, before: recommitted(learner, learner.method_state.done),  # a lock knows what is to go
    **task_at_test(network, spec, inference),
  )  # fmt: skip


register(
  "niwf",
  Entry(
    niwf,
    {
      "strength": Option(0.01, 0, needs={"regions": ("locked",)}),
      "radius": Option(0.1, 0),
      "rank": Option(4, 1),
      "layers": Option(""),
      "trained": Option(tuning.HEAD),
      "size": Option(4, 1),
      "width": Option(32, 1),
      "anchors": Option(4, 1),
      "regions": Option("locked", choices=REGIONS),
      **TOLD,
    },
    Access(task_boundaries=True, task_id_at_test=True),
    "Chaudhry 2026",
  ),
)
