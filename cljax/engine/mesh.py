"""Meshes of devices, of one process or of several, and how one learner's step lies on them.

Axes: ``population`` (members), ``data`` (the rows of each batch; parameters on every device) and ``fsdp`` (rows too,
and parameters and optimizer state cut). XLA inserts the communication; methods know nothing of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cljax.core.types import CljaxError, Learner, UsageError

POPULATION, DATA, FSDP = AXES = ("population", "data", "fsdp")


class Placement(NamedTuple):
  """Hooks of a learner's programs: ``rows(tree)`` cuts the leading axis, which ``shares`` must divide;
  ``learner(learner)`` keeps a learner where it is."""

  rows: Callable
  learner: Callable
  shares: int = 1


def parse(text: str) -> dict[str, int]:
  """``'population:1,data:2'`` as ``{"population": 1, "data": 2}``. Raises UsageError."""
  out: dict[str, int] = {}
  for part in filter(None, text.replace(" ", "").split(",")):
    name, _, size = part.partition(":")
    if name not in AXES or name in out or not size.isdigit() or not int(size):
      raise UsageError(f"mesh: got {text!r}; expected AXIS:DEVICES,... with the axes {', '.join(AXES)}, each once")
    out[name] = int(size)
  return out


def make(axes: Mapping[str, int], devices: Sequence[Any] | None = None) -> Mesh:
  """A mesh of all three axes (1 where not named) over ``devices`` (default: those of all processes).

  Raises UsageError for an unknown axis, for more devices than there are, and, where there are several processes, for
  fewer: each of them takes part.
  """
  for name, size in axes.items():
    if name not in AXES or not isinstance(size, int) or size < 1:
      raise UsageError(f"mesh: got {name}:{size}; expected a number of devices for each of {', '.join(AXES)}")
  devices = list(devices or jax.devices())
  shape = tuple(axes.get(name, 1) for name in AXES)
  wanted, is_multi_process = math.prod(shape), len({d.process_index for d in devices}) > 1
  if wanted > len(devices) or (is_multi_process and wanted < len(devices)):
    text = " x ".join(map(str, shape))
    exactly = "exactly" if is_multi_process else "at most"
    raise UsageError(f"mesh: {text} needs {wanted} devices; expected {exactly} the {len(devices)} that there are")
  return jax.make_mesh(shape, AXES, devices=devices[:wanted], axis_types=(AxisType.Auto,) * len(AXES))


def rows_over(mesh: Mesh) -> int:
  """Over how many devices the rows of a batch are cut."""
  return mesh.shape[DATA] * mesh.shape[FSDP]


def _cut(leaf, size: int) -> tuple:
  """The spec of a parameter: its largest axis that ``size`` divides lies over ``fsdp``."""
  able = [(n, -i) for i, n in enumerate(leaf.shape) if size > 1 and n and n % size == 0]
  if not able or jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
    return ()
  axis = -max(able)[1]
  return (*(None,) * axis, FSDP)


def _specs(learner: Learner, size: int) -> Learner:
  """``{leaf: spec}`` of a learner without a member axis."""
  whole = lambda tree: jax.tree.map(lambda _: (), tree)
  cut = lambda tree: jax.tree.map(lambda a: _cut(a, size), tree)
  out = learner._replace(**{f: whole(getattr(learner, f)) for f in ("step", "key", "model_state", "method_state")})
  return out._replace(params=cut(learner.params), opt_state=cut(learner.opt_state))


def placement(mesh: Mesh) -> Placement:
  """The hooks of a step that is compiled for ``mesh``."""
  # Inside shard_map over the population a constraint speaks of the axes that are left.
  place = lambda spec: PartitionSpec(*spec) if mesh.shape[POPULATION] > 1 else NamedSharding(mesh, PartitionSpec(*spec))
  constrain = lambda a, spec: jax.lax.with_sharding_constraint(a, place(spec))

  def rows(tree):
    return jax.tree.map(lambda a: constrain(a, ((DATA, FSDP),)), tree)

  def learner(value: Learner) -> Learner:
    specs = _specs(value, mesh.shape[FSDP])
    return jax.tree.map(constrain, value, specs)

  return Placement(rows, learner, rows_over(mesh))


def shardings(tree, mesh: Mesh):
  """Where arguments and results lie: learners (leading member axis) by their leaves, all else whole on every
  device, so that each process can read it."""
  whole = NamedSharding(mesh, PartitionSpec())

  def of(node):
    if not isinstance(node, Learner):
      return whole
    one = jax.eval_shape(lambda t: jax.tree.map(lambda a: a[0], t), node)
    specs = _specs(one, mesh.shape[FSDP])
    return jax.tree.map(lambda _, spec: NamedSharding(mesh, PartitionSpec(POPULATION, *spec)), one, specs)

  return jax.tree.map(of, tree, is_leaf=lambda node: isinstance(node, Learner))


def put(tree, places):
  """Arrays of this process, the same in every process, at their places on the mesh."""

  def one(a, place):
    if isinstance(a, jax.Array) and not a.is_fully_addressable:
      return a
    if place.is_fully_addressable:
      return jax.device_put(a, place)
    if isinstance(a, jax.Array) and jax.numpy.issubdtype(a.dtype, jax.dtypes.prng_key):
      return jax.random.wrap_key_data(one(jax.random.key_data(a), place))
    host = np.asarray(jax.numpy.asarray(a))
    return jax.make_array_from_callback(host.shape, place, lambda index: host[index])

  return jax.tree.map(one, tree, places)


def whole(tree, mesh: Mesh):
  """The tree whole on every device of ``mesh``. Every process must call it."""
  return jax.jit(lambda t: t, out_shardings=NamedSharding(mesh, PartitionSpec()))(tree)


def local(tree):
  """This process's copy of arrays that lie whole on every device."""
  return jax.tree.map(lambda a: a.addressable_data(0), tree)


def is_multi_process(mesh: Mesh | None) -> bool:
  """Whether the devices of a mesh belong to several processes."""
  return mesh is not None and mesh.is_multi_process


def is_main_process(mesh: Mesh | None) -> bool:
  """Whether this process writes files and speaks: process 0 of several."""
  return not is_multi_process(mesh) or jax.process_index() == 0


def first(value: float, mesh: Mesh | None) -> float:
  """Process 0's value, in every process: what clocks say differs."""
  if not is_multi_process(mesh):
    return value
  from jax.experimental import multihost_utils

  return float(multihost_utils.broadcast_one_to_all(np.float32(value)))


def anywhere(flag: bool, mesh: Mesh | None) -> bool:
  """Whether the flag is set in any process: none may leave the others alone in a collective."""
  if not is_multi_process(mesh):
    return flag
  from jax.experimental import multihost_utils

  return bool(multihost_utils.process_allgather(np.int32(flag)).any())


def agree(what: str, values: Sequence[int], mesh: Mesh | None) -> None:
  """Raises CljaxError, in every process, where the values are not the same in all of them."""
  if not is_multi_process(mesh):
    return
  from jax.experimental import multihost_utils

  given = multihost_utils.process_allgather(np.asarray(values, np.int32))
  if (given != given[0]).any():
    raise CljaxError(f"{what}: differs between processes ({', '.join(str(g.tolist()) for g in given)})")
