"""Every projector beside every regularizer and every memory, and what each guarantees for the step that is applied."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import records

import cljax
from cljax import methods, projectors
from cljax.core import tree
from cljax.core.types import UsageError, Visit
from cljax.engine import recipe
from cljax.engine.setup import spec_of
from cljax.engine.step import Data, StreamPosition, build

BATCH = 8
POLICIES = ("reservoir", "ring", "class_balanced")
# Two groups: agem and gem share the name of their reference, ogd and pca_ogd the kind of their state.
PROJECTORS = (("agem", "gpm", "ogd", "cuber", "er_gem"), ("gem", "pca_ogd", "coso", "er_agem"))
STORED = 10  # rows of the first task that a projector keeps or looks at


class Composed:
  """Registry entries under :func:`cljax.compose`, in the order given, each with its options; compiled in haste."""

  def __init__(self, stream, model, **options):
    self.stream, self.spec = stream, spec_of(stream, BATCH)
    test = {n: {**records.arguments(n), **o} for n, o in options.items()}
    method = cljax.compose(**{n: methods.make(n, model, self.spec, **o) for n, o in test.items()})
    optimizer, training = recipe.make_optimizer("sgd", learning_rate=0.1), recipe.Recipe(batch_size=BATCH)
    augment = recipe.make_augment("none")
    self.parts = build("+".join(test), method, model, self.spec, optimizer, training, stream.view.apply, augment)
    split = stream.dataset.train
    ids = np.arange(len(split.y), dtype=np.int32)
    self.data = Data(*map(jnp.asarray, (split.x, split.y, ids, stream.labels)), stream.view.tables)
    self.call = {
      f: jax.jit(getattr(self.parts, f), compiler_options={"xla_backend_optimization_level": 0})
      for f in ("init", "start_task", "step", "end_task")
      if getattr(self.parts, f) is not None
    }

  def where(self, task):
    return StreamPosition(Visit.in_order(task, self.spec.num_tasks), *(jnp.asarray(v, jnp.int32) for v in (0, 10, 20)))

  def rows(self, task, k):
    pool = self.stream.train[task]
    return pool[(np.arange(BATCH) + k * BATCH) % len(pool)].astype(np.int32)

  def batch(self, task, k=0):
    """The arguments of a step on the k-th batch of a task."""
    index, ones = self.rows(task, k), jnp.ones(BATCH, jnp.int32)
    return self.data, self.where(task), jnp.asarray(True), jnp.asarray(index), task * ones, ones

  def step(self, learner, task, k=0):
    return self.call["step"](learner, *self.batch(task, k))

  def boundary(self, hook, learner, task):
    if hook not in self.call:
      return learner
    rows = np.asarray(self.stream.train[task], np.int32)
    index = jnp.asarray(np.pad(rows, (0, self.spec.task_rows - len(rows))))
    return self.call[hook](
      learner, jnp.asarray(True), self.data, self.where(task), index, jnp.full_like(index, task), len(rows)
    )


@pytest.fixture(scope="module")
def regularizers(class_stream, small_model):
  """Every entry that is a penalty on the parameters."""
  spec = spec_of(class_stream, BATCH)
  made = {n: methods.make(n, records.network(n, small_model), spec, **records.arguments(n)) for n in methods.METHODS}
  names = [n for n, m in made.items() if m.penalty is not None]
  assert {"ewc", "online_ewc", "si", "mas", "l2", "l2_init", "spectral", "wasserstein"} <= set(names)
  return names


def shapes(a):
  return [(x.shape, x.dtype) for x in jax.tree.leaves(a)], jax.tree.structure(a)


@pytest.mark.parametrize("turn", range(3))
@pytest.mark.parametrize("group", PROJECTORS, ids="+".join)
def test_every_pair_composes(group, turn, regularizers, class_stream, small_model):
  """A third of the regularizers, one memory and half the projectors at once: together, all pairs. The carry is
  stable."""
  beside = {n: {} for n in regularizers[turn::3]}
  bench = Composed(class_stream, small_model, **beside, er={"policy": POLICIES[turn]}, **{n: {} for n in group})
  learner = jax.eval_shape(bench.parts.init, jax.random.key(0))
  rows = jnp.zeros(bench.spec.task_rows, jnp.int32)
  for hook in (bench.parts.start_task, bench.parts.end_task):
    if hook is not None:
      ended = jax.eval_shape(hook, learner, jnp.asarray(True), bench.data, bench.where(0), rows, rows, jnp.int32(3))
      assert shapes(ended) == shapes(learner)
  after, _, _ = jax.eval_shape(bench.parts.step, learner, *bench.batch(0))
  assert shapes(after) == shapes(learner)


class Applied:
  """Steps of the first task, its boundary, one step of the second: the first and the last move, and the stored rows."""

  def __init__(self, stream, model, jacobian, **options):
    bench = Composed(stream, model, **options)
    start = bench.boundary("start_task", bench.call["init"](jax.random.key(0)), 0)
    learner = first = bench.step(start, 0)[0]
    for k in range(1, 30):
      learner = bench.step(learner, 0, k)[0]
    ended = bench.boundary("end_task", learner, 0)
    ended = bench.boundary("start_task", ended, 1)
    self.after, _, loss = bench.step(ended, 1)
    self.control = self.difference(start, first)  # before the boundary nothing is held
    self.moved, self.loss = self.difference(ended, self.after), float(loss)
    pool, split = stream.train[0], stream.dataset.train
    index = np.r_[pool, bench.rows(1, 0)]
    logits, jac = jax.tree.map(np.asarray, jacobian(ended.params, jnp.asarray(split.x[index])))
    self.x, self.y, self.y_now = split.x[index[:STORED]], split.y[index[:STORED]], split.y[index[STORED:]]
    self.logits, self.now, self.jac = logits[:STORED], logits[STORED:], jax.tree.map(lambda j: j[:STORED], jac)

  @staticmethod
  def difference(before, after):
    return {p: np.asarray(b) - np.asarray(a) for p, a, b in named(before.params, after.params)}

  def logit_changes(self, move):
    """``[STORED, C]`` to first order."""
    return sum(np.tensordot(j, move[p], move[p].ndim) for p, j in named(self.jac))

  def loss_change(self, move):
    """Of the mean cross-entropy on the stored rows, to first order, relative to what it could be."""
    error = np.exp(self.logits - np.logaddexp.reduce(self.logits, 1, keepdims=True))
    error[np.arange(STORED), self.y] -= 1
    gradient = {p: np.tensordot(error / STORED, j, 2) for p, j in named(self.jac)}
    size = lambda a: np.sqrt(sum((v**2).sum() for v in a.values()))
    return sum((gradient[p] * move[p]).sum() for p in move) / (size(gradient) * size(move))

  def state(self, kind):
    found = jax.tree.leaves(self.after.opt_state, is_leaf=lambda s: isinstance(s, kind))
    return next(s for s in found if isinstance(s, kind))


def mean_loss(z, y):
  return (np.logaddexp.reduce(z, 1) - z[np.arange(len(y)), y]).mean()


def named(*trees):
  return list(zip(tree.paths(trees[0]), *map(jax.tree.leaves, trees), strict=True))


@pytest.fixture(scope="module")
def applied(class_stream, small_model):
  def logits(params, x):
    return small_model.apply(params, {}, x, train=False, key=None, task=None, mask=None)[0].logits

  jacobian = jax.jit(lambda params, x: (logits(params, x), jax.jacrev(logits)(params, x)))
  # The first task has as many rows as are stored, so that no draw decides which.
  few = class_stream.train[0][np.arange(STORED) * len(class_stream.train[0]) // STORED]
  stream = class_stream._replace(train=(few, class_stream.train[1]))
  return lambda **options: Applied(stream, small_model, jacobian, **options)


MEMORY = {"capacity": 2 * STORED}
EXACT = {"margin": 0.0, "ridge": 0.0}
PULL = {"l2_init": {"strength": 1.0}}  # undoes what was learned, which replay alone would not forbid


@pytest.mark.parametrize(
  ("projector", "hyper", "kind"),
  [
    ("agem", {**MEMORY, "reference_batch": STORED}, projectors.AGEMState),
    ("gem", {**MEMORY, **EXACT}, projectors.GEMState),
    ("er_agem", {**MEMORY, "replay_batch": STORED}, projectors.AGEMState),
    ("er_gem", {**MEMORY, **EXACT, "replay_batch": STORED, "reference_batch": STORED}, projectors.GEMState),
  ],
)
def test_the_old_loss_does_not_grow(projector, hyper, kind, applied):
  """The step that was applied, penalty and all, does not raise the loss on the stored rows; it was about to."""
  run = applied(**PULL, **{projector: hyper})
  assert int(run.state(kind).projected) == 1
  assert abs(run.loss_change(run.moved)) < 1e-5
  assert abs(run.loss_change(run.control)) > 1e-2
  if projector.startswith("er"):  # every task counts alike: half the loss on the current rows, half on the stored ones
    np.testing.assert_allclose(run.loss, (mean_loss(run.logits, run.y) + mean_loss(run.now, run.y_now)) / 2, rtol=1e-5)


@pytest.mark.parametrize(
  ("projector", "hyper", "beside"),
  [
    ("ogd", {"samples": STORED}, {"si": {}}),
    ("pca_ogd", {"samples": STORED, "directions": STORED}, {"wasserstein": {}}),
  ],
)
def test_stored_true_logits_stay(projector, hyper, beside, applied):
  run = applied(**beside, **{projector: hyper})
  assert int(run.state(projectors.OGDState).rank) == STORED
  true = np.arange(STORED), run.y
  scale = np.abs(run.logit_changes(run.control)[true]).max()
  assert np.abs(run.logit_changes(run.moved)[true]).max() < 1e-5 * scale
  # Nothing else was promised, and the step is not zero.
  assert np.abs(run.logit_changes(run.moved)).max() > 1e-3 * scale


@pytest.mark.parametrize(
  ("projector", "hyper", "beside"),
  [
    ("gpm", {"samples": STORED, "threshold": 1.0, "skip": "head"}, {"l2": {}}),
    ("cuber", {"samples": STORED, "threshold": 1.0, "sufficient": 2.0, "skip": "head"}, {"er": {"policy": "ring"}}),
  ],
)
def test_stored_inputs_keep_their_pre_activations(projector, hyper, beside, applied):
  run = applied(**beside, **{projector: hyper})
  flat = run.x.reshape(STORED, -1)
  scale = np.abs(flat @ run.control["hidden_0/kernel"]).max()
  assert np.abs(flat @ run.moved["hidden_0/kernel"] + run.moved["hidden_0/bias"]).max() < 1e-5 * scale
  assert np.abs(run.moved["hidden_0/kernel"]).max() > 1e-3 * np.abs(run.control["hidden_0/kernel"]).max()
  assert np.abs(run.moved["head/kernel"]).max() > 0


def test_coso_moves_off_the_stored_output_directions(applied):
  run = applied(l2={}, coso={})
  kernel = run.state(projectors.CoSOState).kernels["hidden_0/kernel"]
  history = np.asarray(kernel.history)[:, : int(kernel.rank)]
  assert 1 <= history.shape[1] <= 4
  # What the first task's move wrote to lies in them, what the second's wrote to does not.
  before, after = run.control["hidden_0/kernel"], run.moved["hidden_0/kernel"]
  assert np.linalg.norm(before @ history) > 0.5 * np.linalg.norm(before)
  assert np.abs(after @ history).max() < 1e-5 * np.abs(after).max()
  assert np.abs(after).max() > 1e-3 * np.abs(before).max()
  assert not run.moved["hidden_0/bias"].any()


@pytest.mark.parametrize(
  ("name", "options", "said"),
  [
    ("ogd", {"samples": 4, "max_bytes": 10}, "method.max_bytes: got 10; the basis of 8 directions needs 5504 bytes"),
    ("pca_ogd", {"directions": 5, "samples": 4}, "method.directions: got 5; allowed: 1 to 4"),
    ("coso", {"rank": 9}, "no kernel has both sides"),
    ("gpm", {"skip": "("}, "method.skip: got '\\('; expected 'auto' or a regular expression"),
    ("er_gem", {"capacity": 1}, "method.capacity: got 1"),
  ],
)
def test_what_cannot_work_is_refused(name, options, said, class_stream, small_model):
  spec = spec_of(class_stream, BATCH)
  with pytest.raises(UsageError, match=said):
    methods.make(name, small_model, spec, **options)
