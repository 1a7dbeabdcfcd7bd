"""Methods that decide how each weight or unit may move: steps by past use, renewal of units, sparse activations."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from cljax import models, optimizers
from cljax.core.method import Method
from cljax.core.tree import path_name
from cljax.core.types import Access, Spec, UsageError
from cljax.methods.registry import Entry, Option, register
from cljax.methods.slots import counted, no_slots, slot_of


def classp(
  model, spec: Spec, *, threshold, power, eps, scaling: str = "after_first_task", released: bool = False
) -> Method:
  """CLASSP: where ``g^2 > threshold``, ``s += |g|^power`` and the gradient becomes ``g / (s + eps)^(1/power)``; else 0.

  A ``transform``, in front of the run's optimizer: under SGD the step is CLASSP's own. ``scaling`` says when the
  division acts: 'after_first_task' as in the published demonstration (s accumulates during plain training, then scales,
  once another task was met), 'always', or 'never'. ``released`` is the published code's rule, whose gate is one boolean
  a tensor. The script's threshold of 0.5 belongs to that gate; on g^2 it would stop nearly every step, so the default
  is 0. The rule is the paper's as far as known (UNVERIFIED). Spec 5.1; Ludwig, 2024.
  """
  del model, spec
  gate, full = (optimizers.scale_by_classp(threshold, power, eps, scaled, released) for scaled in (False, True))

  def update(updates, state, params=None, *, visit, **extra):
    del params, extra
    plain, accumulated = gate.update(updates, state)
    if scaling == "never":
      return plain, accumulated
    scaled, accumulated = full.update(updates, state)
    if scaling == "always":
      return scaled, accumulated
    return jax.tree.map(lambda p, s: jnp.where(visit.others > 0, s, p), plain, scaled), accumulated

  return Method(transform=optax.GradientTransformationExtraArgs(full.init, update))


def tag(model, spec: Spec, *, b, b1, b2, scale, base: str = "rmsprop") -> Method:
  """TAG: ``scale g / sqrt(V)``, ``V = sum_k exp(-b cos(m, m_k)) v_k + exp(-b) v`` over finished tasks k, per tensor.

  A ``transform``, in front of the run's optimizer: under SGD the step is ``learning rate * scale`` times TAG's
  direction. It is normalised, so it needs a far smaller rate than SGD: the default ``scale`` makes 2.5e-4, the
  published one for CIFAR-100, of the default learning rate 0.1. Two copies of the parameters a task. Spec 5.2; Malviya
  et al., 2022. A task that comes back takes its own slot anew.
  """
  del model
  direction = optimizers.scale_by_tag(spec.num_tasks, b, b1, b2, base)

  def end_task(key, learner, task):
    del key
    slot, slots = slot_of(learner.method_state, task.visit)
    state = counted(learner.opt_state.transform, (optimizers.TagState,), slot, "task")
    state = counted(
      optimizers.tag_next_task(state), (optimizers.TagState,), task.visit.seen.sum(dtype=jnp.int32), "task"
    )
    return learner._replace(opt_state=learner.opt_state._replace(transform=state), method_state=slots)

  transform = optax.chain(direction, optax.scale(scale))
  return Method(init=lambda key, learner: no_slots(spec), transform=transform, end_task=end_task)


def continual_backprop(
  model, spec: Spec, *, rate, decay, maturity: int = 100, utility: str = "contribution", compensate: bool = True
) -> Method:
  """Continual backprop: after each step, ``rate`` of the mature hidden units, those of least utility, start anew.

  An ``after_step`` on the parameters and the optimizer's moments; knows no tasks. See
  :func:`cljax.optimizers.continual_backprop_step` for the utilities and what a reset does; ``compensate`` moves a
  unit's mean contribution into the next bias, which the released code leaves at 0. Needs a model that names its units;
  UsageError without. Spec 5.3; Dohare et al., 2024.
  """
  del spec
  if not model.units:
    raise UsageError("continual_backprop: the model names no units; give a Model with units, such as the zoo's mlp")

  def after_step(key, learner, info):
    params, opt_state, state = optimizers.continual_backprop_step(
      key, learner.params, learner.opt_state, learner.method_state, info.outputs.hidden, info.batch.weight, model.units,
      rate=rate, maturity=maturity, decay=decay, utility=utility, compensate=compensate,
    )  # fmt: skip
    return learner._replace(params=params, opt_state=opt_state, method_state=state)

  init = lambda key, learner: optimizers.continual_backprop_init(learner.params, model.units)
  return Method(init=init, after_step=after_step)


def elephant(model, spec: Spec, *, width, height, power, bias_std, shape_strength, learned: bool = True) -> Method:
  """Elephant network: hidden layers become ``E(LayerNorm(W x + b))`` with ``E(x) = h / (1 + |x / s|^power)``.

  ``learned``: each unit learns ``s = width exp(a)`` and ``h = height exp(b)``, from a = b = 0 (the released code's log
  sigma and log h; of a convolution, a unit is a channel, where the code has one for each place too); else all keep
  ``width`` and ``height``. ``shape_strength * sum (a^2 + b^2)`` holds them to where they start, so that a unit stays
  sparse; the code has no such term, and the default is 0. A ``model`` rebuilt by its ``with_activation``; UsageError
  for a model without (only the zoo's have it). Where the model names its units, their biases start evenly spaced over
  ``+- sqrt(3) bias_std``. The defaults are the code's DQN setting. Spec 8.3; Lan and Mahmood, 2023.
  """
  del spec
  import flax.linen as nn

  if model.with_activation is None:
    raise UsageError(
      "elephant: the model cannot be rebuilt with another activation; give one with with_activation, as the zoo's"
    )

  def activation(x):
    x = nn.LayerNorm()(x)
    return models.ElephantUnits(width, height, power)(x) if learned else models.elephant(x, width, height, power)

  net = model.with_activation(activation)
  biases = {u.in_bias for u in net.units}

  def init(key):
    params, model_state = net.init(key)
    bound = jnp.sqrt(3.0) * bias_std

    def start(path, leaf):
      return jnp.linspace(-bound, bound, leaf.size, dtype=leaf.dtype) if path_name(path) in biases else leaf

    return jax.tree_util.tree_map_with_path(start, params), model_state

  def shape(key, params, learner, batch, outputs):
    del key, learner, batch, outputs
    return shape_strength * models.elephant_shape_penalty(params)

  return Method(model=net._replace(init=init), terms={"shape": shape} if learned else {})


register(
  "classp",
  Entry(
    classp,
    {
      "threshold": Option(0.0, 0),
      "power": Option(1.0, 1e-6),
      "eps": Option(1e-5, 0),
      "scaling": Option("after_first_task", choices=("after_first_task", "always", "never")),
      "released": Option(False),
    },
    Access(task_boundaries=True, needs=()),
    "Ludwig 2024",
  ),
)
register(
  "tag",
  Entry(
    tag,
    {
      "b": Option(5.0, 0),
      "b1": Option(0.9, 0, 1),
      "b2": Option(0.99, 0, 1),
      "scale": Option(0.0025, 0),
      "base": Option("rmsprop", choices=("rmsprop", "adagrad", "adam")),
    },
    Access(task_boundaries=True, needs=()),
    "Malviya et al. 2022",
  ),
)
register(
  "continual_backprop",
  Entry(
    continual_backprop,
    {
      "rate": Option(1e-4, 0, 1),
      "decay": Option(0.99, 0, 1),
      "maturity": Option(100, 0),
      "utility": Option("contribution", choices=("contribution", "adaptable")),
      "compensate": Option(True),
    },
    Access(needs=()),
    "Dohare et al. 2024",
  ),
)
register(
  "elephant",
  Entry(
    elephant,
    {
      "width": Option(0.2, 1e-6),
      "height": Option(1.0),
      "power": Option(4.0, 1.000001),
      "bias_std": Option(0.4, 0),
      "shape_strength": Option(0.0, 0, needs={"learned": (True,)}),
      "learned": Option(True),
    },
    Access(needs=()),
    "Lan and Mahmood 2023",
  ),
)
