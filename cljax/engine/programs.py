"""The compiled programs of a run: one for all tasks, over a population of seeds and hyper-parameter values."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from cljax.core.types import UsageError
from cljax.engine import evaluating, kept, origin
from cljax.engine import mesh as meshes
from cljax.engine import own_arguments as own
from cljax.engine.population import AXIS, PopulationLayout, layout, pad_members  # noqa: F401  (layout: prog.layout)
from cljax.engine.step import LearnerFns, weighed


class Clock:
  """Seconds spent compiling, training and evaluating."""

  def __init__(self):
    self.seconds = {"compile": 0.0, "train": 0.0, "eval": 0.0}

  @contextlib.contextmanager
  def timed(self, what: str):
    """Adds the time of the block to ``what``, less what was spent compiling inside it."""
    since, compiled = time.perf_counter(), self.seconds["compile"]
    yield
    self.seconds[what] += time.perf_counter() - since - (self.seconds["compile"] - compiled)


class Program:
  """A function of one member, mapped over the population, compiled once for each shape of its arguments, donated on
  request. Trees and placements are those of the first call: one program is always called with the same.

  ``fn(hyper, member_args, shared_args)``; the first two have a leading population axis. Threads may share it: what one
  compiles (:meth:`precompile`) the others wait for. The clock counts what a call waited.
  """

  def __init__(
    self, fn: Callable, members: PopulationLayout, clock: Clock, donate: bool = False, name: str = "",
    origin: Callable[[], str] = lambda: "",
  ):  # fmt: skip
    self._clock, self._name, self._origin = clock, name, origin
    self._compiled: dict[Any, Future] = {}
    self._loaded: dict[str, kept.Loaded | None] = {}
    self._lock = threading.Lock()

    def mapped(hyper, state, member, shared):
      one = lambda args: fn(*args, shared)
      args = (hyper, state, member)
      count = jax.tree.leaves(args)[0].shape[0]
      together = members.together(count)
      if together:
        return jax.vmap(one)(args) if together == count else jax.lax.map(one, args, batch_size=together)
      if count == 1:
        out = one(jax.tree.map(lambda a: a[0], args))
        return jax.tree.map(lambda a: jnp.asarray(a)[None], out)
      return jax.lax.map(one, args)

    if members.mesh is not None and members.mesh.shape[AXIS] > 1:
      split, whole = PartitionSpec(AXIS), PartitionSpec()
      only: dict[str, Any] = {} if members.placed is None else {"axis_names": {AXIS}}
      mapped = jax.shard_map(
        mapped, mesh=members.mesh, in_specs=(split, split, split, whole), out_specs=split, check_vma=False, **only
      )
    self._members = members
    # JAX's cache is asked under another name for what is kept: what it has could not be.
    mapped.__name__ = f"kept_{name}" if kept.in_use() else name or fn.__name__
    self._jit = functools.partial(jax.jit, mapped, donate_argnums=(1,) if donate else ())
    self._jitted = self._jit()

  def __call__(self, hyper, state, member, shared):
    args = (hyper, state, member, shared)
    compiled = self._compiled.get(_shapes(args))
    if compiled is None or not compiled.done():
      since = time.perf_counter()
      compiled = self.precompile(*args)
      compiled.exception()
      self._clock.seconds["compile"] += time.perf_counter() - since
    return compiled.result()(*args)

  def precompile(self, *args) -> Future:
    """Compiles for arguments of these shapes, abstract or not, unless another thread does or has."""
    key = _shapes(args)
    with self._lock:
      compiled = self._compiled.get(key)
      if compiled is not None:
        return compiled
      compiled = self._compiled[key] = Future()
    try:
      compiled.set_result(self._made(args))
    except BaseException as error:
      with self._lock:
        del self._compiled[key]
      compiled.set_exception(error)
    return compiled

  def _made(self, args):
    """The program for these arguments: as it is kept, else compiled, and kept from then on."""
    jitted = self._jitted
    if self._members.placed is not None:
      jitted = self._jit(out_shardings=meshes.shardings(self.shape(*args), self._members.placed))
      return jitted.lower(*args).compile()
    kept_as = self._kept_as(args)
    if not kept_as:
      return jitted.lower(*args).compile()
    found = self._found(kept_as, args)
    return found.call if found is not None else kept.compiled(kept_as, jitted.trace(*args), args, self._devices())

  def _found(self, kept_as: str, args) -> kept.Loaded | None:
    """The program that is kept, read once."""
    with self._lock:
      if kept_as not in self._loaded:
        self._loaded[kept_as] = kept.load(kept_as, args, self._devices())
      return self._loaded[kept_as]

  def _kept_as(self, args) -> str:
    """The name under which the program is kept; '' where none is, or what it depends on is not known."""
    origin = self._origin() if kept.in_use() else ""
    return kept.key(origin, self._name, args, self._devices()) if origin else ""

  def _devices(self) -> list:
    mesh = self._members.mesh
    return [jax.local_devices()[0]] if mesh is None else list(mesh.devices.flat)

  def shape(self, *args):
    """The shapes and dtypes of the result, without compiling."""
    kept_as = self._kept_as(args) if self._members.placed is None else ""
    found = self._found(kept_as, args) if kept_as else None
    return jax.eval_shape(self._jitted, *args) if found is None else found.shape

  @property
  def compilations(self) -> int:
    return len(self._compiled)


def _shapes(args) -> tuple:
  return tuple((a.shape, a.dtype) for a in jax.tree.leaves(args))


class Programs(NamedTuple):
  """What the event loop calls. ``parts_of(hyper)`` builds the pure functions inside the trace."""

  init: Program
  chunk: Program
  feed: Program
  start_task: Program | None
  end_task: Program | None
  evaluate: Program
  forget: Program | None
  scrub: Program | None


def _steps(step: Callable, learner, alive, count, shape: tuple[int, ...], records: bool):
  """``count`` of at most K ``step(i, learner, alive)``, ``shape = (K, B)``: learner, alive and the losses ``[K]``; of
  steps that say more of their B rows, that too."""

  def body(i, carry):
    learner, alive, loss, *kept = carry
    learner, alive, value, *said = step(i, learner, alive)
    return (learner, alive, loss.at[i].set(value), *(k.at[i].set(s) for k, s in zip(kept, said, strict=True)))

  kept = [jnp.zeros((shape[0], 2, -(-shape[1] // 8)), jnp.uint8)] if records else []
  return jax.lax.fori_loop(0, count, body, (learner, alive, jnp.zeros(shape[0], jnp.float32), *kept))


def make(
  parts_of: Callable[[Any], LearnerFns],
  probe: LearnerFns,
  view_apply,
  spec,
  members: PopulationLayout,
  clock: Clock,
  kept_rows: evaluating.Kept | None = None,
) -> Programs:
  """Builds the programs. ``probe`` (a Parts built with concrete defaults) says which hooks exist;
  ``kept_rows``: what an evaluation says of each row."""
  place = meshes.placement(members.placed) if members.placed is not None else None
  hooks = [n for n, f in probe._asdict().items() if n not in ("method", "objective") and f is not None]
  laid = (
    members.size,
    members.padded,
    members.platform,
    members.group,
    members.mesh is not None and dict(members.mesh.shape),
  )

  once = threading.Lock()

  def came_from() -> str:
    with once:
      return depends_on()

  @functools.cache
  def depends_on() -> str:
    """What all these programs depend on; '' where that is not known."""
    if place is not None or getattr(jax.config, "jax_default_device", None) is not None or jax.process_count() > 1:
      return ""
    try:
      return origin.digest((parts_of, view_apply, spec, laid, hooks, kept_rows))
    except Exception as error:  # Undetermined, or what an object of the user's own raises when it is looked at
      kept.LOG.debug("programs are not kept: %s: %s", type(error).__name__, error)
      return ""

  program = lambda fn, name, donate=False: Program(fn, members, clock, donate, name, came_from)

  def init(hyper, state, seed, shared):
    del state, shared
    return parts_of(hyper).init(jax.random.key(seed))

  def chunk(hyper, state, rows, shared):
    """Up to K steps: ``rows = (index, row_task, offered) [K, B]``; runs ``count`` of them."""
    learner, alive = state
    data, where, count = own.steps(hyper, shared)
    parts = parts_of(hyper)
    index, row_task, offered = rows

    step = lambda i, learner, alive: parts.step(learner, data, where, alive, index[i], row_task[i], offered[i])
    return _steps(step, learner, alive, count, index.shape, parts.records)

  def feed(hyper, state, batches, shared):
    """As ``chunk``, on batches that came from the host: a Batch with leading axes ``[K, B]``, its weight as in
    :func:`cljax.engine.step.weighed`."""
    learner, alive = state
    tables, where, count = shared
    parts = parts_of(hyper)

    def step(i, learner, alive):
      batch = jax.tree.map(lambda a: a[i], batches)
      batch = weighed(batch._replace(class_mask=spec.class_mask(batch.task, where.visit.trained)), batch.weight)
      return parts.step_on_batch(learner, where, alive, batch, tables)

    return _steps(step, learner, alive, count, batches.weight.shape, parts.records)

  def boundary(field):
    def run(hyper, learner, alive, shared):
      return getattr(parts_of(hyper), field)(learner, alive, *own.boundary(hyper, shared))

    return program(run, field) if getattr(probe, field) is not None else None

  def forget(hyper, learner, member, shared):
    del member
    parts = parts_of(hyper)
    assert parts.forget is not None
    return parts.forget(learner, *shared)

  def scrub(hyper, learner, member, shared):
    del member
    parts = parts_of(hyper)
    assert parts.scrub is not None
    return parts.scrub(learner, *shared)

  evaluated = evaluating.made(parts_of, view_apply, spec, place, kept_rows)

  def evaluate(hyper, learner, member, shared):
    return evaluated(hyper, learner, member, own.evaluation(hyper, shared))

  return Programs(
    init=program(init, "init"),
    chunk=program(chunk, "chunk", donate=True),
    feed=program(feed, "feed", donate=True),
    start_task=boundary("start_task"),
    end_task=boundary("end_task"),
    evaluate=program(evaluate, "evaluate"),
    forget=program(forget, "forget") if probe.forget is not None else None,
    scrub=program(scrub, "scrub") if probe.scrub is not None else None,
  )


class Blocks(NamedTuple):
  """Evaluation rows cut into blocks of one slot each.

  ``index, weight [n, block]``, ``task [n]``, ``slot [count]``, ``totals [slots]``. A slot is a set of rows
  with a score of its own (a task's test rows, say); ``count`` blocks are real. Where rows lie in order, ``index [n]``
  has the first of each block: cutting them out is cheaper than gathering.
  """

  index: Any
  weight: Any
  task: Any
  slot: np.ndarray
  totals: np.ndarray
  count: Any

  @property
  def arguments(self) -> tuple:
    """What the ``evaluate`` program takes of them."""
    return self.index, self.weight, self.task, self.count

  def by_slot(self, sums) -> np.ndarray:
    """``[S, slots, ...]`` float64 of what each block gave, ``[S, n, ...]``."""
    count = len(self.slot)
    one = np.zeros((len(self.totals), count))
    one[self.slot, np.arange(count)] = 1
    return np.einsum("sb,mb...->ms...", one, np.asarray(sums, np.float64)[:, :count])


def blocks(slots, block: int = 256, length: int = 0, ordered: int = 0) -> Blocks:
  """Cuts ``slots``, a list of ``(task, row indices)``, into blocks; pads to ``length`` blocks, to share a shape.

  ``ordered``: the number of rows in the data, at least ``block``, where those of each slot follow one another (0: they
  do not). A block at the end of the data begins earlier, with weight 0 for the rows before its own.
  """
  index, weight, task, slot = [], [], [], []
  for s, (t, rows) in enumerate(slots):
    for at in range(0, len(rows), block):
      part = rows[at : at + block]
      first = min(part[0], ordered - block) if ordered else 0
      index.append(first if ordered else np.pad(part, (0, block - len(part))))
      before = part[0] - first if ordered else 0
      weight.append(np.pad(np.ones(len(part)), (before, block - before - len(part))))
      task.append(t)
      slot.append(s)
  if not index:
    raise UsageError("evaluation: no rows to evaluate on")
  count = len(index)
  pad = max(0, length - count)
  pack = lambda a: np.pad(np.asarray(a, np.int32), ((0, pad),) + ((0, 0),) * (np.ndim(a) - 1))
  totals = np.asarray([len(rows) for _, rows in slots], np.int32)
  return Blocks(pack(index), pack(weight), pack(task), np.asarray(slot, np.int32), totals, np.int32(count))


def in_order(slots) -> tuple[np.ndarray | None, list]:
  """``(order, slots)``: an order of the rows in which those of every slot follow one another, and the slots in it.

  Slots may share all their rows or none (the views of a set, the parts of one); the order of others is None.
  """
  order = np.concatenate([np.asarray(rows, int) for _, rows in slots])
  _, first = np.unique(order, return_index=True)
  order = order[np.sort(first)]
  place = np.zeros(order.max(initial=-1) + 1, int)
  place[order] = np.arange(len(order))
  moved = [(t, place[np.asarray(rows, int)]) for t, rows in slots]
  if all((np.diff(rows) == 1).all() for _, rows in moved):
    return order, moved
  return None, slots


def on_device(blocks: Blocks, members: PopulationLayout) -> Blocks:
  """Blocks that are used again and again, on the device; what only the host reads stays there."""
  return Blocks(*replicate(tuple(blocks), members))._replace(totals=blocks.totals, slot=blocks.slot)


def replicate(tree, members: PopulationLayout):
  """Puts shared arrays on every device of the population's mesh."""
  if members.mesh is None:
    return jax.tree.map(lambda a: a if isinstance(a, jax.Array) else jnp.asarray(a), tree)
  if members.placed is not None:
    place = NamedSharding(members.placed, PartitionSpec())
    return meshes.put(tree, jax.tree.map(lambda _: place, tree))
  return jax.device_put(tree, NamedSharding(members.mesh, PartitionSpec()))


def shard_members(tree, members: PopulationLayout):
  """Puts member arrays (leading population axis, unpadded) on the mesh, one share a device."""
  tree = pad_members(tree, members)
  if members.mesh is not None and members.placed is None:
    return jax.device_put(tree, NamedSharding(members.mesh, PartitionSpec(AXIS)))
  tree = jax.tree.map(jnp.asarray, tree)
  return tree if members.placed is None else meshes.put(tree, meshes.shardings(tree, members.placed))


def gather(tree, members: PopulationLayout):
  """As ``unpad``; over a mesh that was asked for, whole on every device. Every process must call it."""
  return unpad(meshes.whole(tree, members.placed) if members.placed is not None else tree, members)


def fetch(tree, members: PopulationLayout):
  """As ``gather``, this process's own copy."""
  tree = gather(tree, members)
  return meshes.local(tree) if members.placed is not None else tree


def unpad(tree, members: PopulationLayout):
  if members.size == members.padded:
    return _first(tree, members.size)
  return _first_jitted(tree, members.size)


def _first(tree, count: int):
  return jax.tree.map(lambda a: a[:count], tree)


# One program for a tree, where leaf by leaf it were one for each of their shapes.
_first_jitted = jax.jit(_first, static_argnums=1)
