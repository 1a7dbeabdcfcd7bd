"""The limit of the machine: its measured rates, and the operations and bytes that a method's step cannot do without."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cljax.core import tree
from cljax.evaluation import cost

SIZES = (2**20, 2**22, 2**24, 2**27)  # bytes of the arrays that are passed over: in a core's cache, ..., in memory


class Rates(NamedTuple):
  """``flops`` a second of a float32 matrix product; bytes a second, read and written, by the size passed over."""

  flops: float
  bandwidth: dict[int, float]

  def bytes_a_second(self, size: float) -> float:
    """The rate at the smallest measured size that holds ``size`` bytes."""
    return self.bandwidth[min((s for s in self.bandwidth if s >= size), default=max(self.bandwidth))]


def best(function, *arguments, repeats: int = 5) -> float:
  """The least seconds of a call; the first, which compiles, is not counted."""
  jax.block_until_ready(function(*arguments))
  seconds = []
  for _ in range(repeats):
    since = time.perf_counter()
    jax.block_until_ready(function(*arguments))
    seconds.append(time.perf_counter() - since)
  return min(seconds)


def rates(side: int = 2048, sizes=SIZES, work: int = 2**29) -> Rates:
  """Measures them: the product of two ``side x side`` matrices; ``x <- x + 1`` over arrays of each size.

  Each size is passed over until about ``work`` bytes were touched.
  """
  a = jax.random.normal(jax.random.key(0), (side, side))
  flops = 2.0 * side**3 / best(jax.jit(jnp.matmul), a, a)
  bandwidth = {}
  for size in sizes:
    passes = max(1, work // (2 * size))

    @jax.jit
    def over(x, passes=passes):
      # Without the barrier the compiler may do several passes in one.
      return jax.lax.fori_loop(0, passes, lambda i, x: jax.lax.optimization_barrier(x + 1.0), x)

    bandwidth[size] = 2.0 * size * passes / best(over, jnp.zeros(size // 4), repeats=3)
  return Rates(flops, bandwidth)


class Work(NamedTuple):
  """Of one step of one member."""

  flops: float
  bytes: float

  def seconds(self, rates: Rates) -> float:
    return max(self.flops / rates.flops, self.bytes / rates.bytes_a_second(self.bytes))


# Passes over arrays of the parameters' size beside reading and writing the parameters themselves. XLA's own count of
# bytes is of no use for a limit: it takes every operand of every operation as if there were no cache, and a gather to
# read all that it picks from.
PASSES = {
  "ewc": 2,  # anchor and importance
  "si": 4,  # anchor, importance, the path read and written
  "lwf": 1,  # the teacher
}
ROWS = {"er": 2, "derpp": 3, "agem": 2}  # batches of rows that a step reads; 1 where not named


def work(name: str, prepared, learner) -> Work:
  """What a step must do at least. ``learner``: one member's, of the state that is timed.

  Operations are XLA's count of the lowered step. It takes a loop for one turn of it, and the projection of gpm is a
  loop: there the products ``M (M^T g)`` of the ranks reached are counted by hand, and those of the turn are left in.
  Activations are taken to stay in a cache.
  """
  flops, spec = cost.cost(prepared).step_flops, prepared.setup.spec
  params = tree.nbytes(learner.params)
  row = jax.eval_shape(lambda: jnp.zeros(spec.input_shape, spec.input_dtype))
  nbytes = (2 + PASSES.get(name, 0)) * params + ROWS.get(name, 1) * spec.batch_size * tree.nbytes(row)
  if name == "gpm":
    state: Any = learner.opt_state.finalize
    kernels = {tree.path_name(p): a for p, a in jax.tree_util.tree_leaves_with_path(learner.params)}
    for path, rank in state.ranks.items():
      kernel = kernels[path]
      width = min(64, state.bases[path].shape[1])  # what one turn of the loop projects out
      flops += 4.0 * kernel.size * max(0, int(rank) - width)
      nbytes += 4 * int(rank) * kernel.size // kernel.shape[-1]
  return Work(flops, float(nbytes))
