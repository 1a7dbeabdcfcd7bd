"""Objectives of targets that stand beside the inputs: class numbers, next tokens, real numbers."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from cljax import losses
from cljax.core.types import UsageError
from cljax.objectives.objective import Objective, Score, supervised
from cljax.objectives.registry import Number, Text, offered
from cljax.objectives.rows import present


@offered()
def classification(model, spec) -> Objective:
  """One of C classes: ``-log p(y | x)`` over the classes that the row's mask leaves open; score: accuracy.

  Predictions are logits ``[B, C]``, targets class numbers ``[B]``, which each task labels.
  """
  del model, spec

  def each(prediction, batch):
    return losses.cross_entropy(prediction, batch.y, batch.class_mask), None

  def accuracy(key, predict, batch):
    del key
    logits = predict(batch)
    if batch.class_mask is not None:
      logits = jnp.where(batch.class_mask, logits, jnp.asarray(-jnp.inf, logits.dtype))
    return jnp.argmax(logits, -1) == batch.y, jnp.ones(batch.y.shape)

  def sample(key, prediction, batch):
    open_ = prediction if batch.class_mask is None else jnp.where(batch.class_mask, prediction, -jnp.inf)
    return batch._replace(y=jax.random.categorical(key, open_, axis=-1).astype(batch.y.dtype))

  def factor(prediction, batch):
    open_ = prediction if batch.class_mask is None else jnp.where(batch.class_mask, prediction, -jnp.inf)
    p = jax.nn.softmax(open_)
    return jnp.sqrt(p)[..., None] * (jnp.eye(p.shape[-1], dtype=p.dtype) - p[:, None, :])

  def divergence(prediction, teacher, batch, temperature):
    return losses.distillation(prediction, teacher, temperature, batch.class_mask)

  scores = {"accuracy": Score(accuracy, bits=True)}
  return supervised("classification", each, scores, "accuracy", sample=sample, factor=factor, divergence=divergence,
                    classes=True, labels=lambda batch: (batch.y, jnp.ones(batch.y.shape, jnp.float32)))  # fmt: skip


def _tokens(batch):
  """``(token [B, L], weight [B, L])``: of an array, negative tokens are ignored; a dict has both."""
  if isinstance(batch.y, dict):
    return jnp.maximum(batch.y["token"], 0), batch.y["weight"].astype(jnp.float32)
  return jnp.maximum(batch.y, 0), (batch.y >= 0).astype(jnp.float32)


@offered(reduction=Text("tokens", ("tokens", "rows", "sum")))
def sequence(model, spec, *, reduction: str) -> Objective:
  """Next tokens: ``-log p(y_l | x)`` for each position of weight; scores: perplexity (lower), accuracy.

  Predictions are logits ``[B, L, V]``; targets ``[B, L]`` int, negative where nothing is learned (padding, a prompt),
  or ``{"token", "weight"}``. ``reduction``: the mean over 'tokens'; over 'rows' of each row's mean; over rows of each
  row's 'sum'. Scores are over tokens in every case.
  """
  del model, spec

  def check(prediction, target):
    if isinstance(target, dict) and not {"token", "weight"} <= set(target):
      raise UsageError(f"y: has {', '.join(target)}; 'sequence' takes 'token' and 'weight', or one array of tokens")
    token = target["token"] if isinstance(target, dict) else target
    if not jnp.issubdtype(token.dtype, jnp.integer):
      raise UsageError(f"y: is {token.dtype}; 'sequence' takes tokens, which are integers")
    if prediction.shape[:-1] != token.shape:
      raise UsageError(
        f"y: is {list(token.shape)} and the model gives {list(prediction.shape)}; expected logits [B, L, V] for tokens "
        "[B, L]"
      )

  def tokens(prediction, batch):
    token, weight = _tokens(batch)
    return losses.cross_entropy(prediction, token), weight

  def shaped(loss, weight):
    if reduction == "tokens":
      return loss, weight
    if reduction == "rows":
      return jax.vmap(losses.reduce)(loss, weight), None
    return jnp.sum(weight * jnp.where(weight > 0, loss, 0.0), -1), None

  def each(prediction, batch):
    return shaped(*tokens(prediction, batch))

  def divergence(prediction, teacher, batch, temperature):
    return shaped(losses.distillation(prediction, teacher, temperature), _tokens(batch)[1])[0]

  def likelihood(key, predict, batch):
    del key
    loss, weight = tokens(predict(batch), batch)
    return jnp.sum(weight * jnp.where(weight > 0, loss, 0.0), -1), jnp.sum(weight, -1)

  def accuracy(key, predict, batch):
    del key
    token, weight = _tokens(batch)
    return jnp.sum((jnp.argmax(predict(batch), -1) == token) * weight, -1), jnp.sum(weight, -1)

  def sample(key, prediction, batch):
    token = jax.random.categorical(key, prediction, axis=-1).astype(jnp.int32)
    if isinstance(batch.y, dict):
      return batch._replace(y={**batch.y, "token": token})
    return batch._replace(y=jnp.where(batch.y >= 0, token, batch.y))

  def check_rows(prediction, x, y):
    del x
    token, most = (y["token"] if isinstance(y, dict) else y), prediction.shape[-1]
    if np.issubdtype(token.dtype, np.integer) and token.max(initial=0) >= most:
      raise UsageError(f"y: the data hold tokens up to {token.max()}; the model gives logits of {most}, 0..{most - 1}")
    if isinstance(y, dict) and y["weight"].min(initial=0) < 0:
      raise UsageError(f"y: the data hold weights down to {y['weight'].min()}; expected at least 0")

  parts = lambda batch: _tokens(batch)[1]
  scores = {"perplexity": Score(likelihood, np.exp, "lower"), "accuracy": Score(accuracy)}
  return supervised("sequence", each, scores, "perplexity", sample=sample, divergence=divergence, parts=parts,
                    labels=_tokens, check=check, check_rows=check_rows)  # fmt: skip


@offered(noise=Number(1.0, above=True))
def regression(model, spec, *, noise) -> Objective:
  """Real numbers: ``|z - y|^2 / (2 noise)``, minus the log likelihood under Gaussian noise of that variance, less its
  constant; score: the mean squared error of an output (lower).

  Predictions and targets are ``[B, K]`` (or ``[B]`` and ``[B, 1]``). Without the noise a Fisher had no scale.
  """
  del model, spec

  def gap(prediction, batch):
    return (prediction - batch.y.reshape(prediction.shape)).astype(jnp.float32).reshape(prediction.shape[0], -1)

  def each(prediction, batch):
    return jnp.sum(jnp.square(gap(prediction, batch)), -1) / (2 * noise), None

  def error(key, predict, batch):
    del key
    difference = gap(predict(batch), batch)
    return jnp.mean(jnp.square(difference), -1), jnp.ones(difference.shape[0])

  def sample(key, prediction, batch):
    drawn = prediction + jnp.sqrt(noise) * jax.random.normal(key, prediction.shape, prediction.dtype)
    return batch._replace(y=drawn.reshape(batch.y.shape))

  def factor(prediction, batch):
    del batch
    count = prediction.reshape(prediction.shape[0], -1).shape[1]
    return jnp.broadcast_to(jnp.eye(count) / jnp.sqrt(noise), (prediction.shape[0], count, count))

  def divergence(prediction, teacher, batch, temperature):
    del batch
    gap = (prediction - teacher).reshape(prediction.shape[0], -1)
    return jnp.sum(jnp.square(gap), -1) / (2 * noise * temperature)

  def check(prediction, target):
    own, given = (math.prod(a.shape[1:]) for a in (prediction, target))
    if own != given:
      classes = "; integers are class numbers, real targets are floats" if target.dtype == jnp.int32 else ""
      raise UsageError(f"y: a row has {given} targets; the model gives {own} numbers{classes}")

  return supervised("regression", each, {"squared_error": Score(error, better="lower")}, "squared_error",
                    sample=sample, factor=factor, divergence=divergence, check=check)  # fmt: skip


@offered()
def multi_label(model, spec) -> Objective:
  """Any of C labels, each by itself: ``-sum_c [y log sigmoid(z) + (1 - y) log sigmoid(-z)]``.

  Predictions are logits ``[B, C]``, targets ``[B, C]`` of 0 and 1. Scores: accuracy of a label (``z > 0``), exact_match
  of a row's labels, cross_entropy of a row (lower). The output's information is ``diag(p (1 - p))``; the divergence is
  the sum over labels of ``KL(teacher || own)`` of Bernoullis, both logits over the temperature.
  """
  del model, spec

  def each(prediction, batch):
    return losses.binary_cross_entropy(present(batch, prediction), present(batch, batch.y)), None

  def hits(predict, batch):
    return (predict(batch) > 0) == (batch.y > 0)

  def accuracy(key, predict, batch):
    del key
    right = hits(predict, batch)
    return jnp.sum(right, -1), jnp.full(right.shape[0], right.shape[1])

  def exact(key, predict, batch):
    del key
    right = hits(predict, batch)
    return jnp.all(right, -1), jnp.ones(right.shape[0])

  def entropy(key, predict, batch):
    del key
    return each(predict(batch), batch)[0], jnp.ones(batch.weight.shape)

  def sample(key, prediction, batch):
    return batch._replace(y=jax.random.bernoulli(key, jax.nn.sigmoid(prediction)).astype(batch.y.dtype))

  def factor(prediction, batch):
    del batch
    z = prediction.astype(jnp.float32)
    return jnp.exp(0.5 * (jax.nn.log_sigmoid(z) + jax.nn.log_sigmoid(-z)))[..., None] * jnp.eye(z.shape[-1])

  def divergence(prediction, teacher, batch, temperature):
    z, t = (present(batch, a).astype(jnp.float32) / temperature for a in (prediction, teacher))
    t = jax.lax.stop_gradient(t)
    q, log = jax.nn.sigmoid(t), jax.nn.log_sigmoid
    return jnp.sum(q * (log(t) - log(z)) + (1 - q) * (log(-t) - log(-z)), -1)

  def check(prediction, target):
    if prediction.shape[1:] != target.shape[1:] or len(target.shape) != 2:
      raise UsageError(f"y: a row has targets {target.shape[1:]}; the model gives logits {prediction.shape[1:]}")

  def check_rows(prediction, x, y):
    del prediction, x
    if y.min(initial=0) < 0 or y.max(initial=0) > 1:
      raise UsageError(f"y: the data hold {y.min()}..{y.max()}; multi_label expects each label to be 0 or 1")

  exactly = Score(exact, bits=True)
  scores = {"accuracy": Score(accuracy), "exact_match": exactly, "cross_entropy": Score(entropy, better="lower")}
  return supervised("multi_label", each, scores, "accuracy", sample=sample, factor=factor, divergence=divergence,
                    check=check, check_rows=check_rows)  # fmt: skip
