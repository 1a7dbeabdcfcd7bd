"""DESIRE: a low-rank pair learns each task freely, and is then merged with all before it; pseudo-features refit the
classifier."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cljax import losses
from cljax.core import layout, tree
from cljax.core.dtypes import lenient
from cljax.core.method import Method
from cljax.core.types import Access, Model, Spec, UsageError
from cljax.estimators import class_moments
from cljax.methods import heads as classifiers
from cljax.methods.adapters.pairs import A, B, names_of, uniform
from cljax.methods.prototypes.frozen import over
from cljax.methods.registry import Entry, Option, register
from cljax.methods.replay import buffers
from cljax.methods.replay.linear_head import fitted
from cljax.models import growing, heads, tuning
from cljax.models.reparameterise import reparameterise

OLD, NEW = (1.0, 0.0), (0.0, 1.0)  # shares of what was merged and of the pair


class Known(NamedTuple):
  """The state of :func:`desire`."""

  replay: Any  # rows on which shares are learned; their labels are read by nothing
  moments: Any  # of the features of each class, under the network as its task left it


def merged_network(model: Model, rank: int, layers: str, trained: str):
  """``(network, materialize)``: the network with kernels ``W + a M + b A B``; M, a, b lie in ``model_state["frozen"]``
  as ``"old"``, ``{kernel: [d_in, d_out]}``, and ``"shares"``, ``{kernel: [2]}``. At first M and B are 0.
  ``materialize(params, frozen)`` are the model's own parameters, with a slope in the shares."""
  named = jax.eval_shape(model.init, jax.random.key(0))[0]
  leaves = tree.by_path(named)
  names, full = tuning.chosen(leaves, layers, trained, label="method."), tuning.in_full(leaves, trained, "method.")

  def init(key, params):
    of = tree.by_path(params)
    adapter, old, shares = {n: of[n] for n in full}, {}, {}
    for n in names:
      adapter[n + A], adapter[n + B] = tuning.low_rank(tree.fold(key, n), of[n], rank)
      old[n], shares[n] = jnp.zeros_like(layout.matrix(of[n])), jnp.array(NEW, jnp.float32)
    base = {n: a for n, a in of.items() if n not in full}
    return tuning.nested(adapter), {"base": base, "old": old, "shares": shares}

  def materialize(adapter, frozen):
    own = tree.by_path(adapter)
    made = {n: own[n] if n in full else frozen["base"][n] for n in leaves}
    for n in names:
      a, b = frozen["shares"][n].astype(made[n].dtype)
      made[n] = made[n] + layout.unmatrix(a * frozen["old"][n] + b * (own[n + A] @ own[n + B]), made[n])
    return jax.tree.unflatten(jax.tree.structure(named), list(made.values()))

  return reparameterise(model, materialize, init)._replace(check_rows=model.check_rows), materialize


def with_frozen(learner, **parts):
  state = learner.model_state
  return learner._replace(model_state={**state, "frozen": {**state["frozen"], **parts}})


def with_shares(learner, shares):
  """The learner with these shares, of each kernel or ``(a, b)`` of all."""
  now = learner.model_state["frozen"]["shares"]
  new = shares if isinstance(shares, dict) else {n: jnp.array(shares, jnp.float32) for n in now}
  return with_frozen(learner, shares=new)


def merged(learner):
  """The learner whose M is ``a M + b A B``, with nothing beside it."""
  frozen, own = learner.model_state["frozen"], tree.by_path(learner.params)
  new = {}
  for n, m in frozen["old"].items():
    a, b = frozen["shares"][n].astype(m.dtype)
    new[n] = a * m + b * (own[n + A] @ own[n + B])
  return with_shares(with_frozen(learner, old=new), OLD)


def gaussians(moments, shrinkage):
  """``(values [C, D], vectors [C, D, D])`` of each class's covariance, plus ``shrinkage`` times its mean variance."""
  covariance = moments.scatter / jnp.maximum(moments.counts, 1)[:, None, None]
  values, vectors = jax.lax.map(jnp.linalg.eigh, covariance)
  values = jnp.maximum(values, 0)
  return values + shrinkage * jnp.mean(values, axis=-1, keepdims=True) + 1e-6, vectors


def likelihood(moments, shrinkage, f, classes):
  """``[B]``: the largest log-likelihood of ``f [B, D]``, up to a constant, under the Gaussians of ``classes [C]``."""
  values, vectors = gaussians(moments, shrinkage)
  turned = jnp.einsum("bcd,cde->bce", f[:, None] - moments.means[None], vectors, precision="highest")
  each = -0.5 * jnp.sum(jnp.square(turned) / values[None] + jnp.log(values)[None], axis=-1)
  return jnp.max(jnp.where(classes[None], each, -jnp.inf), axis=-1)


def pseudo_features(key, moments, shrinkage, number: int):
  """``(f [C N, D], y [C N], there [C N])``: ``number`` draws of the Gaussian of each class that has rows."""
  classes, width = moments.means.shape
  values, vectors = gaussians(moments, shrinkage)
  # The symmetric root: a draw must not depend on the signs of eigenvectors, nor on which of an eigenspace are found.
  root = jnp.einsum("cde,ce,cfe->cdf", vectors, jnp.sqrt(values), vectors, precision="highest")
  noise = jax.random.normal(key, (classes, number, width), moments.means.dtype)
  f = moments.means[:, None] + jnp.einsum("cnd,cde->cne", noise, root, precision="highest")
  y = jnp.repeat(jnp.arange(classes, dtype=jnp.int32), number)
  return f.reshape(-1, width), y, (moments.counts > 0)[y]


def desire(
  model, spec: Spec, *, capacity: int, rate, shrinkage, refit_rate, trained: str, rank: int = 8, layers: str = "",
  steps: int = 50, samples: int = 50, passes: int = 10, insert: str = "once",
) -> Method:  # fmt: skip
  """DESIRE: ``W + A_t B_t`` learns task t freely, and then ``M <- a M + b A_t B_t``, a and b of each kernel.

  Each task begins with a new pair beside W alone, and a softmax of its own classes. When it ends a and b, 1/2 at first,
  are learned by ``steps`` of Adam at ``rate`` on ``mean |f(x; a, b) - f*(x)|^2`` over the stored rows, unlabelled: f*
  is the feature of that expert, ``W + M`` or ``W + A_t B_t``, under the Gaussians of whose classes it is likelier; the
  first task's pair is M as it is. Then means and covariances of its classes' features are taken, and the classifier is
  made anew on ``samples`` draws of each class's Gaussian (:func:`cljax.methods.replay.linear_head.fitted`, ``passes``
  at ``refit_rate``). Covariances have ``shrinkage`` times their mean variance added. Whatever the number of tasks there
  are M and one pair, and of each class a mean and a covariance. Within a task its expert alone answers.

  Deviations: the paper's unlabelled rows are few of the test stream, which a method is not shown: here a reservoir of
  ``capacity`` training rows stands for them, whose labels nothing reads. Read in abstracts alone: that features are
  matched, the start of a and b and all numbers are UNVERIFIED. M is a whole matrix, for merging pairs gives a larger
  rank. A request's rows leave the reservoir at once, and the Gaussians of classes that go whole; M and the other
  Gaussians know nothing of it. Raises UsageError for patterns that find nothing, a model without features, and a
  classifier that is not one linear layer on them, trained in full. Spec B3; Guo et al., "DESIRE: Dynamic knowledge
  consolidation for rehearsal-free continual learning", 2024.
  """
  (network, materialize), statistics = merged_network(model, rank, layers, trained), class_moments("class")
  width, table = heads.width_of(model, spec, "desire"), jnp.asarray(spec.classes_of_task)
  memory = buffers.make_memory(spec, capacity, "reservoir")
  scrub_rows = buffers.scrub_memory(memory)
  kernel, bias = _linear(model, network, spec, width)

  def features(learner, x, task):
    state, told = learner.model_state, {"task": model.task_for(task), "mask": None}
    made = materialize(learner.params, state["frozen"])
    return heads.flat(model.apply(made, state["inner"], x, train=False, key=learner.key, **told)[0].features)

  def moments_of(learner, rows, state):
    return over(rows, lambda s, b: statistics.add(s, features(learner, b.x, b.task), b.y, b.weight), state)

  def start_task(key, learner, task):
    del key, task
    drawn, own = tree.fold(jax.random.fold_in(learner.key, learner.step), "pair"), tree.by_path(learner.params)
    edits = {}
    for n in names_of(own):
      edits[n + A] = uniform(tree.fold(drawn, n), n, own[n + A]).astype(own[n + A].dtype)
      edits[n + B] = jnp.zeros_like(own[n + B])
    params = tree.edit_leaves(learner.params, edits)
    opt_state = growing.at_rest(learner.opt_state, params, lambda name: name.endswith((A, B)))
    return with_shares(learner._replace(params=params, opt_state=opt_state), NEW)

  def prepare(key, learner, batch):
    state = learner.method_state
    replay = buffers.insert_pending(key, memory, state.replay)
    mask = table[batch.task]
    mask = mask if batch.class_mask is None else mask & batch.class_mask
    return learner._replace(method_state=state._replace(replay=replay)), batch._replace(class_mask=mask)

  def after_step(key, learner, info):
    del key
    state, weight = learner.method_state, buffers.offered(spec, info.batch, insert)
    replay = state.replay._replace(pending=buffers.rows_of(spec, info.batch), weight=weight)
    return learner._replace(method_state=state._replace(replay=replay))

  def learned(learner, rows, there, new_classes, moments):
    """``{kernel: [2]}``: the shares that match each row's feature to that of its expert."""
    x = spec.view(rows["x"], rows["task"])
    both = [features(with_shares(learner, shares), x, rows["task"]) for shares in (OLD, NEW)]
    known = (learner.method_state.moments.counts > 0) & ~new_classes
    before = likelihood(learner.method_state.moments, shrinkage, both[0], known)
    now = likelihood(moments, shrinkage, both[1], new_classes)
    target = jnp.where((before > now)[:, None], *both)

    def loss(shares):
      gap = jnp.mean(jnp.square(features(with_shares(learner, shares), x, rows["task"]) - target), axis=-1)
      return losses.reduce(gap, there)

    optimizer = lenient(optax.adam(rate))
    begin = {n: jnp.full(2, 0.5, jnp.float32) for n in learner.model_state["frozen"]["shares"]}

    def step(i, carry):
      del i
      shares, state = carry
      updates, state = optimizer.update(jax.grad(loss)(shares), state, shares)
      return optax.apply_updates(shares, updates), state

    return jax.lax.fori_loop(0, steps, step, (begin, optimizer.init(begin)))[0]

  def end_task(key, learner, task):
    state, later = learner.method_state, task.visit.others > 0
    replay = buffers.insert_pending(tree.fold(key, "flush"), memory, state.replay)
    rows, there = memory.contents(replay.memory)
    empty, new = statistics.start(spec.num_classes, width, jnp.float32), table[task.id]
    shares = learned(learner, rows, there, new, moments_of(with_shares(learner, NEW), task.rows, empty))
    shares = {n: jnp.where(later, s, jnp.array(NEW, jnp.float32)) for n, s in shares.items()}
    learner = merged(with_shares(learner, shares))
    moments = moments_of(learner, task.rows, statistics.clear(state.moments, new))
    f, y, some = pseudo_features(tree.fold(key, "draws"), moments, shrinkage, samples)
    told = {"passes": passes, "rate": refit_rate, "size": spec.batch_size}
    head = fitted(tree.fold(key, "refit"), f, y, some, spec.num_classes, **told)
    own = tree.by_path(learner.params)
    edits = {n: jnp.where(later, head[k].astype(own[n].dtype), own[n]) for n, k in ((kernel, "kernel"), (bias, "bias"))}
    return learner._replace(params=tree.edit_leaves(learner.params, edits), method_state=Known(replay, moments))

  def scrub(learner, request):
    state = learner.method_state
    left = scrub_rows(learner._replace(method_state=state.replay), request).method_state
    return learner._replace(method_state=Known(left, statistics.clear(state.moments, request.classes)))

  def init(key, learner):
    del key, learner
    replay = buffers.start(memory, spec, buffers.example_row(spec))
    return Known(replay, statistics.start(spec.num_classes, width, jnp.float32))

  return Method(
    network, init=init, start_task=start_task, prepare=prepare, after_step=after_step, end_task=end_task, scrub=scrub
  )


def _linear(model: Model, network: Model, spec: Spec, width: int) -> tuple[str, str]:
  """The names of the classifier's kernel and bias; UsageError where it is not ``[width, C]`` and ``[C]``, trained."""
  found = classifiers.classifier(model, spec)
  leaves = tree.by_path(jax.eval_shape(network.init, jax.random.key(0))[0])
  shapes = {leaves[n].shape: n for n in found if n in leaves}
  wanted = (width, spec.num_classes), (spec.num_classes,)
  if len(found) != 2 or set(shapes) != set(wanted):
    raise UsageError(
      f"method.name: 'desire' makes the classifier anew: one linear layer of {width} features with a bias, which "
      f"method.trained finds; got {', '.join(sorted(found)) or 'none'}"
    )
  return shapes[wanted[0]], shapes[wanted[1]]


register(
  "desire",
  Entry(
    desire,
    {
      "capacity": Option(100, 1),
      "rate": Option(0.05, 0),
      "shrinkage": Option(0.1, 0),
      "refit_rate": Option(0.1, 0),
      "rank": Option(8, 1),
      "layers": Option(""),
      "trained": Option(tuning.HEAD),
      "steps": Option(50, 0),
      "samples": Option(50, 1),
      "passes": Option(10, 1),
      **buffers.INSERT,
    },
    Access(stores_data=True, task_boundaries=True, boundary_data=True, needs=("classes", "plain_inputs")),
    "Guo et al. 2024",
  ),
)
