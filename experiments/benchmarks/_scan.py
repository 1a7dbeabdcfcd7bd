"""The rival of the engine in JAX: what one writes by hand for plain training, jitted whole."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax


def trainer(model, learning_rate: float) -> Callable:
  """``train(params, model_state, x, y, index) -> (params, losses)``: SGD on the rows ``index [K, B]``, one scan."""
  optimizer = optax.sgd(learning_rate)

  @jax.jit
  def train(params, model_state, x, y, index):
    def step(carry, rows):
      params, model_state, opt_state = carry

      def loss_fn(params):
        key = jax.random.key(0)  # for dropout, of which these models have none
        outputs, after = model.apply(params, model_state, x[rows], train=True, key=key, task=None, mask=None)
        return optax.softmax_cross_entropy_with_integer_labels(outputs.logits, y[rows]).mean(), after

      (loss, model_state), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
      updates, opt_state = optimizer.update(grads, opt_state, params)
      return (optax.apply_updates(params, updates), model_state, opt_state), loss

    (params, _, _), losses = jax.lax.scan(step, (params, model_state, optimizer.init(params)), jnp.asarray(index))
    return params, losses

  return train
