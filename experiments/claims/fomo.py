"""Random forgetting and relearning against robust overfitting."""

import jax
import jax.numpy as jnp
import numpy as np

import cljax
from cljax import losses, methods
from experiments.claims import Claim, Measured
from experiments.claims._runs import digits, mlp, train

CLAIM = Claim(
  methods=("fomo",),
  paper="Ramkumar et al. 2024",
  sentence="Adversarial training that forgets random weights and relearns them ends more robust than plain "
  "adversarial training, which overfits.",
  protocol="One task, all 10 digits, a quarter of the training rows (359); MLP 64-100-100-10, SGD 0.05, batch 32, "
  "100 epochs on examples perturbed by 3 steps within 0.15 of the pixel range; accuracy at the end on test "
  "rows perturbed by 10 steps, fomo (its stable model, the defaults) minus plain adversarial training, in "
  "points.",
)
RADIUS = 0.15


def perturbed(apply, x, y, scale: float, steps: int):
  """Signed-gradient ascent of the loss within ``RADIUS`` of ``x`` in the largest norm; ``x * scale`` is in [0, 1]."""
  radius = RADIUS / scale
  start = x.astype(jnp.float32)
  slope = jax.grad(lambda z: losses.cross_entropy(apply(z), y).sum())

  def climb(_, z):
    z = z + 2 * radius / steps * jnp.sign(slope(z))
    return jnp.clip(jnp.clip(z, start - radius, start + radius), 0.0, 1.0 / scale)

  return jax.lax.fori_loop(0, steps, climb, start)


def adversarial(name: str, scale: float):
  """A factory: a registered method, trained on perturbed rows."""

  def factory(model, spec):
    def prepare(key, learner, batch):
      apply = lambda x: model.apply(learner.params, learner.model_state, x, train=False, key=key)[0].logits
      return learner, batch._replace(x=perturbed(apply, batch.x, batch.y, scale, 3))

    # It reads the rows; it stores none.
    attack = cljax.Method(
      prepare=prepare, scrub=lambda learner, request: learner, access=cljax.Access(stores_data=True)
    )
    return cljax.compose(attack=attack, method=methods.make(name, model, spec))

  return factory


def measure(seeds):
  stream = digits("class", 1, task_fractions=(0.25,))
  scale, test = stream.dataset.scale, stream.dataset.test
  model = mlp(stream)

  @jax.jit
  @jax.vmap
  def right(params):
    apply = lambda x: model.apply(params, {}, x.astype(jnp.float32) * scale, train=False, key=None)[0].logits
    x = perturbed(apply, jnp.asarray(test.x), jnp.asarray(test.y), scale, 10)
    return [100 * jnp.mean(jnp.argmax(apply(z), -1) == jnp.asarray(test.y)) for z in (jnp.asarray(test.x), x)]

  def scores(name, epochs=100):
    result = train(stream, adversarial(name, scale), seeds, epochs=epochs)
    state = result.learner.method_state["method"]
    clean, robust = right(state.params if name == "fomo" else result.learner.params)
    return [np.where(result.alive, np.asarray(v, np.float64), np.nan) for v in (clean, robust)]

  (plain_clean, plain), (clean, robust) = scores("finetune"), scores("fomo")
  _, halfway = scores("finetune", 50)  # above the end, if plain training overfits
  return Measured(
    {"robust accuracy of fomo - plain": robust - plain},
    {
      "plain robust accuracy": plain,
      "plain robust accuracy after 50 epochs": halfway,
      "fomo robust accuracy": robust,
      "plain clean accuracy": plain_clean,
      "fomo clean accuracy": clean,
    },
  )
