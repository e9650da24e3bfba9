"""Keras layers that compute in half precision, traced in float32 for the time of a context: the same weights, no copy.

A layer of policy `mixed_float16` computes in float16, whose smallest number is 6e-8: gradients of sure answers are smaller, come out as
exact zeros, and an attack that follows them does not move. bfloat16 keeps three decimal digits. What a graph that was traced within the
context computes, it computes in float32; graphs traced before and after are those of the model's own policy.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_HALVES = ("float16", "bfloat16")
# Keras's attribute of a layer, read without its setter, which would quantise the weights of some policies.
_POLICY = "_dtype_policy"
_tracing = threading.RLock()


def layers_inside(layer: Any) -> Iterator[Any]:
    """All layers inside this one, recursively; for layers that are no models, only Keras's private list has them."""
    inner = layer.layers if hasattr(layer, "layers") else getattr(layer, "_layers", ())
    for one in inner:
        yield one
        yield from layers_inside(one)


@contextmanager
def in_float32(model: Any) -> Iterator[None]:
    """Let the model's layers of half precision compute in float32 while it is traced."""
    halves = {id(layer): layer for layer in (model, *layers_inside(model)) if layer.compute_dtype in _HALVES}.values()
    if not halves:
        yield
        return
    with _tracing:  # a second thread would take the policies of the first one's context for the model's own
        own = [(layer, layer.__dict__[_POLICY]) for layer in halves]
        for layer, policy in own:
            layer.__dict__[_POLICY] = _wider(policy, layer.path)
        try:
            yield
        finally:
            for layer, policy in own:
                layer.__dict__[_POLICY] = policy


def _wider(policy: Any, path: str) -> Any:
    """The policy with float32 in place of half precision; the weights keep the type they are stored in."""
    wider = copy.copy(policy[path] if hasattr(policy, "keys") else policy)
    wider._compute_dtype = "float32"
    return wider
