"""The ways to run a block: as its framework runs it by itself, compiled, exported, saved and reloaded.

A backend's adapter runs the modes that its package knows; the table says for each which those are, and why not the
others.
"""

from __future__ import annotations

# How a backend runs a block when nothing else is asked for: eager PyTorch and TensorFlow, compiled JAX, a TF1 session.
PLAIN = "plain"
