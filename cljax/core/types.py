"""The vocabulary: everything that crosses a border between two parts of cljax.

All are NamedTuples, so all are pytrees; nothing inherits from anything. Shapes use ``B`` rows, ``C`` classes,
``T`` tasks. Functions stored in a tuple (``Model``, ``Method``, ``Rows``) are built inside the trace and never cross
a ``jit`` border.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cljax import _old_names

Array = jax.Array
Scalar = float | Array  # a continuous setting, such as a strength: a number, or traced
Params = Any  # a pytree of parameters
Tree = Any
OptState = Any  # the state of an optax transformation


class CljaxError(Exception):
  """Base of the errors that cljax raises on purpose; its text is one line."""


class UsageError(CljaxError, ValueError):
  """A wrong argument: names the argument, what was given and what is allowed. Launchers exit with code 2 on it."""


class AccessError(CljaxError):
  """A method touched an input that it did not declare (see :class:`Access`)."""


class GoneError(UsageError, AttributeError):
  """A field that 0.1 had, asked for by a user's own code."""


def _gone(owner: str, fields: dict[str, str]) -> Callable:
  """``__getattr__`` of a tuple: names the line that asks for a field that is gone, and what there is instead."""

  def getter(self, name: str):
    if name in fields:
      raise GoneError(_old_names.gone(f"{owner}.{name}", fields[name]))
    raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

  return getter


class Batch(NamedTuple):
  """Rows of data. Every row carries its own mask and task, because replayed rows differ from new ones.

  A row of weight 0 is as if absent (its id is -1, its input and label are 0). The task loss is the weighted mean over
  all rows; with ``group`` it is ``sum_g scale[g] * (weighted mean over the rows of group g)``, where each row is of one
  group. Rows of a group of scale 0 still take part in the forward pass and BatchNorm.

  Where a method gets the rows of a step (``prepare``, ``after_step``, a Reference), ``x`` is as it was read: what is
  stored is augmented and shown as its task shows it (``Spec.view``) each time it is used. In ``terms``, and in
  :class:`Rows`, ``x`` is what the model sees.
  """

  x: Any  # [B, ...] inputs
  y: Any  # [B] int32 labels
  weight: Any  # [B] float32
  id: Any  # [B] int32 places in the stored rows; the same for the whole run, -1 where absent
  task: Any  # [B] int32 task of each row
  class_mask: Any = None  # [B, C] bool, the classes that take part in the row's softmax; None for all
  group: Any = None  # [B] int32 below G, or None: all rows are of one group of scale 1
  extra: Any = {}  # what a method carries beside each row, keyed by the method's own names
  fresh: Any = None  # [B] float32: 1 where the run offers this row of this task for the first time
  visit: Any = None  # Visit, the same for all rows; None outside a step
  scale: Any = None  # [G] float32 beside ``group``


class Visit(NamedTuple):
  """Where in the stream a learner stands, all traced. A task's number says nothing of when it was met; this does."""

  task: Any  # int32, the task that is learned
  met: Any  # [T] bool: tasks of earlier Learn events; the current one among them where it comes back
  trained: Any  # [T] bool: tasks whose rows this event or one before it trains on; with ``trains_on='all'`` every one

  @classmethod
  def in_order(cls, task, num_tasks: int) -> Visit:
    """The first visit of a task where each comes once, in the order of their numbers."""
    number = jnp.arange(num_tasks)
    return cls(jnp.asarray(task, jnp.int32), number < task, number <= task)

  @property
  def first(self):
    """Whether the current task is met for the first time."""
    return ~self.met[self.task]

  @property
  def others(self):
    """int32: how many other tasks were met before."""
    return (self.met & (jnp.arange(self.met.shape[0]) != self.task)).sum(dtype=jnp.int32)

  @property
  def seen(self):
    """[T] bool: tasks met before, and the current one."""
    return self.met | (jnp.arange(self.met.shape[0]) == self.task)


class Outputs(NamedTuple):
  """What a model returns: ``logits [B, C]``, penultimate ``features [B, D]`` and a tuple of hidden activations.

  ``cache``: of a decoder that was given one, what it keeps of its tokens for the next call.
  """

  logits: Any
  features: Any = None
  hidden: Any = ()
  cache: Any = None


class Model(NamedTuple):
  """A model as pure functions.

  ``init(key) -> (params, model_state)``;
  ``apply(params, model_state, x, *, train, key, task=None, mask=None) -> (Outputs, model_state)``, where ``mask [B]``
  is 1 for rows that exist (BatchNorm must not see the others), ``key`` feeds dropout and ``task`` is the task of the
  rows; ``capture(params, model_state, x, probe) -> (logits, {path: LayerCall})`` exposes layer inputs and output
  gradients (see ``cljax.estimators``), and ``units`` names the in/out kernels of each hidden layer.
  ``with_activation(name or function) -> Model``, where there is one, builds the same network with another activation.

  ``by_task``: the model reads the task of its rows (heads or prompts of each task). ``task`` is then int32 ``[B]``, one
  for each row, for replayed rows are of other tasks than new ones; a scalar where all rows are of one task; and
  ``capture`` takes it too. The stream has to tell the task at test. Without ``by_task`` a model is given the current
  task as a scalar, or None, and refused where it reads it and rows of several tasks meet (``cljax.models.by_row``).

  ``check_rows(x)``, where there is one, raises UsageError where rows, in NumPy as they are stored, hold a number that
  the model has no place for: a look-up past the end gives NaN, one of a negative number another entry, without a word.

  ``prompts``, where there is one, is a :class:`cljax.models.prompts.Places`: ``apply`` takes ``prompts=`` too.
  ``plain(params, model_state) -> (params, model_state)``, of one whose parameters are made from others: its network's
  own; ``texts(params, model_state) -> [M, D]``: what features are compared with, ``logits = features texts^T``.
  """

  init: Callable
  apply: Callable
  capture: Callable | None = None
  units: tuple = ()
  with_activation: Callable | None = None
  by_task: bool = False
  check_rows: Callable | None = None
  prompts: Any = None
  plain: Callable | None = None
  texts: Callable | None = None

  def task_for(self, task: Any) -> Any:
    """What ``apply`` is given of the rows' tasks: ``task`` where the model reads it, else None."""
    return task if self.by_task else None


LossFn = Callable[[Params, Batch], Array]  # the losses of a batch's rows, [B]
ApplyFn = Callable[[Params, Batch], Array | Outputs]  # what a model makes of a batch: logits, or all of it


class Memory(NamedTuple):
  """A fixed-capacity buffer as pure functions over a pytree state.

  ``init(row) -> state`` from one example row (a pytree without the leading axis);
  ``add(key, state, rows, weight) -> state`` inserts the rows of positive weight, in order;
  ``sample(key, state, n) -> (rows, weight)``, without replacement, weight 0 where fewer than ``n`` are stored;
  ``remove(state, gone) -> state`` with ``gone(rows) -> [capacity] bool`` erases rows (their bytes are zeroed);
  ``contents(state) -> (rows, weight)`` is all of it.
  """

  init: Callable
  add: Callable
  sample: Callable
  remove: Callable
  contents: Callable


class Learner(NamedTuple):
  """All that a run carries from step to step, and all that a checkpoint holds of it."""

  step: Any  # int32, optimizer steps taken so far
  key: Any  # typed PRNG key of this seed; never split, only folded
  params: Any
  model_state: Any
  opt_state: Any
  method_state: Any


class StepInfo(NamedTuple):
  """What ``after_step`` sees: the batch before augmentation, and what the step computed from it."""

  batch: Batch
  outputs: Outputs
  gradient: Any  # of the loss and terms, before any transform
  updates: Any  # what was added to the parameters
  loss: Any


class Rows(NamedTuple):
  """A set of data rows inside a trace: ``batch(start, size) -> Batch`` reads rows ``start..start+size``.

  ``capacity`` (static) bounds ``count`` (traced). Rows past the count come back with weight 0. ``batch`` gives them as
  the model sees them, ``as_read()`` the same set as a memory stores them. ``lay``, on a mesh, lays a block of rows that
  was put together from others over the devices, as those of ``batch`` are.
  """

  capacity: int
  count: Any
  batch: Callable[[Any, int], Batch]
  read: Callable[[Any, int], Batch] | None = None
  lay: Callable[[Batch], Batch] | None = None

  def as_read(self) -> Rows:
    return self if self.read is None else self._replace(batch=self.read)


class Task(NamedTuple):
  """A task at its boundary: where the stream stands, the task's rows (withheld unless ``Access.boundary_data``), and
  their number, which every method is told: int32, of the rows that are still there. ``steps``, int32: how many the
  visit is planned to take; patience may end it sooner."""

  visit: Visit
  rows: Any
  count: Any = None
  steps: Any = None

  @property
  def id(self):
    """int32: the task's number, to look things up by; for "how far we are" use ``visit``."""
    return self.visit.task


class Learn(NamedTuple):
  """A stream event: learn one task."""

  task: int


class Forget(NamedTuple):
  """A stream event: forget rows by class, by row id, by task or by group.

  A request is about rows as tasks show them. ``classes`` are the data set's, by name or place
  (``streams.class_places``); ``tasks`` names the pairs of these tasks alone; ``classes``, ``ids`` and ``groups`` name
  rows in every task that shows them, learned or yet to be.
  Fields are combined by union; ``match='all'`` takes the rows that every given field names instead, such as a group of
  one class (a sub-class). ``holds`` says what the operator still has: any of ``'forget'``, ``'retain'``, ``'prefix'``
  (all past data and events).
  """

  classes: tuple = ()
  ids: tuple = ()
  tasks: tuple = ()
  groups: tuple = ()
  holds: tuple = ("forget", "retain", "prefix")
  match: str = "any"


class Request(NamedTuple):
  """A resolved :class:`Forget`, inside the trace: the rows to forget, the rows to keep, and what names them."""

  forget: Any  # Rows, or WITHHELD
  retain: Any  # Rows, or WITHHELD
  named: Any  # [1 or T, N] bool over (task, row id): what is to be forgotten; one line where no tasks share rows
  classes: Any  # [C] bool: labels that this request takes whole: no row with one is left, however it is spelled
  groups: Any = None  # [N] int32: the group of each row id
  gone: Any = None  # [C] bool: labels that earlier requests took whole

  def names(self, row_id, row_task):
    """Bool: whether the rows of these ids (-1: no row), as these tasks show them, are to be forgotten."""
    named = jnp.atleast_2d(self.named)
    return named[row_task % named.shape[0], row_id] & (row_id >= 0)


class Access(NamedTuple):
  """What a method is allowed to see. The engine hands it this and nothing else.

  ``needs`` names what it asks of the objective, whose lack refuses it: 'classes', 'plain_inputs' (the method applies
  the model on rows itself), or a field of :class:`cljax.objectives.objective.Objective` that may be None. A method that
  says nothing is taken to need classes.
  """

  stores_data: bool = False  # keeps raw inputs between steps
  row_ids: bool = False  # sees which rows a step is of, by their ids, but not what they hold
  task_boundaries: bool = False  # start_task and end_task are called
  boundary_data: bool = False  # end_task may pass over the task's data
  task_id_at_test: bool = False  # predict needs the task
  trains_on: str = "current"  # 'current', 'seen' or 'all': which tasks' rows an event trains on
  forgets: bool = False  # answers Forget events
  forget_data: bool = False  # the rows to forget, when forgetting
  retain_data: bool = False  # the rows to keep, when forgetting
  prefix: bool = False  # replays the event prefix (exact retraining)
  needs: tuple[str, ...] = ("classes",)  # of the objective
  unlabelled: bool = False  # can learn from rows whose label the stream withholds: their y is -1


class Spec(NamedTuple):
  """Sizes known before training; all static."""

  num_classes: int
  num_tasks: int
  input_shape: tuple
  input_dtype: Any
  batch_size: int  # rows of the current task in a step; they stand first in the batch
  num_rows: int  # rows of the training split; row ids are 0..num_rows-1
  task_rows: int  # rows of the largest task
  total_rows: int  # (row, task) pairs of the whole stream
  classes_of_task: np.ndarray  # [T, C] bool
  active: str = "all"  # 'all', 'seen' or 'task': classes in a training row's softmax
  task_id_given: bool = False  # the scenario tells the task at test time
  row_shape: tuple = ()  # of one stored row, before its task's view
  row_dtype: Any = None
  row: Any = None  # one stored row, abstract; a tree where inputs are one, and then so are the shapes and dtypes above
  shown: Any = None  # one row as its task's view shows it, abstract
  view: Callable = lambda x, row_task: x  # (x [B, *row_shape], row_task [B]) -> [B, *input_shape]
  target: Any = jax.ShapeDtypeStruct((), np.int32)  # of one row's target: a tree of shapes and dtypes
  objective: Any = None  # cljax.objectives.objective.Objective, made for this trace
  scale: float | None = None  # a model eats ``float32(x) * scale`` of what is stored; None: x itself

  def class_mask(self, row_task, trained):
    """The ``[*row_task.shape, C]`` mask of classes in each row's softmax, or None where all take part.

    ``trained [T] bool``: the tasks whose classes count as seen (``Visit.trained``).
    """
    if self.active == "all":
      return None
    table = jnp.asarray(self.classes_of_task)
    if self.active == "task":
      return table[row_task]
    return jnp.broadcast_to((trained[:, None] & table).any(0), (*row_task.shape, self.num_classes))


class Tools(NamedTuple):
  """What ``forget`` may use of the run: ``reset_optimizer(learner) -> learner``, its optimizer in a fresh state."""

  reset_optimizer: Callable


def name_what_is_gone(kind: Any, fields: dict[str, str]) -> None:
  """Makes a tuple name the user's line that reads or gives a field it no longer has, and what there is instead.

  Behind the class: in its body a type checker would pass every name.
  """
  owner, new, replace = kind.__name__, kind.__new__, kind._replace

  def refuse(given) -> None:
    for name in fields.keys() & given:
      raise GoneError(_old_names.gone(f"{owner}.{name}", fields[name]))

  def made(cls, *values, **given):
    refuse(given)
    return new(cls, *values, **given)

  def replaced(self, /, **given):
    refuse(given)
    return replace(self, **given)

  for name, method in (("__getattr__", _gone(owner, fields)), ("__new__", made), ("_replace", replaced)):
    setattr(kind, name, method)


for _tuple, _fields in (
  (Batch, {
    "coefficient": "rows that share a scale of the loss are a group: methods.replay.append(batch, more, scale=), or "
    "group and scale",
  }),
  (Request, {"ids": "a row is named as a task shows it: request.names(batch.id, batch.task)"}),
  (Tools, {
    "gradient": "differentiate spec.objective's loss, as cljax/unlearning/descent.py does",
    "train": "loop over batches of request.retain with an optax optimizer, as cljax/unlearning/descent.py does",
  }),
  (Access, {"pretrained": "nothing used it: leave it out"}),
):  # fmt: skip
  name_what_is_gone(_tuple, _fields)


class Withheld:
  """Stands where an undeclared input would be; any use raises :class:`AccessError` at trace time."""

  __slots__ = ("_what",)

  def __init__(self, what: str):
    object.__setattr__(self, "_what", what)

  def _refuse(self, *_, **__):
    raise AccessError(f"{self._what} was not declared in the method's Access, so the engine withholds it")

  def __getattr__(self, name):
    if name.startswith("__") and name not in ("__jax_array__",):
      raise AttributeError(name)
    self._refuse()

  __getitem__ = __call__ = __iter__ = __len__ = __bool__ = __array__ = __add__ = __radd__ = __mul__ = __rmul__ = _refuse
  __sub__ = __rsub__ = __eq__ = __lt__ = __gt__ = __le__ = __ge__ = __neg__ = __int__ = __float__ = __index__ = _refuse
  __hash__ = None  # type: ignore[assignment]

  def __repr__(self):
    return f"Withheld({self._what!r})"


def rows_from_arrays(x, y, weight=None, ids=None, task=0) -> Rows:
  """Wraps user arrays as :class:`Rows`, for the estimators: ``x [N, ...]``, ``y [N]``, ``weight [N]`` (default
  ones). Of no rows at all, a set of capacity 1 and count 0."""
  x, y = jnp.asarray(x), jnp.asarray(y)
  if x.shape[0] != y.shape[0]:
    raise UsageError(f"y: has {y.shape[0]} rows; x has {x.shape[0]}")
  n = x.shape[0]
  if not n:  # nothing to read from: one row, which is not there
    x, y = (jnp.zeros((1, *v.shape[1:]), v.dtype) for v in (x, y))
    return rows_from_arrays(x, y, weight=jnp.zeros(1), task=task)._replace(count=0)
  weight = jnp.ones(n, jnp.float32) if weight is None else jnp.asarray(weight, jnp.float32)
  ids = jnp.arange(n, dtype=jnp.int32) if ids is None else jnp.asarray(ids)

  def batch(start, size):
    at = jnp.asarray(start, jnp.int32) + jnp.arange(size, dtype=jnp.int32)
    inside = at < n
    at = jnp.minimum(at, n - 1)
    return Batch(x[at], y[at], jnp.where(inside, weight[at], 0.0), ids[at], jnp.full(size, task, jnp.int32))

  return Rows(n, n, batch)
