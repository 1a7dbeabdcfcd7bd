"""Methods that keep the network as it is and learn low-rank changes of its kernels, one for each task."""
