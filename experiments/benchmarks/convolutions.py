"""What a convolution costs in each form: alone, over seeds, and in the whole step of the reduced ResNet-18.

In processor seconds of the process, which other programs on a busy machine do not add to: what a form has to do.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cljax import models
from cljax.models import convolution
from experiments.benchmarks import Stats, Table, _scan, _torch, ratio, rounds, shown
from experiments.benchmarks._convolution_forms import FORMS

BATCH, STEPS, RATE = 32, 2, 1e-4


class Layer(NamedTuple):
  """A convolution of the reduced ResNet-18 on 28x28; ``times``: how many such the network has."""

  size: int
  c_in: int
  c_out: int
  kernel: int
  stride: int
  times: int
  whole: bool = False  # whether every form is tried

  @property
  def padding(self):
    return ((self.kernel // 2,) * 2,) * 2

  @property
  def flops(self) -> float:
    """Of output and both gradients."""
    out = -(-self.size // self.stride)
    return 6.0 * BATCH * out**2 * self.kernel**2 * self.c_in * self.c_out

  def __str__(self):
    return f"{self.kernel}x{self.kernel}/{self.stride} {self.c_in}-{self.c_out} on {self.size}x{self.size}"


LAYERS = (
  Layer(28, 1, 20, 3, 1, 1),
  Layer(28, 20, 20, 3, 1, 4, whole=True),
  Layer(28, 20, 40, 3, 2, 1),
  Layer(28, 20, 40, 1, 2, 1),
  Layer(14, 40, 40, 3, 1, 3, whole=True),
  Layer(14, 40, 80, 3, 2, 1),
  Layer(14, 40, 80, 1, 2, 1),
  Layer(7, 80, 80, 3, 1, 3, whole=True),
  Layer(7, 80, 160, 3, 2, 1),
  Layer(7, 80, 160, 1, 2, 1),
  Layer(4, 160, 160, 3, 1, 3, whole=True),
)
CHEAP = ("patches", "maps")


def busy(function: Callable[[], Any]) -> Callable[[], float]:
  """``function`` as a timer: the processor seconds of this process until what it returned is ready."""

  def run() -> float:
    start = time.process_time()
    jax.block_until_ready(function())
    return time.process_time() - start

  return run


def draws(layer: Layer, seeds: int = 0):
  """Input, kernel and cotangent; with a leading axis of ``seeds``."""
  rng, out, lead = np.random.default_rng(0), -(-layer.size // layer.stride), (seeds,) if seeds else ()
  fan = layer.kernel**2 * layer.c_in
  x = rng.normal(size=(*lead, BATCH, layer.size, layer.size, layer.c_in))
  k = rng.normal(size=(*lead, layer.kernel, layer.kernel, layer.c_in, layer.c_out)) / np.sqrt(fan)
  g = rng.normal(size=(*lead, BATCH, out, out, layer.c_out))
  return tuple(jnp.asarray(a, jnp.float32) for a in (x, k, g))


def all_three(form, layer: Layer, x, k, g):
  """Output, the input's gradient and the kernel's."""
  y, pull = jax.vjp(lambda x, k: form(x, k, (layer.stride,) * 2, layer.padding), x, k)
  return y, *pull(g)


def alone(form, layer: Layer, arguments, looped: bool, vmapped: bool = False) -> Callable[[], Any]:
  """A function of no arguments that takes STEPS of them, in a loop of the program or from the host."""
  once: Callable = functools.partial(all_three, form, layer)
  once = jax.vmap(once) if vmapped else once

  def step(x, k, g):
    y, dx, dk = once(x, k, g)
    return x + RATE * dx, k + RATE * dk + RATE * y.mean()

  if looped:
    run = jax.jit(lambda x, k, g: jax.lax.fori_loop(0, STEPS, lambda _, c: step(c[0], c[1], g), (x, k)))
    return lambda: run(*arguments)
  hosted, (x, k, g) = jax.jit(step), arguments

  def steps():
    at = x, k
    for _ in range(STEPS):
      at = hosted(*at, g)
    return at

  return steps


def error(form, layer: Layer, arguments) -> float:
  """The largest deviation from ``lax.conv``, over the largest value, of output and gradients."""
  of = lambda form: jax.jit(functools.partial(all_three, form, layer))(*arguments)
  pairs = zip(of(form), of(FORMS["lax"]), strict=True)
  return max(float(jnp.abs(a - b).max() / jnp.abs(b).max()) for a, b in pairs)


def in_torch(layer: Layer, arguments) -> Callable[[], Any]:
  """The same in eager PyTorch."""
  torch = _torch.require()
  x, k, g = (torch.from_numpy(np.array(a)) for a in arguments)
  x, k, g = x.movedim(-1, 1).contiguous(), k.permute(3, 2, 0, 1).contiguous(), g.movedim(-1, 1).contiguous()
  x.requires_grad_(), k.requires_grad_()

  def steps() -> None:
    for _ in range(STEPS):
      x.grad = k.grad = None
      torch.nn.functional.conv2d(x, k, stride=layer.stride, padding=layer.kernel // 2).backward(g)

  return steps


@contextlib.contextmanager
def every_convolution_by(form):
  """Traces convolutions of models as ``form``."""
  before = convolution.conv
  convolution.conv = lambda x, k, strides=(1, 1), padding="SAME": form(x, k, strides, padding)
  try:
    yield
  finally:
    convolution.conv = before


def _none(x, k, strides, padding):
  """No convolution: an average of the channels at each place, of the shape of one. What is left is all else."""
  del padding
  x = x[:, :: strides[0], :: strides[1]].mean(-1, keepdims=True)
  return x * k.mean((0, 1, 2))


def one_step(model, params, state, x, y):
  """A step of plain SGD as a program of its own, with no loop around it."""

  def loss(params):
    outputs, after = model.apply(params, state, x, train=True, key=jax.random.key(0), task=None, mask=None)
    return optax.softmax_cross_entropy_with_integer_labels(outputs.logits, y).mean(), after

  (_, after), grads = jax.value_and_grad(loss, has_aux=True)(params)
  return jax.tree.map(lambda p, g: p - RATE * g, params, grads), after


def networks(with_torch: bool) -> dict[str, Callable[[], Any]]:
  """Steps of plain SGD on the reduced ResNet-18, by the form of its convolutions."""
  model, rng = models.resnet18((28, 28, 1), 10), np.random.default_rng(0)
  params, state = jax.jit(model.init)(jax.random.key(0))
  x = jnp.asarray(rng.normal(size=(3 * BATCH, 28, 28, 1)), jnp.float32)
  y = jnp.asarray(rng.integers(0, 10, 3 * BATCH), jnp.int32)
  index = rng.integers(0, 3 * BATCH, (STEPS, BATCH)).astype(np.int32)
  out: dict[str, Callable[[], Any]] = {}
  forms = {n: FORMS[n] for n in ("patches", "maps", "winograd")} | {"chosen": convolution.conv, "none": _none}
  for name, form in forms.items():
    plain = _scan.trainer(model, RATE)

    def run(plain=plain, form=form):
      with every_convolution_by(lambda x, k, s=(1, 1), p="SAME": form(x, k, s, p)):
        return plain(params, state, x, y, index)

    out[name] = run
  step = jax.jit(functools.partial(one_step, model))

  def hosted():
    with every_convolution_by(FORMS["lax"]):
      at = params, state
      for rows in index:
        at = step(*at, x[rows], y[rows])
      return at

  out["lax from the host"] = hosted
  if with_torch:
    learner = _Learner(params, state)
    train = _torch.trainer("finetune", _torch.NETWORKS["resnet"], learner, x, y, RATE, {}, ())

    def eager() -> None:
      train(index)

    out["eager PyTorch"] = eager
  return out


class _Learner(NamedTuple):
  params: Any
  model_state: Any


def _has_torch() -> bool:
  try:
    _torch.require().set_num_threads(1)  # two wait for one another busily
  except Exception:  # the table without PyTorch's column is of use, too
    return False
  return True


def rows_of(what: str, layer: Layer, stats: dict[str, Stats], errors: dict[str, float]) -> list[dict[str, Any]]:
  """A row a form, over patches."""
  rows = []
  for name, spent in stats.items():
    each = Stats(spent.samples / STEPS)
    over = ratio(spent, stats["patches"])
    rows.append({
      "what": what, "layer": str(layer), "form": name, "cpu ms": 1e3 * each.median, "over patches": over[0],
      "over patches [quartiles]": shown(over), "GFLOP/s": layer.flops / each.median / 1e9,
      "from lax.conv": errors.get(name, ""),
    })  # fmt: skip
  return rows


def suite(report, repeats: int, layers=LAYERS, seeds: int = 4, network: bool = True) -> Table:
  rows: list[dict[str, Any]] = []
  with_torch, sums = _has_torch(), dict[str, float]()
  for layer in layers:
    arguments = draws(layer)
    names = [n for n in FORMS if n != "lax"] if layer.whole else list(CHEAP)
    runs = {n: alone(FORMS[n], layer, arguments, True) for n in names}
    if layer.whole:
      runs |= {"lax in a loop": alone(FORMS["lax"], layer, arguments, True)}
      runs |= {"lax from the host": alone(FORMS["lax"], layer, arguments, False)}
    if with_torch:
      runs["eager PyTorch"] = in_torch(layer, arguments)
    report(f"{layer}: {', '.join(runs)}")
    found = rounds({n: busy(run) for n, run in runs.items()}, repeats)
    rows += rows_of("one seed", layer, found, {n: error(FORMS[n], layer, arguments) for n in names})
    for name in [*CHEAP, "eager PyTorch"][: 2 + with_torch]:
      sums[name] = sums.get(name, 0) + layer.times * found[name].median / STEPS
    if layer.whole and seeds:
      arguments = draws(layer, seeds)
      runs = {n: alone(FORMS[n], layer, arguments, True, vmapped=True) for n in ("patches", "shifted products")}
      runs["lax from the host"] = alone(FORMS["lax"], layer, arguments, False, vmapped=True)
      found = rounds({n: busy(run) for n, run in runs.items()}, repeats)
      found = {n: Stats(s.samples / seeds) for n, s in found.items()}
      rows += rows_of(f"{seeds} seeds vmapped, each", layer, found, {})
  notes = [
    "A convolution's output and both gradients, batch 32, in processor milliseconds; over patches: paired by round; "
    "from lax.conv: the largest deviation over the largest value. PyTorch has one thread, which waits for no other.",
    "The step: plain SGD by lax.scan; chosen: by cljax.models.conv; none: the network without its convolutions.",
  ]
  if network:
    runs = networks(with_torch)
    report(f"ResNet-18: {', '.join(runs)}")
    found = rounds({n: busy(run) for n, run in runs.items()}, repeats)
    base = found["eager PyTorch" if with_torch else "patches"]
    for name, spent in found.items():
      over, mine = ratio(spent, found["patches"]), ratio(spent, base)
      row = {"what": "a step", "layer": "reduced ResNet-18", "form": name, "cpu ms": 1e3 * spent.median / STEPS}
      row |= {"over patches": over[0], "over patches [quartiles]": shown(over)}
      rows.append(row | ({"over eager PyTorch": shown(mine)} if with_torch else {}))
    told = ", ".join(f"{n} {1e3 * s:.1f}" for n, s in sums.items())
    notes.append(f"The network's convolutions one by one, summed, in processor ms: {told}.")
  return Table("Forms of a convolution", rows, notes)
