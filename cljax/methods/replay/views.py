"""Second views of pictures under their earlier name: they stand in :mod:`cljax.methods.views`."""

from cljax.core.tree import fold
from cljax.methods.views import HUE, JITTERED, LUMA, RATIO, YIQ, cut_out, grey, recoloured, second_view

__all__ = ["HUE", "JITTERED", "LUMA", "RATIO", "YIQ", "cut_out", "fold", "grey", "recoloured", "second_view"]
