"""Pages, tables and pictures of runs and sweeps."""
