"""The table of all transforms: how each is made and brought to act, and what it must give, in float64 NumPy.

Three leaves: ``kernel [2, 3]`` and ``bias [3]`` of a first layer, ``out [3, 2]`` of a second. Each row is initialised
at A, ends a task there, and gets the gradient G at W. ``python tests/transforms/cases.py`` prints the
text of docs/own_loop.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from transforms.formulas import (
  SPREAD,
  classp,
  coso,
  cuber_pull,
  each,
  first_row_held,
  hierarchical,
  kron,
  natural,
  off,
  owm,
  pull,
  sgp,
  spectral,
  tag,
  wasserstein,
)

from cljax import edits, optimizers, projectors, regularizers
from cljax.models.zoo import Unit

LEAVES = ("kernel", "bias", "out")
SHAPES = {"kernel": (2, 3), "bias": (3,), "out": (3, 2)}
RNG = np.random.default_rng(7)


def draw(scale=1.0) -> dict:
  return {n: (scale * RNG.normal(size=s)).astype(np.float32) for n, s in SHAPES.items()}


A, W, G, G0, R = draw(), draw(), draw(), draw(), draw()
F = {n: np.abs(x) for n, x in draw().items()}  # importance
if sum(np.sum(G[n] * R[n]) for n in LEAVES) > 0:
  R = {n: -x for n, x in R.items()}  # the reference opposes the gradient
for _x in (A, W):  # a clear largest singular value, for power iteration
  _x["kernel"] = (np.outer([2.0, 0.5], [1.0, -0.5, 0.3]) + 0.02 * _x["kernel"]).astype(np.float32)
  _x["out"] = (np.outer([0.5, -1.0, 0.2], [1.0, 0.4]) + 0.02 * _x["out"]).astype(np.float32)

FL, FR = ({n: x.T @ x / 3 + 0.5 * np.eye(s) for n in SHAPES if len(SHAPES[n]) == 2 for s in (SHAPES[n][side],)
           for x in (RNG.normal(size=(3, s)),)} for side in (0, 1))  # fmt: skip


class Values(NamedTuple):
  """What a formula reads: dicts by leaf, of all leaves or of those that a mask leaves."""

  A: dict
  W: dict
  G: dict
  G0: dict
  R: dict
  F: dict
  layer: Callable = lambda n: n  # which leaves are one layer

  def only(self, names):
    cut = [{n: t[n] for n in names} for t in self[:6]]
    return Values(*cut, layer=self.layer)


def values(layer=lambda n: "one") -> Values:
  return Values(*({n: np.float64(x) for n, x in t.items()} for t in (A, W, G, G0, R, F)), layer=layer)


class Place(NamedTuple):
  """One container: ``wrap`` makes a tree of it from a dict by leaf, ``unwrap`` goes back; the names of the leaves."""

  wrap: Callable
  unwrap: Callable
  names: dict
  layout: str | None = None

  def inputs(self, names=("kernel", "out")) -> dict:
    """Layer inputs along the first axis."""
    return {self.names[n]: jnp.eye(SHAPES[n][0])[:1] for n in names}


def at(place: Place, tree: dict):
  return place.wrap({n: jnp.asarray(x) for n, x in tree.items()})


def units(place: Place):
  return (Unit(place.names["kernel"], place.names["bias"], place.names["out"], 0),)


class Row(NamedTuple):
  factory: Callable
  expected: Callable  # Values -> {leaf: update}
  arguments: Callable = lambda place: {}  # keyword arguments of the factory
  end: Callable = lambda state, params, place: state  # the task boundary, at A
  first: bool = False  # one update with G0 before the boundary
  static: tuple = ()  # inject_hyperparams needs these as they are
  vectors: bool = True  # False: takes kernels only, so it is put behind a mask
  complex_: str = "right"
  explicit: str = "works"
  masked: bool = True
  atol: float = 2e-5
  lift: Callable = lambda tree, is_params: tree  # natural_gradient takes a posterior for parameters
  lower: Callable = lambda tree: tree


def consolidate(state, params, place):
  return regularizers.consolidate(state, params, importance=at(place, F))


def only_params(state, params, place):
  return regularizers.consolidate(state, params)


def layout(**more):
  return lambda place: {"layout": place.layout, **more}


def uneven(place):
  """Layer inputs along the first axis and, half as long, the second."""
  return {place.names[n]: jnp.eye(SHAPES[n][0])[:2] * jnp.array([[2.0], [1.0]]) for n in ("kernel", "out")}


def cuber_end(sufficient, positive):
  def end(state, params, place):
    state = projectors.cuber_end_task(state, place.inputs(), at(place, G), 1.0)
    return projectors.cuber_start_task(state, params, at(place, G), sufficient, positive)

  return end


def direction(place):
  return jax.tree.map(lambda x: x[None], at(place, R))


def cuber_projection(num_tasks, max_rank, layout=None):
  """Its bases come from the pull's state."""
  parts = (f(num_tasks, max_rank, layout=layout) for f in (projectors.cuber_pull, projectors.cuber_projection))
  return optax.chain(*parts)


def coso_projection(rank, sketch_rank, layout=None):
  return optax.chain(projectors.coso(rank, sketch_rank, layout=layout), projectors.coso_projection(layout=layout))


def on_update(epsilon):
  return projectors.on_update(projectors.agem("retain", epsilon))


def fixed(**arguments):
  return lambda place: arguments


REFUSED = "refused"
S = fixed(strength=0.5)
REAL = {"complex_": REFUSED}
CUT = {"explicit": REFUSED}

ROWS: dict[str, Row] = {
  "ewc": Row(regularizers.ewc, pull(0.5), S, consolidate),
  "online_ewc": Row(regularizers.online_ewc, pull(0.25), fixed(strength=0.5, decay=0.5), consolidate),
  "mas": Row(regularizers.mas, pull(1.0), S, consolidate),
  "si": Row(regularizers.si, pull(1.0), S, consolidate),
  "hierarchical": Row(regularizers.hierarchical, hierarchical, S, consolidate),
  "l2": Row(regularizers.l2, each(lambda v, n: v.G[n] + v.W[n]), S),
  "l2_previous": Row(regularizers.l2_previous, pull(1.0, False), S, only_params),
  "l2_init": Row(regularizers.l2_init, pull(1.0, False), S),
  "spectral": Row(regularizers.spectral, each(spectral), S, atol=2e-2, **REAL),
  "wasserstein": Row(regularizers.wasserstein, each(wasserstein), S, **REAL),
  "kfac_ewc": Row(
    regularizers.kfac_ewc,
    each(lambda v, n: v.G[n] + (kron(FL[n], v.W[n] - v.A[n], FR[n]) if v.G[n].ndim == 2 else 0)),
    layout(strength=0.5, biases=False),
    lambda s, p, place: regularizers.kfac_consolidate(s, p, {place.names[n]: (FL[n], FR[n]) for n in FL}, 2.0),
    atol=1e-4,
    **REAL,
    **CUT,
  ),
  "agem": Row(projectors.agem, off, fixed(reference="memory")),
  "er_agem": Row(projectors.er_agem, off, fixed(reference="memory")),
  "gem": Row(projectors.gem, off, fixed(reference="memory", margin=0.0, ridge=0.0), **CUT),
  "er_gem": Row(projectors.er_gem, off, fixed(reference="memory", margin=0.0, ridge=0.0), **CUT),
  "geometric_disentanglement": Row(
    projectors.geometric_disentanglement, off, fixed(reference="retain"), static=("history",), **CUT
  ),
  "on_update": Row(on_update, off, fixed(epsilon=0.0)),
  "ogd": Row(
    projectors.ogd,
    off,
    fixed(capacity=2),
    lambda s, p, place: projectors.ogd_extend(s, direction(place)),
    static=("capacity",),
    **CUT,
  ),
  "pca_ogd": Row(
    projectors.pca_ogd,
    off,
    fixed(capacity=2),
    lambda s, p, place: projectors.pca_ogd_extend(s, direction(place), 1),
    static=("capacity",),
    **CUT,
  ),
  "gpm": Row(
    projectors.gpm,
    first_row_held(False),
    layout(freeze_vectors=False),
    lambda s, p, place: projectors.gpm_extend(s, place.inputs(), 1.0),
    **REAL,
    **CUT,
  ),
  "sgp": Row(
    projectors.sgp,
    each(sgp),
    layout(freeze_vectors=False),
    lambda s, p, place: projectors.sgp_extend(s, uneven(place), 1.0, 2.0),
    **REAL,
    **CUT,
  ),
  "nscl": Row(
    projectors.nscl,
    first_row_held(False),
    layout(freeze_vectors=False),
    lambda s, p, place: projectors.nscl_extend(s, {n: x.T @ x for n, x in place.inputs().items()}),
    **REAL,
    **CUT,
  ),
  "cuber": Row(
    projectors.cuber,
    first_row_held(True),
    layout(num_tasks=2, max_rank=2),
    cuber_end(2.0, 0.0),
    static=("num_tasks", "max_rank"),
    **REAL,
    **CUT,
  ),
  "cuber_pull": Row(
    projectors.cuber_pull,
    each(cuber_pull),
    layout(num_tasks=2, max_rank=2, strength=0.5),
    cuber_end(0.0, -1.0),
    static=("num_tasks", "max_rank"),
    **REAL,
    **CUT,
  ),
  "cuber_projection": Row(
    cuber_projection,
    first_row_held(True),
    layout(num_tasks=2, max_rank=2),
    cuber_end(2.0, 0.0),
    static=("num_tasks", "max_rank"),
    **REAL,
    **CUT,
  ),
  "coso": Row(
    projectors.coso,
    each(coso),
    layout(rank=2, sketch_rank=2),
    static=("rank", "sketch_rank", "every"),
    vectors=False,
    atol=1e-3,
    **REAL,
    **CUT,
  ),
  "coso_projection": Row(
    coso_projection,
    each(coso),
    layout(rank=2, sketch_rank=2),
    static=("rank", "sketch_rank"),
    vectors=False,
    atol=1e-3,
    **REAL,
    **CUT,
  ),
  "owm": Row(
    projectors.owm,
    each(owm),
    layout(alpha=0.5, biases=False),
    lambda s, p, place: projectors.owm_extend(s, place.inputs(), 0.5),
    **REAL,
    **CUT,
  ),
  "ncl": Row(
    projectors.ncl,
    each(lambda v, n: kron(FL[n], v.G[n], FR[n]) / 10 if v.G[n].ndim == 2 else v.G[n]),
    layout(biases=False),
    lambda s, p, place: projectors.ncl_end_task(
      s, *({place.names[n]: np.linalg.inv(f[n]) for n in FL} for f in (FL, FR)), 10.0, 0.0
    ),
    **REAL,
    **CUT,
  ),
  "freeze": Row(
    edits.freeze,
    each(lambda v, n: np.zeros_like(v.G[n]) if n == "kernel" else v.G[n]),
    lambda place: {"patterns": (place.names["kernel"],)},
  ),
  "clnp": Row(
    edits.clnp,
    each(lambda v, n: v.G[n] * (1 if n == "out" else np.array([0.0, 1.0, 1.0]))),
    lambda place: {"units": units(place), "layout": place.layout},
    lambda s, p, place: edits.clnp_consolidate(
      p,
      s,
      units(place),
      (jnp.arange(SHAPES["kernel"][1]) == 0,),
      jnp.zeros(SHAPES["out"][1], bool),
      layout=place.layout,
    )[1],
    masked=False,
  ),
  "history": Row(optimizers.history, each(lambda v, n: 0.75 * v.G[n] + 0.25 * v.G0[n]), fixed(alpha=0.25), first=True),
  "scale_by_classp": Row(optimizers.scale_by_classp, each(classp), first=True, **REAL),
  "classp": Row(
    optimizers.classp, each(lambda v, n: -0.5 * classp(v, n)), fixed(learning_rate=0.5), first=True, **REAL
  ),
  "scale_by_tag": Row(
    optimizers.scale_by_tag,
    each(tag),
    fixed(num_tasks=2, b=2.0),
    lambda s, p, place: optimizers.tag_next_task(s),
    first=True,
    static=("num_tasks",),
    atol=2e-4,
    **REAL,
  ),
  "tag": Row(
    optimizers.tag,
    each(lambda v, n: -0.5 * tag(v, n)),
    fixed(learning_rate=0.5, num_tasks=2, b=2.0),
    lambda s, p, place: optimizers.tag_next_task(s),
    first=True,
    static=("num_tasks",),
    atol=2e-4,
    **REAL,
  ),
  "natural_gradient": Row(
    optimizers.natural_gradient,
    each(natural),
    fixed(scale=2.0),
    lift=lambda tree, is_params: optimizers.MeanField(
      tree, jax.tree.map(lambda x: jnp.full_like(x, SPREAD) if is_params else x, tree)
    ),
    lower=lambda tree: tree.mean,
    **REAL,
  ),
}

MATRICES = ("kernel", "out")


def kernels_only(tree):
  return jax.tree.map(lambda x: x.ndim > 1, tree)


def make(row: Row, place: Place, wrap=lambda tx: tx) -> optax.GradientTransformationExtraArgs:
  tx = wrap(row.factory(**row.arguments(place)))
  return tx if row.vectors else optax.masked(tx, kernels_only)


def references(place: Place) -> dict[str, Any]:
  r = at(place, R)
  return {"memory": r, "retain": jax.tree.map(jnp.negative, r)}


CONTAINERS = ("dict", "tuple", "dataclass", "Linen", "NNX", "Equinox")
WRAPPERS = ("inject_hyperparams", "MultiSteps", "masked", "partition", "apply_if_finite", "chain")


def readme() -> str:
  """What docs/own_loop.md says of where transforms work: each word of it is a row or a column that the tests try."""
  listed = lambda names: ", ".join(f"`{n}`" for n in names)
  by = lambda field, value: listed(n for n, r in ROWS.items() if getattr(r, field) == value)
  whole = listed(n for n, r in ROWS.items() if not r.masked)
  return "\n".join(
    (
      f"{len(ROWS)} transforms are tested alike, each against its formula in NumPy, with parameters as "
      f"{', '.join(CONTAINERS[:3])}, {', '.join(CONTAINERS[3:-1])} (`nnx.Optimizer`) and {CONTAINERS[-1]}, under "
      f"{listed(WRAPPERS)}, `optax.tree.map_params`, `jit`, `vmap` and `scan`, with donated states, with parameters or "
      "gradients in bfloat16, under strict type promotion, and with arguments meant for others:",
      "",
      f"{listed(ROWS)}.",
      "",
      "| | works | is refused in one line |",
      "|---|---|---|",
      f"| a mask over some of the leaves | all but {whole} | {whole}, which needs all leaves of its layers |",
      f"| complex parameters | {by('complex_', 'right')} | {by('complex_', REFUSED)} |",
      f"| parameters cut over an explicit mesh axis, the default of `jax.make_mesh` (with `AxisType.Auto` all work) | "
      f"{by('explicit', 'works')} | {by('explicit', REFUSED)} |",
    )
  )


if __name__ == "__main__":
  print(readme())
