"""Compiles the programs of a run before it needs them, in other threads: XLA lets them work side by side."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from cljax.core.types import Learn
from cljax.engine import loop, own_streams, program_arguments
from cljax.engine import programs as prog
from cljax.engine.setup import CompiledRun
from cljax.streams.requests import deleted_pairs


def calls(setup: CompiledRun) -> Iterator[tuple[prog.Program, tuple]]:
  """``(program, arguments)`` of each program that learning takes, in the order in which they are needed: shapes where
  they are known without a run."""
  programs, start = setup.programs, loop.init_arguments(setup)
  yield programs.init, start
  learner = _split(programs.init.shape(*start), setup)
  alive = loop.all_alive(setup)
  shown = (setup.evaluation, loop.judged(setup, loop.State(learner, alive)), setup.blocks.arguments)
  yield programs.evaluate, (own_streams.with_blocks(setup, setup.blocks), learner, (), shown)
  where = loop.where_in_stream(setup, 0, 0, 1)
  shared = program_arguments.boundary_arguments(
    setup, deleted_pairs(setup.stream, 0), setup.stream.events[0].task, where
  )
  capacity = min(setup.options.chunk_steps, max(setup.total_steps, 1))
  rows = [jax.ShapeDtypeStruct((setup.members.padded, capacity, setup.spec.batch_size), jnp.int32)] * 3
  here = own_streams.event(setup, 0)
  if programs.start_task:
    yield programs.start_task, (here.hyper, learner, alive, shared)
  packed, count = _split(tuple(rows), setup), prog.replicate(np.int32(0), setup.members)
  hyper = own_streams.chunk(setup, here, [0] * len(setup.population))
  yield programs.chunk, (hyper, (learner, alive), packed, (setup.train, where, count))
  if programs.end_task:
    yield programs.end_task, (here.hyper, learner, alive, shared)


def precompile(setup: CompiledRun, submit: Callable[[Callable[[], object]], object]) -> None:
  """Has ``submit(function)`` called once for each program of :func:`calls`, to compile it.

  Nothing for a mesh that was asked for or batches from the host: what these programs are called with is known late.
  What a thread's own JAX configuration says (``jax.default_matmul_precision`` as a context, say) is not known to
  others: only for whoever sets none.
  """
  events = setup.stream.events
  if setup.members.placed is not None or setup.options.feed != "device" or not isinstance(events[0], Learn):
    return
  for program, arguments in calls(setup):
    submit(functools.partial(program.precompile, *arguments))


def _split(tree, setup: CompiledRun):
  """Shapes as programs return and take them: members over the mesh."""
  if setup.members.mesh is None:
    return tree
  over = NamedSharding(setup.members.mesh, PartitionSpec(prog.AXIS))
  return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=over, weak_type=a.weak_type), tree)
