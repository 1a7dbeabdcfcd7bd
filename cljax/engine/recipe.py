"""The training recipe: optimizer by name, learning-rate schedule, augmentation. All of it is configuration."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cljax.core.checks import check_integer
from cljax.core.types import UsageError
from cljax.engine.precision import PRECISIONS

_ALL = ("learning_rate", "weight_decay", "schedule", "warmup")
# The options that each optimizer reads.
READS = {
  "sgd": _ALL,
  "momentum": (*_ALL, "momentum"),
  "nesterov": (*_ALL, "momentum"),
  "adam": _ALL,
  "adamw": _ALL,
  "rmsprop": _ALL,
}
OPTIMIZERS = tuple(READS)
MOMENTUM = 0.9
SCHEDULES = ("constant", "linear", "cosine")
AUGMENTS = ("none", "crop", "flip", "crop_flip")


class Recipe(NamedTuple):
  """How each Learn event trains. ``first_task_epochs`` 0 means ``epochs``; ``augment`` is one of AUGMENTS;
  ``patience``: epochs without a better validation score after which a task ends (:mod:`cljax.engine.patience`);
  ``precision`` is of :data:`cljax.engine.precision.PRECISIONS`."""

  batch_size: int = 32
  epochs: int = 1
  first_task_epochs: int = 0
  augment: str = "none"
  reset_per_task: bool = False  # a fresh optimizer state at the start of each task
  schedule_over: str = "task"  # what the learning-rate schedule spans: 'task' or 'stream'
  patience: int = 0  # 0: all epochs
  precision: str = "float32"  # of the model's arithmetic; parameters and optimizer state are float32 in each


def check_recipe(recipe: Recipe, input_shape) -> Recipe:
  """Raises UsageError unless the recipe makes sense for inputs of this shape, or of these by name."""
  for field in ("batch_size", "epochs"):
    check_integer(f"train.{field}", getattr(recipe, field), 1)
  check_integer("train.first_task_epochs", recipe.first_task_epochs)
  check_integer("train.patience", recipe.patience)
  if not isinstance(recipe.reset_per_task, bool):
    raise UsageError(f"optimizer.reset_per_task: got {recipe.reset_per_task!r}; expected True or False")
  if recipe.schedule_over not in ("task", "stream"):
    raise UsageError(f"optimizer.schedule_over: unknown {recipe.schedule_over!r}; allowed: task, stream")
  if recipe.augment not in AUGMENTS:
    raise UsageError(f"train.augment: unknown {recipe.augment!r}; allowed: {', '.join(AUGMENTS)}")
  if recipe.precision not in PRECISIONS:
    raise UsageError(f"train.precision: unknown {recipe.precision!r}; allowed: {', '.join(PRECISIONS)}")
  several = isinstance(input_shape, dict)
  if recipe.augment != "none" and (several or len(input_shape) != 3):
    told = f"are named, {', '.join(sorted(input_shape))}" if several else f"have shape {tuple(input_shape)}"
    raise UsageError(f"train.augment: got {recipe.augment!r}, which needs images; inputs {told}")
  return recipe


def check_effect(recipe: Recipe, options, optimizer="", given=()) -> None:
  """Raises UsageError where an option can change nothing beside the others: what is asked for must happen.

  ``options``: :class:`cljax.Options`; ``optimizer`` and ``given``: its name and options, where it has a name.
  """
  if options.eval_limit and not options.eval_every:
    raise UsageError(
      f"eval.limit: got {options.eval_limit}, without eval.every; it limits the evaluations inside tasks: give both"
    )
  if options.feed == "device" and options.boundary_limit != type(options)._field_defaults["boundary_limit"]:
    raise UsageError(
      f"train.boundary_limit: got {options.boundary_limit} with train.feed='device', whose boundary passes see all "
      "rows; read by: grain"
    )
  if not isinstance(optimizer, str) or not optimizer:
    return
  given = dict(given)
  if recipe.schedule_over == "stream" and given.get("schedule", "constant") == "constant" and not given.get("warmup"):
    raise UsageError(
      "optimizer.schedule_over: got 'stream', but a constant schedule without warmup spans nothing; give "
      "optimizer.schedule (linear, cosine) or optimizer.warmup"
    )
  if recipe.reset_per_task and optimizer == "sgd":
    raise UsageError(
      "optimizer.reset_per_task: got True, which 'sgd' does not read: it keeps nothing to reset; read by: "
      f"{', '.join(o for o in OPTIMIZERS if o != 'sgd')}"
    )


def unread(name: str, option: str) -> str:
  """Why a given option has no effect under an optimizer, and which ones read it; '' where it is read."""
  if name not in READS or option in READS[name]:
    return ""
  readers = [o for o in OPTIMIZERS if option in READS[o]]
  return f"{name!r} does not read it; read by: {', '.join(readers)}" if readers else ""


def read_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
  """Those of a whole section of options that the optimizer reads."""
  return {k: v for k, v in options.items() if not unread(name, k)}


class ScheduleState(NamedTuple):
  """The schedule keeps nothing: progress comes with each call."""


class Named(optax.GradientTransformationExtraArgs):
  """An optimizer by name, which can say its learning rate too: ``rate(progress)``.

  ``plain``: its update is minus that rate times the gradient, and nothing else.
  """

  rate: Callable
  plain: bool


def rate_at(learning_rate, schedule: str, warmup: float, progress):
  """``learning_rate * s(progress)``, as of :func:`scale_by_schedule`."""
  factor = jnp.asarray(learning_rate, jnp.float32)
  if progress is not None and (schedule != "constant" or warmup):
    ramp = jnp.clip(progress / warmup, 0.0, 1.0) if warmup else 1.0
    p = jnp.clip((progress - warmup) / (1.0 - warmup), 0.0, 1.0)
    shapes: dict[str, Any] = {"constant": 1.0, "linear": 1.0 - p, "cosine": 0.5 * (1.0 + jnp.cos(jnp.pi * p))}
    factor = factor * ramp * shapes[schedule]
  return factor


def rate_of(optimizer, state, progress=None):
  """The learning rate of the step that left ``state``: an optimizer's by name, or ``optax.inject_hyperparams``' own.

  It is the factor of the optimizer's direction, as in AdamW, whatever that direction is. Raises UsageError where it can
  not be seen: other optimizers, and those inside wrappers that may skip a step.
  """
  if isinstance(optimizer, Named):
    return optimizer.rate(progress)

  def injected(node) -> list:
    if hasattr(node, "hyperparams"):
      return [node.hyperparams["learning_rate"]] if "learning_rate" in node.hyperparams else []
    return [rate for part in node for rate in injected(part)] if type(node) is tuple else []

  found = injected(state)
  if len(found) != 1:
    raise UsageError(
      "method.decoupled: got True, or a method of rates, with an optimizer whose learning rate can not be seen; give "
      "one by name, such as 'sgd', or one made by optax.inject_hyperparams"
    )
  return found[0]


def scale_by_schedule(learning_rate, schedule: str = "constant", warmup: float = 0.0) -> Any:
  """``u <- -learning_rate * s(progress) * u`` with ``progress`` in [0, 1] given by the engine (per task or per stream).

  ``s`` is 1 (constant), ``1 - p`` (linear) or ``(1 + cos(pi p)) / 2`` (cosine), after a linear warmup over that share.
  Outside the engine, where no progress is given, ``s`` is taken at 0 after warmup, so a constant schedule is exact.
  """

  def init(params):
    del params
    return ScheduleState()

  def update(updates, state, params=None, *, progress=None, **extra):
    del params, extra
    factor = rate_at(learning_rate, schedule, warmup, progress)
    return jax.tree.map(lambda u: (-factor).astype(u.dtype) * u, updates), state

  return optax.GradientTransformationExtraArgs(init, update)


def make_optimizer(
  name: str = "sgd", *, learning_rate=0.1, momentum=None, weight_decay=0.0, schedule: str = "constant", warmup=0.0
) -> optax.GradientTransformationExtraArgs:
  """An optimizer by name. ``learning_rate``, ``momentum`` and ``weight_decay`` may be traced.

  ``momentum`` (None: 0.9) is read by 'momentum' and 'nesterov'. ``weight_decay`` is decoupled for 'adamw' and added to
  the gradient (L2) for all others. Raises UsageError on unknown names, on negative values and on a given ``momentum``
  that the optimizer does not read.
  """
  if name not in OPTIMIZERS:
    raise UsageError(f"optimizer.name: unknown {name!r}; allowed: {', '.join(OPTIMIZERS)}")
  if schedule not in SCHEDULES:
    raise UsageError(f"optimizer.schedule: unknown {schedule!r}; allowed: {', '.join(SCHEDULES)}")
  if momentum is not None and unread(name, "momentum"):
    raise UsageError(f"optimizer.momentum: got {momentum!r}; {unread(name, 'momentum')}")
  momentum = MOMENTUM if momentum is None else momentum
  for key, value in (("learning_rate", learning_rate), ("weight_decay", weight_decay), ("momentum", momentum)):
    if not isinstance(value, jax.Array) and not (isinstance(value, int | float) and value >= 0):
      raise UsageError(f"optimizer.{key}: got {value!r}; expected a number of at least 0")
  if not 0 <= warmup < 1:
    raise UsageError(f"optimizer.warmup: got {warmup}; expected 0 <= warmup < 1")
  direction = {
    "sgd": lambda: optax.identity(),
    "momentum": lambda: optax.trace(decay=momentum),
    "nesterov": lambda: optax.trace(decay=momentum, nesterov=True),
    "adam": optax.scale_by_adam,
    "adamw": optax.scale_by_adam,
    "rmsprop": optax.scale_by_rms,
  }[name]()
  parts: list[Any] = [direction, scale_by_schedule(learning_rate, schedule, warmup)]
  decays = isinstance(weight_decay, jax.Array) or weight_decay > 0
  if decays:
    parts.insert(1 if name == "adamw" else 0, optax.add_decayed_weights(weight_decay))
  made = Named(*optax.with_extra_args_support(optax.chain(*parts)))
  made.plain = name == "sgd" and not decays
  made.rate = lambda progress=None: rate_at(learning_rate, schedule, warmup, progress)
  return made


def optimizer_of(optimizer, given):
  """``(make_optimizer(values), {name: traced default})``."""
  if not isinstance(optimizer, str):
    if given:
      raise UsageError("optimizer_options: only for an optimizer given by name")
    made = isinstance(optimizer, tuple) and hasattr(optimizer, "init") and hasattr(optimizer, "update")
    if not made and not callable(optimizer):
      raise UsageError(
        f"optimizer: got {type(optimizer).__name__}; expected one of {', '.join(OPTIMIZERS)}, an optax transformation "
        "or a function that makes one"
      )
    if not made:
      return (lambda values: optax.with_extra_args_support(optimizer())), {}
    return (lambda values: optax.with_extra_args_support(optimizer)), {}
  allowed = set(inspect.signature(make_optimizer).parameters) - {"name"}
  for key in given:
    if key not in allowed:
      raise UsageError(f"optimizer.{key}: no such option; allowed: {', '.join(sorted(allowed))}")
    if unread(optimizer, key):
      raise UsageError(f"optimizer.{key}: got {given[key]!r}; {unread(optimizer, key)}")
  given = {"learning_rate": 0.1, **given}
  make_optimizer(optimizer, **given)
  names = ("learning_rate", "momentum", "weight_decay")
  traced = {f"optimizer.{k}": float(given[k]) for k in names if k in given and (k != "weight_decay" or given[k])}
  static = {k: v for k, v in given.items() if f"optimizer.{k}" not in traced}
  static.pop("weight_decay", None)

  def make(values):
    return make_optimizer(optimizer, **static, **{k.split(".", 1)[1]: values[k] for k in traced})

  return make, traced


def make_augment(kind: str, pad: int = 4) -> Callable:
  """``augment(key, x [B, H, W, C]) -> x``: random crop after zero padding by ``min(pad, H // 7)``, horizontal flip, or
  both."""
  if kind == "none":
    return lambda key, x: x

  def one(bits, x):
    height, width, channels = x.shape
    if "crop" in kind:
      margin = max(1, min(pad, height // 7))
      wide = jnp.pad(x, ((margin, margin), (margin, margin), (0, 0)))
      span = 2 * margin + 1
      at = (bits[0] % span, bits[1] % span, 0)
      x = jax.lax.dynamic_slice(wide, tuple(jnp.asarray(a, jnp.int32) for a in at), (height, width, channels))
    if "flip" in kind:
      x = jnp.where(bits[2] % 2 == 0, x, x[:, ::-1])
    return x

  def augment(key, x):
    bits = jax.random.bits(key, (x.shape[0], 3), jnp.uint32)
    return jax.vmap(one)(bits, x)

  return augment
