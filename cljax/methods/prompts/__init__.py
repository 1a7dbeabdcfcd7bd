"""Methods that learn prompts of a frozen network."""

from cljax.methods.prompts.tuning import prompted, tuned

__all__ = ["prompted", "tuned"]
