"""Progressive networks: a column for each task, which reads the hidden values of earlier columns."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cljax import models
from cljax.core import tree
from cljax.core.method import Method
from cljax.core.types import Access, Model, Outputs, Spec, UsageError
from cljax.methods import heads
from cljax.methods.registry import Entry, Option, register
from cljax.methods.told import TOLD, task_at_test
from cljax.models import isolated

COLUMNS, LATERAL = "columns", "lateral"


def dense_layers(model: Model, spec: Spec) -> dict[str, tuple[int, int]]:
  """``{layer: (inputs, outputs)}`` of a network of dense layers, in their order; UsageError for another."""
  calls = heads.captured(model, spec)[1] if model.capture is not None else []
  found: dict[str, tuple[int, int]] = {}
  for call in calls:
    kernel = call.params.get("kernel")
    if kernel is None or kernel.ndim != 2 or call.input is None or call.input.ndim != 2 or call.spec.calls != 1:
      found.clear()
      break
    found[call.spec.leaves["kernel"].rpartition("/")[0]] = kernel.shape
  if not found or jax.tree.leaves(jax.eval_shape(model.init, jax.random.key(0))[1]):
    raise UsageError(
      "method.name: 'pnn' needs a network of dense layers that keeps no state and whose layers are captured, such as "
      "the zoo's mlp"
    )
  return found


def column_network(model: Model, spec: Spec, scale) -> tuple[Model, str]:
  """``(network, last layer)``: of row's task in place t the output of column t.

  Parameters: ``columns``, the model's with an axis of columns ``[T, ...]`` in front, each begun by itself, the first as
  the model; ``lateral {layer: {"scale" [T, T], "project" [T, T, n, n], "out" [T, n, m]}}`` of each layer but the first,
  of n inputs and m outputs: ``[t, j]`` is from column j into t.
  """
  layers = dense_layers(model, spec)
  count, later = spec.num_tasks, dict(list(layers.items())[1:])

  def init(key):
    first = model.init(key)[0]
    more = jax.lax.map(
      lambda t: model.init(jax.random.fold_in(tree.fold(key, COLUMNS), t))[0], jnp.arange(count, dtype=jnp.int32)
    )
    columns = jax.tree.map(lambda a, b: a.at[0].set(b), more, first)

    def adapters(name, shape):
      own, (n, m) = tree.fold(key, f"{LATERAL}/{name}"), shape
      draw = lambda what, dims, low: jax.random.uniform(tree.fold(own, what), dims, jnp.float32, low * n**-0.5, n**-0.5)
      return {
        "scale": scale * jax.random.uniform(tree.fold(own, "scale"), (count, count)),
        "project": draw("project", (count, count, n, n), -1),
        "out": draw("out", (count, n, m), -1),
      }

    params = {COLUMNS: columns, LATERAL: {name: adapters(name, shape) for name, shape in later.items()}}
    return params, isolated.PerTask(jnp.full(count, -1, jnp.int32), {}, ())

  def column(params, x, inputs, t):
    """``(logits [B, C], {layer: [B, n]})`` of column t; ``inputs {layer: [T, B, n]}``: of earlier columns, else 0."""
    weights, lateral = jax.tree.map(lambda a: a[t], (params[COLUMNS], params[LATERAL]))

    def read(name, a):
      mixed = jnp.einsum("j,jbn,jnk->bk", a["scale"], inputs[name], a["project"])
      return jax.nn.relu(mixed) @ a["out"]

    probe = {name: read(name, a) for name, a in lateral.items()}
    assert model.capture is not None
    logits, calls = model.capture(weights, {}, x, probe)
    return logits, {name: calls[name].input.astype(jnp.float32) for name in later}

  def apply(params, model_state, x, *, train, key, task=None, mask=None):
    del train, key, mask
    if task is None:
      raise UsageError("task: a network of columns needs the task of the rows; got None")
    slot, rows = isolated.place_of(model_state.slots, task), jax.tree.leaves(x)[0].shape[0]
    stands = jax.lax.stop_gradient(params)

    def one(inputs, t):
      new = column(stands, x, inputs, t)[1]
      return {name: a.at[t].set(new[name]) for name, a in inputs.items()}

    def earlier(inputs, t):  # of a fixed length: a loop that ends at a traced count has no derivative by the rows
      return jax.lax.cond(t < slot, one, lambda inputs, t: inputs, inputs, t), None

    empty = {name: jnp.zeros((count, rows, n), jnp.float32) for name, (n, _) in later.items()}
    inputs = jax.lax.scan(earlier, empty, jnp.arange(count - 1, dtype=jnp.int32))[0]
    logits, own = column(params, x, inputs, slot)
    return Outputs(logits, own[list(later)[-1]] if later else None), model_state

  return models.by_row(Model(init, apply), count), list(layers)[-1]


def pnn(model, spec: Spec, *, scale, inference: str = "told") -> Method:
  """PNN: ``h_l = relu(W_l h_{l-1} + b_l + U_l relu(sum_{j<t} V_lj alpha_lj h^j_{l-1}))`` in column t.

  Each task opens a column, a network of its own with weights drawn anew, and trains it alone with the adapters U, V and
  alpha that read the inputs of the same layer in earlier columns, the output layer's too; all other columns stand, so
  old answers stay to the bit. V projects to the width of what it reads; alpha begins in ``scale U(0, 1)`` (small
  numbers in the paper; UNVERIFIED which), and at ``scale`` 0 columns never read each other. A task that comes back
  trains its output layer alone, for later columns read the others. It has room for the stream's T columns, ``T^2``
  projections a layer, and makes one pass for each column up to the task's.

  Takes networks of dense layers that keep no state (mlp), with their own activation; dropout is off. UsageError for
  others. ``inference`` is of :func:`cljax.methods.told.task_at_test`. The spec has the sum outside of the inner relu;
  here it is inside, as the paper and Avalanche have it. Spec D4; Rusu et al., 2016.
  """
  network, last = column_network(model, spec, scale)

  def start_task(key, learner, task):
    del key
    slot, state = isolated.opened(learner.model_state, task.id)
    # later columns read the inputs of the output layer, not what it makes of them
    alone = lambda name: any(name.startswith(f"{part}/{last}/") for part in (COLUMNS, LATERAL))
    may = tree.map_named(lambda name, a: isolated.copy_of(slot, a) & (alone(name) | task.visit.first), learner.params)
    return learner._replace(model_state=state, opt_state=isolated.held(learner.opt_state, may))

  return Method(
    model=network, start_task=start_task, finalize=isolated.hold(), **task_at_test(network, spec, inference)
  )


register(
  "pnn",
  Entry(
    pnn,
    {"scale": Option(0.1, 0), **TOLD},
    Access(task_boundaries=True, task_id_at_test=True),
    "Rusu et al. 2016",
  ),
)
