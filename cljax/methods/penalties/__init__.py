"""Methods whose part in the loss, or beside it, holds parameters to where they were."""

from cljax.methods.penalties.pulls import (
  DECOUPLED,
  FISHER,
  consolidated,
  ewc,
  fisher,
  kind_of,
  mas,
  online_ewc,
  quadratic,
  si,
)

__all__ = ["DECOUPLED", "FISHER", "consolidated", "ewc", "fisher", "kind_of", "mas", "online_ewc", "quadratic", "si"]
