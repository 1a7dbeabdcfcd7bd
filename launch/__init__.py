"""Launchers as modules, ``python -m launch.sweep``, for use from a checkout; their code is :mod:`cljax.cli`."""
