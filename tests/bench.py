"""A method's pure functions on one stream, without the engine or by a run's own programs; and comparisons of trees."""

from __future__ import annotations

import copy

import jax
import jax.numpy as jnp
import numpy as np
import records

from cljax import compose, methods
from cljax.core import tree
from cljax.core.types import Visit
from cljax.engine import loop, program_arguments, recipe
from cljax.engine.setup import spec_of
from cljax.engine.step import AGAIN, FRESH, Data, StreamPosition, build

BATCH = 8


class Bench:
  """One method's pure functions on one stream, without the engine.

  Programs take the float hyper-parameters as arguments, as a sweep's programs do: other values need no other program.
  ``members`` above 0 puts a leading axis on the learner, by vmap. ``name`` may be a dict ``{part: (name, options)}``:
  their :func:`cljax.compose`, or one part alone.
  """

  def __init__(self, name, stream, model, hyper=None, rows=BATCH, optimizer=None, members=0):
    self.stream, self.spec, self.members = stream, spec_of(stream, rows), members
    if isinstance(name, dict):
      given = {n: (m, {**records.arguments(m), **o}) for n, (m, o) in name.items()}
      made = lambda model, spec, _: compose(**{n: methods.make(m, model, spec, **o) for n, (m, o) in given.items()})
      values, name = {}, "+".join(name)
    else:
      plan = methods.plan({"method": (name, {**records.arguments(name), **(hyper or {})})})
      made, values = plan.build, plan.hyper
    self.hyper = {k: jnp.float32(v) for k, v in values.items()}
    optimizer = optimizer or recipe.make_optimizer("sgd", learning_rate=0.1)
    training = recipe.Recipe(batch_size=rows)
    augment = recipe.make_augment("none")

    def parts(values):
      method = made(model, self.spec, values)
      return build(name, method, model, self.spec, optimizer, training, stream.view.apply, augment)

    self.parts = parts(values)
    split = stream.dataset.train
    ids = np.arange(len(split.y), dtype=np.int32)
    self.data = Data(*map(jnp.asarray, (split.x, split.y, ids, stream.labels)), stream.view.tables)

    def program(part):
      one = lambda values, learner, *args: getattr(parts(values), part)(learner, *args)
      many = lambda values, learner, *args: jax.vmap(lambda l: one(values, l, *args))(learner)
      return jax.jit(many if members else one)

    self.programs = {p: program(p) for p in ("init", "start_task", "step", "end_task", "forget")}

  def renamed(self, new):
    """The same programs on the same stream, of which task ``t`` is called ``new[t]``: for methods whose programs hold
    no table of tasks."""
    old, other = np.argsort(new), copy.copy(self)
    other.stream = renamed(self.stream, new)
    other.data = self.data._replace(labels=self.data.labels[old], tables=tuple(t[old] for t in self.data.tables))
    return other

  def call(self, part, learner, *args, **hyper):
    values = {**self.hyper, **{f"method.{k}": jnp.float32(v) for k, v in hyper.items()}}
    assert set(values) == set(self.hyper)
    return self.programs[part](values, learner, *args)

  def step(self, learner, *args, **hyper):
    return self.call("step", learner, *args, **hyper)

  def where(self, task, met=None):
    """Task ``task`` after the tasks ``met``; default: those of smaller numbers."""
    of = lambda tasks: jnp.asarray(np.isin(np.arange(self.spec.num_tasks), [*tasks]))
    met = range(task) if met is None else met
    visit = Visit(jnp.int32(task), of([*met]), of([*met, task]))
    return StreamPosition(visit, *(jnp.asarray(v, jnp.int32) for v in (0, 10, 20)))

  def rows(self, task, k, weight=None):
    pool = np.asarray(self.stream.train[task])
    size = self.spec.batch_size
    index = pool[(np.arange(size) + k * BATCH) % len(pool)]
    weight = np.ones(size, np.int32) if weight is None else weight
    return jnp.asarray(index, jnp.int32), jnp.full(size, task, jnp.int32), jnp.asarray(weight)

  def boundary(self, hook, learner, task, met=None, **hyper):
    if getattr(self.parts, hook) is None:
      return learner
    rows = np.asarray(self.stream.train[task], np.int32)
    index = np.pad(rows, (0, self.spec.task_rows - len(rows)))
    args = (jnp.asarray(index), jnp.full(len(index), task, jnp.int32), jnp.int32(len(rows)))
    return self.call(hook, learner, jnp.asarray(True), self.data, self.where(task, met), *args, **hyper)

  def request(self, gone, held):
    """The arguments of ``forget`` for the rows ``gone`` and ``held`` of task 0; both are ``[n]`` row numbers."""
    size = self.spec.total_rows
    pack = lambda r: (jnp.asarray(np.pad(r, (0, size - len(r))), jnp.int32), jnp.zeros(size, jnp.int32), len(r))
    split = self.stream.dataset.train
    ids = jnp.zeros(self.spec.num_rows, bool).at[gone].set(True)
    whole = [c not in split.y[held] and c in split.y[gone] for c in range(self.spec.num_classes)]
    return self.data, self.where(0), pack(gone), pack(held), ids, jnp.asarray(whole), jnp.asarray(split.group)

  def forget_class(self, learner, label=0, **hyper):
    """The learner after forgetting class ``label`` of task 0; and the rows forgotten and kept."""
    rows, y = np.asarray(self.stream.train[0], np.int32), self.stream.dataset.train.y
    sides = rows[y[rows] == label], rows[y[rows] != label]
    return self.call("forget", learner, *self.request(*sides), **hyper)[0], sides

  def arguments(self, task, k=0, weight=None, met=None):
    return self.data, self.where(task, met), jnp.asarray(True), *self.rows(task, k, weight)

  def start(self, seed=0):
    if self.members:
      return self.call("init", jax.vmap(jax.random.key)(jnp.arange(self.members)))
    return self.call("init", jax.random.key(seed))

  def train(self, steps=3, tasks=(0, 1), weight=None, seed=0, **hyper):
    """``tasks`` in the order in which they are met; one may come back."""
    learner = self.start(seed)
    for i, task in enumerate(tasks):
      met = tasks[:i]
      learner = self.boundary("start_task", learner, task, met, **hyper)
      learner = self.steps(learner, task, steps, weight, met, **hyper)
      learner = self.boundary("end_task", learner, task, met, **hyper)
    return learner

  def steps(self, learner, task, steps, weight=None, met=(), **hyper):
    for k in range(steps):
      learner = self.step(learner, *self.arguments(task, k, self.offered(task, weight, met), met), **hyper)[0]
    return learner

  def offered(self, task, weight=None, met=()):
    """After the first visit the host says of every row that it was offered before."""
    if weight is not None:
      return weight
    return np.full(self.spec.batch_size, AGAIN if task in met else FRESH, np.int32)


class Looped(Bench):
  """The same calls by the programs of a run (:func:`cljax.engine.prepare`), which loop over its members: what was
  compiled for a run serves here. Learners have a leading member axis."""

  def __init__(self, prepared):
    setup = self.setup = prepared.setup
    self.stream, self.spec, self.data, self.parts = setup.stream, setup.spec, setup.train, setup.parts
    self.hyper, self.members = setup.hyper, setup.members.size

  def start(self, seed=0):
    return loop.initial_learner(self.setup)

  def values(self, hyper):
    given = {f"method.{k}": jnp.full(self.members, v, jnp.float32) for k, v in hyper.items()}
    assert set(given) <= set(self.hyper)
    return {**self.hyper, **given}

  def boundary(self, hook, learner, task, met=None, **hyper):
    program = getattr(self.setup.programs, hook)
    if program is None:
      return learner
    rows = np.asarray(self.stream.train[task])
    rows = program_arguments.padded(rows, np.full(len(rows), task), self.spec.task_rows)
    return program(self.values(hyper), learner, loop.all_alive(self.setup), (self.data, self.where(task, met), *rows))

  def steps(self, learner, task, steps, weight=None, met=(), **hyper):
    """The learner given is donated."""
    size = self.setup.options.chunk_steps
    alive, offered = loop.all_alive(self.setup), self.offered(task, weight, met)
    for first in range(0, steps, size):
      packed = [np.stack(a) for a in zip(*(self.rows(task, first + k, offered) for k in range(size)), strict=True)]
      rows = tuple(jnp.asarray(np.broadcast_to(a, (self.members, *a.shape))) for a in packed)
      shared = (self.data, self.where(task, met), jnp.int32(min(size, steps - first)))
      learner, alive, _ = self.setup.programs.chunk(self.values(hyper), (learner, alive), rows, shared)
    assert alive.all()
    return learner

  def scrub(self, learner, gone):
    """Without the rows ``gone [N]`` bool."""
    table = jnp.asarray(np.asarray(gone)[None])
    return self.setup.programs.scrub(self.hyper, learner, (), (table, jnp.zeros(self.spec.num_classes, bool)))


def renamed(stream, new):
  """The stream, of which task ``t`` is called ``new[t]``."""
  old = np.argsort(new)
  view = stream.view._replace(tables=tuple(t[old] for t in stream.view.tables))
  split = {f: tuple(getattr(stream, f)[t] for t in old) for f in ("train", "validation", "test")}
  events = tuple(e._replace(task=int(new[e.task])) for e in stream.events)
  return stream._replace(labels=stream.labels[old], view=view, events=events, **split)


def assert_same(a, b):
  """Bit-equal leaves, named."""
  for path, x, y in zip(tree.paths(a), jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
      x, y = jax.random.key_data(x), jax.random.key_data(y)
    np.testing.assert_array_equal(np.asarray(x), np.asarray(y), err_msg=path)


def assert_near(a, b, tolerance=2e-5):
  for path, x, y in zip(tree.paths(a), jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_allclose(np.asarray(x), np.asarray(y), atol=tolerance, rtol=2e-4, err_msg=path)
