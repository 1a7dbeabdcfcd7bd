"""Adam-NSCL: updates in the approximate null space of all earlier layer inputs."""

from __future__ import annotations

import jax

from cljax import projectors
from cljax.core import layers
from cljax.core.method import Method
from cljax.core.types import Access, Spec
from cljax.estimators.per_sample import sum_over_batches
from cljax.methods.heads import AUTO, hold_others, projected
from cljax.methods.projection.gradients import layer_rows, standing, with_held
from cljax.methods.registry import Entry, Option, register
from cljax.projectors.gpm import kernels

ROWS = 64  # passed over at once


def covariances(model, spec: Spec, learner, rows, skipped):
  """``{kernel path: X^T X [d_in, d_in]}`` over what each kernel multiplies on all ``rows``: of each row by itself, not
  of a batch's mean."""
  found = kernels(learner.params, skipped)
  width = lambda x: x.size // x.shape[-1]
  like = {n: jax.ShapeDtypeStruct((width(x), width(x)), x.dtype) for n, x in found.items()}

  def of_batch(batch, start):
    del start
    inputs = layer_rows(model, spec, learner, batch)
    return {n: layers.product(inputs[n].T, inputs[n]) for n in found}

  return sum_over_batches(rows, ROWS, like, of_batch)


def adam_nscl(model, spec: Spec, *, threshold, floor, norm: str = "none", skip: str = AUTO) -> Method:
  """Adam-NSCL: ``U <- V V^T U`` for the update U ``[d_in, c_out]`` of each kernel, V the eigenvectors of ``sum_t X_t^T
  X_t`` whose eigenvalues are ``<= threshold * max(least, floor * largest)``, X_t ``[n, d_in]`` all layer inputs of
  finished task t.

  It stands behind the optimizer, weight decay included, which the paper has as Adam (``optimizer.name=adam``): what
  finished tasks put into a layer comes out as it did. ``threshold``: the paper's a, 10, and 30 for 20 tasks. Least
  eigenvalues at rounding level count as one of ``d_in eps`` times the largest, else a single direction would be left;
  ``floor`` sets that share by hand. ``norm='frobenius'`` is the released code's: the step is divided by the root of
  the null space's dimension, which the paper does not have. ``skip`` as for ``gpm``. Keeps ``2 d_in^2`` numbers a
  kernel. A task that comes back is counted again.

  Deviations: inputs enter row by row, as in the paper; the released code takes the mean over each batch first, which
  loses their variance. Biases, norm parameters and what multiplies no captured input are held after the first task
  (:func:`cljax.methods.heads.projected`); the paper has EWC on those of BatchNorm. One learning rate; the released code
  has one each for the first task, later ones, heads and norms. Raises UsageError for a model without ``capture`` and a
  ``skip`` that leaves no kernel; requests are answered by ``retrain`` alone. Spec E2; Wang et al., 2021.
  """
  skipped, hold = projected(model, spec, skip)

  def end_task(key, learner, task):
    del key
    sums = covariances(model, spec, learner, task.rows, skipped)
    return learner._replace(opt_state=projectors.nscl_extend(learner.opt_state, sums, threshold, floor, norm))

  projector = with_held(projectors.nscl(skipped), hold)
  return Method(end_task=end_task, **standing(projector, hold_others(model, spec, skip), "update"))


register(
  "adam_nscl",
  Entry(
    adam_nscl,
    {
      "threshold": Option(10.0, 1),
      "floor": Option(0.0, 0, 1),
      "norm": Option("none", choices=("none", "frobenius")),
      "skip": Option(AUTO),
    },
    Access(task_boundaries=True, boundary_data=True, needs=("plain_inputs",)),
    "Wang et al. 2021",
  ),
)
