"""Facts as rows of tokens, and what a layer of a decoder holds of them: keys, their second moments, values."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cljax.core import tree
from cljax.core.checks import check_scalar
from cljax.core.types import Array, Model, Params, UsageError


class Fact(NamedTuple):
  """A fact as R rows of tokens ``[R, L]``, padded on the right; :func:`fact` makes it of text.

  Row 0 is the prompt with its answer, rows 1 to R - 2 the same behind other text, the last one a sentence that begins
  with the subject, whose next word is to stay. ``place [R]``: each row's last token of the subject. ``target``: the
  tokens one place further, of which ``weight`` asks for those of the answer: 1 / their number each, 0 elsewhere.
  """

  token: Any
  mask: Any
  place: Any
  target: Any
  weight: Any

  @property
  def x(self) -> dict[str, Any]:
    """What a decoder is given."""
    return {"token": jnp.asarray(self.token, jnp.int32), "mask": jnp.asarray(self.mask)}


class ValueSearch(NamedTuple):
  """How a value is searched: Adam from 0 on what is added to a layer's output at the subject's last token.

  ``loss = mean over contexts of -log p(answer) / its tokens + divergence KL(p || p_0) + decay |delta|^power / |v_0|^2``
  with p the next word behind the subject in the last row; the delta is cut to ``radius |v_0|``. At most ``steps - 1``
  updates, none from a loss below ``enough`` on. The released code has ``power=1``, which depends on the unit of v_0; 2
  does not. Its ``radius`` is 4 for ROME and 0.75 for MEMIT.
  """

  steps: int = 20
  learning_rate: float = 0.5
  divergence: float = 0.0625
  decay: float = 0.5
  power: int = 1
  radius: float = 4.0
  enough: float = 0.05


def fact(
  words: Any, prompt: str, subject: str, answer: str, contexts: Sequence[str] = (), *, essence: str = "{} is a",
  length: int = 0,
) -> Fact:  # fmt: skip
  """The :class:`Fact` of a ``prompt`` such as ``'{} was born in'``, its subject, and an answer such as ``' Paris'``.

  ``words`` is a :class:`cljax.data.Tokenizer`; each row is made tokens as a whole. ``contexts`` are texts that stand
  in front of the prompt, a space between. ``length``: pads to so many tokens (0: to the longest row), so that facts of
  one length share their compiled programs. Raises UsageError for a prompt or an essence without one ``{}``, an empty
  subject or answer, and rows that are longer.
  """
  for name, text in (("prompt", prompt), ("essence", essence)):
    if text.count("{}") != 1:
      raise UsageError(f"{name}: got {text!r}; expected text with one {{}}, where the subject stands")
  if essence.endswith("{}"):
    raise UsageError(f"essence: got {essence!r}; expected text behind the subject, whose next word is asked for")
  if not subject.strip() or not answer.strip():
    raise UsageError(f"fact: subject is {subject!r}, answer {answer!r}; expected text that is not empty")
  asked = [(prompt, answer), *((f"{c} {prompt}", answer) for c in contexts), (essence, "")]
  rows = []
  for template, said in asked:
    before, _, behind = template.partition("{}")
    start, end = len(before), len(before) + len(subject)
    text = before + subject + behind
    ids, spans = words.encode(text + said), words.spans(text + said)
    last = max(i for i, (a, b) in enumerate(spans) if a < end and b > start)
    rows.append((ids, last, [b > len(text) for _, b in spans]))
  longest = max(len(ids) for ids, *_ in rows) - 1
  if length and length < longest:
    raise UsageError(f"length: got {length}; the longest row has {longest} tokens in front of its last")
  shape = (len(rows), length or longest)
  token, mask, target = (np.zeros(shape, np.int32) for _ in range(3))
  weight, place = np.zeros(shape, np.float32), np.zeros(len(rows), np.int32)
  for i, (ids, at, learned) in enumerate(rows):
    n = len(ids) - 1
    token[i, :n], target[i, :n], mask[i, :n], place[i] = ids[:-1], ids[1:], 1, at
    weight[i, :n] = np.asarray(learned[1:]) / max(sum(learned[1:]), 1)
  return Fact(token, mask, place, target, weight)


def check_layers(model: Model, params: Params, layers: Sequence[str]) -> None:
  """UsageError unless the model shows its layers, and each of ``layers`` is the path of one with a kernel."""
  if model.capture is None:
    raise UsageError("model: shows no layers (its capture is None); a decoder is made with remat=False")
  leaves = tree.by_path(params)
  kernels = [n.removesuffix("/kernel") for n, a in leaves.items() if n.endswith("/kernel") and jnp.ndim(a) == 2]
  for layer in layers:
    if layer not in kernels:
      raise UsageError(f"layers: got {layer!r}; allowed: {', '.join(kernels) or 'none, the model has no kernel'}")


@functools.partial(jax.jit, static_argnames=("capture", "layers"))
def grams(params, state, x, *, capture, layers):
  """``({layer: sum k k^T}, tokens)`` over the tokens that are there."""
  calls = capture(params, state, x, None)[1]
  token = x["token"] if isinstance(x, dict) else x
  mask = x.get("mask") if isinstance(x, dict) else None
  there = (jnp.ones(token.shape) if mask is None else mask > 0).astype(jnp.float32)
  keys = {layer: calls[layer].input.astype(jnp.float32) * there[..., None] for layer in layers}
  return {layer: jnp.einsum("bli,blj->ij", k, k) for layer, k in keys.items()}, there.sum()


def key_moments(
  model: Model, params: Params, layers: Sequence[str], batches: Iterable[Any], *, model_state: Any = None,
  ridge: float = 1e-4,
) -> dict[str, np.ndarray]:  # fmt: skip
  """``C = sum_t k_t k_t^T / tokens + ridge tr(C) / m I``, ``{layer: [m, m]}`` float64, of the inputs k of each layer.

  Not centred. ``batches`` of general text: tokens ``[B, L]``, or dicts of ``token`` and ``mask``, whose padding is left
  out; at least 20 m tokens (UNVERIFIED: a rule of thumb). Edits one after another use that of the network before the
  first (as the released code does, which keeps it by name). Raises UsageError for layers that are none and no batch.
  """
  check_layers(model, params, layers)
  check_scalar("key_moments", "ridge", ridge)
  state = {} if model_state is None else model_state
  sums: dict[str, Any] = dict.fromkeys(layers, 0.0)
  tokens = 0.0
  for x in batches:
    found, count = grams(params, state, jax.tree.map(jnp.asarray, x), capture=model.capture, layers=tuple(layers))
    sums = {layer: sums[layer] + np.asarray(found[layer], np.float64) for layer in layers}
    tokens += float(count)
  if not tokens:
    raise UsageError("batches: hold no token; expected rows of general text")
  moments = {layer: total / tokens for layer, total in sums.items()}
  return {layer: c + ridge * np.trace(c) / len(c) * np.eye(len(c)) for layer, c in moments.items()}


@functools.partial(jax.jit, static_argnames=("capture", "layer"))
def _seen(params, state, x, place, *, capture, layer):
  logits, calls = capture(params, state, x, None)
  rows = jnp.arange(len(place))
  wide = lambda a: a[rows, place].astype(jnp.float32)
  return wide(calls[layer].input), wide(calls[layer].output), jax.nn.log_softmax(logits[-1, place[-1]])


def seen(model: Model, params: Params, state: Any, fact: Fact, layer: str) -> tuple[Array, Array, Array]:
  """``(keys [R, m], outputs [R, d], log p [V])`` of a layer at the subject's last token of each row, and of the next
  word behind it in the last row."""
  place = jnp.asarray(fact.place)
  keys, outputs, log_p = _seen(params, state, fact.x, place, capture=model.capture, layer=layer)
  return keys, outputs, log_p


@functools.partial(jax.jit, static_argnames=("capture", "layer", "search"))
def _searched(params, state, x, place, target, weight, log_p, base, *, capture, layer, search):
  s, rows = search, jnp.arange(len(place))
  tx = optax.adam(s.learning_rate)
  size = jnp.linalg.norm(base)

  def loss(delta):
    probe = jnp.zeros((*target.shape, len(base))).at[rows, place].set(delta)
    logits = capture(params, state, x, {layer: probe})[0]
    each = optax.softmax_cross_entropy_with_integer_labels(logits[:-1], target[:-1])
    after = jax.nn.log_softmax(logits[-1, place[-1]])
    square = jnp.sum(delta**2)
    length = jnp.where(square > 0, jnp.sqrt(jnp.where(square > 0, square, 1.0)), 0.0)  # gradient 0 at 0
    drift = jnp.sum(jnp.exp(after) * (after - log_p))
    return (each * weight[:-1]).sum(-1).mean() + s.divergence * drift + s.decay * length**s.power / size**2

  def step(carry):
    i, delta, adam, _, gradient = carry
    updates, next_adam = tx.update(gradient, adam)
    new = delta + updates
    length = jnp.linalg.norm(new)
    new = new * jnp.minimum(1.0, s.radius * size / jnp.maximum(length, 1e-30))
    first = i < 0  # only asks for the loss at 0: one program computes it everywhere
    delta = jnp.where(first, delta, new)
    adam = jax.tree.map(lambda a, b: jnp.where(first, a, b), adam, next_adam)
    return i + 1, delta, adam, *jax.value_and_grad(loss)(delta)

  zero = jnp.zeros_like(base)
  go = lambda carry: (carry[0] < s.steps - 1) & (carry[3] >= s.enough)
  return jax.lax.while_loop(go, step, (jnp.int32(-1), zero, tx.init(zero), jnp.float32(jnp.inf), zero))[1]


def searched(model: Model, params: Params, state: Any, fact: Fact, layer: str, base: Array, log_p: Array,
             search: ValueSearch) -> Array:  # fmt: skip
  """The delta ``[d]`` of :class:`ValueSearch` at the output of a layer; ``base [d]`` is what it is added to (v_0)."""
  return _searched(params, state, fact.x, jnp.asarray(fact.place), jnp.asarray(fact.target), jnp.asarray(fact.weight),
                   log_p, base, capture=model.capture, layer=layer, search=search)  # fmt: skip


def check_search(search: ValueSearch) -> None:
  """UsageError for a number outside its range."""
  for name, low, above in (("steps", 1, False), ("learning_rate", 0, True), ("divergence", 0, False),
                           ("decay", 0, False), ("radius", 0, True), ("enough", 0, False)):  # fmt: skip
    check_scalar("search", name, getattr(search, name), low, above=above, whole=name == "steps")
  if search.power not in (1, 2):
    raise UsageError(f"search: power must be one of 1, 2; got {search.power!r}")
