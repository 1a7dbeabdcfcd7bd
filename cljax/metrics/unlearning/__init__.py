"""Evidence of forgetting, as pure functions of logits, features and margins; approximate all, none a proof of privacy.

What each needs: accuracies, membership attacks and distances ``logits [N, K]`` and labels ``[N]`` of the model and of
the retrained (original, untrained) one on forget, retain and test rows; representation ``features [N, D]``; KLoM and
U-LiRA margins ``[models, points]``; the relearning loops a loss function and parameters. The target of every number
is the retrained model's, within the spread of two retrained seeds.
"""

from cljax.metrics.unlearning.accuracies import (
  Accuracies,
  accuracies,
  accuracy,
  average_gap,
  h_mean,
  over_forgetting,
  tradeoff_auc,
  tug_of_war,
  unlearning_accuracy,
)
from cljax.metrics.unlearning.distances import (
  Completeness,
  activation_distance,
  completeness,
  js_divergence,
  zrf,
)
from cljax.metrics.unlearning.groups import equalized_odds, forest_attack, group_accuracies
from cljax.metrics.unlearning.inversion import (
  Inverted,
  Recovered,
  dense_leak,
  gradient_inversion,
  recovered,
  total_variation,
)
from cljax.metrics.unlearning.klom import Klom, klom, klom_floor, klom_points
from cljax.metrics.unlearning.lira import (
  Attack,
  attack,
  attack_accuracy,
  auc,
  lira,
  logit_margin,
  tpr_at_fpr,
  u_lira,
)
from cljax.metrics.unlearning.membership import (
  SvcAttacks,
  confidence,
  correctness,
  cross_entropy,
  entropy,
  entropy_attack,
  loss_attack,
  modified_entropy,
  svc_attacks,
)
from cljax.metrics.unlearning.relearning import (
  Relearned,
  epochs_to_reach,
  recovery_gap,
  relearn,
  relearn_time,
  relearning_attack,
  split_forget,
)
from cljax.metrics.unlearning.representation import (
  closest_classes,
  feature_cka,
  feature_mapping_attack,
  head_recovery_attack,
  knn_probe,
  map_features,
)

__all__ = [
  "Accuracies",
  "Attack",
  "Completeness",
  "Inverted",
  "Klom",
  "Recovered",
  "Relearned",
  "SvcAttacks",
  "accuracies",
  "accuracy",
  "activation_distance",
  "attack",
  "attack_accuracy",
  "auc",
  "average_gap",
  "closest_classes",
  "completeness",
  "confidence",
  "correctness",
  "cross_entropy",
  "dense_leak",
  "entropy",
  "entropy_attack",
  "epochs_to_reach",
  "equalized_odds",
  "feature_cka",
  "feature_mapping_attack",
  "forest_attack",
  "gradient_inversion",
  "group_accuracies",
  "h_mean",
  "head_recovery_attack",
  "js_divergence",
  "klom",
  "klom_floor",
  "klom_points",
  "knn_probe",
  "lira",
  "logit_margin",
  "loss_attack",
  "map_features",
  "modified_entropy",
  "over_forgetting",
  "recovered",
  "recovery_gap",
  "relearn",
  "relearn_time",
  "relearning_attack",
  "split_forget",
  "svc_attacks",
  "total_variation",
  "tpr_at_fpr",
  "tradeoff_auc",
  "tug_of_war",
  "u_lira",
  "unlearning_accuracy",
  "zrf",
]
