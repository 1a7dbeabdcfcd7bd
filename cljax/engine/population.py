"""How the members of a population lie over devices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cljax.core.types import UsageError
from cljax.engine import mesh as meshes

AXIS = meshes.POPULATION


class PopulationLayout(NamedTuple):
  """How a population is laid out: ``size`` members padded to ``padded``, over ``mesh`` (None: one device)."""

  size: int
  padded: int
  mesh: Mesh | None
  platform: str
  group: int = 0  # members of a device that are mapped together, by vmap; the groups follow one another (0: see below)
  placed: Mesh | None = None  # ``mesh`` where it was asked for, with axes beside the population's

  def together(self, count: int) -> int:
    """Of ``count`` members of a device, how many at once, 0 for one without vmap. By default all on accelerators, and
    one on CPU, where vmap gains nothing."""
    if self.group:
      return min(self.group, count) if min(self.group, count) > 1 else 0
    return 0 if self.platform == "cpu" else count


def layout(size: int, devices=None, axes: Mapping[str, int] | None = None, group: int = 0) -> PopulationLayout:
  """Shards members over all local devices; padding repeats the last member, and is dropped from every result.

  With ``axes`` over a mesh of those sizes, of the devices of all processes. ``group``: of the layout.
  """
  if axes:
    mesh = meshes.make(axes, devices)
    used = mesh.shape[AXIS]
    if used > size:
      raise UsageError(f"mesh.population: got {used} for {size} members; expected at most one device a member")
    return PopulationLayout(size, -(-size // used) * used, mesh, mesh.devices.flat[0].platform, group, placed=mesh)
  devices = list(devices or jax.local_devices())
  platform = devices[0].platform
  used = min(len(devices), size)
  if used == 1:
    return PopulationLayout(size, size, None, platform, group)
  mesh = jax.make_mesh((used,), (AXIS,), devices=devices[:used], axis_types=(jax.sharding.AxisType.Auto,))
  return PopulationLayout(size, -(-size // used) * used, mesh, platform, group)


def pad_members(tree, members: PopulationLayout):
  """Repeats the last member of each leaf up to the padded size; NumPy's arrays stay on the host, where that compiles
  nothing."""
  extra = members.padded - members.size
  if not extra:
    return tree
  of = lambda a: np if isinstance(a, np.ndarray) else jnp
  return jax.tree.map(lambda a: of(a).concatenate([a, of(a).repeat(a[-1:], extra, axis=0)]), tree)
