"""Which layers of an int8 graph cost most accuracy."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rexnet.deploy.int8_graph import int8_layers, with_float_layers
from rexnet.engines.backends import Engine, open_graph

if TYPE_CHECKING:
    import onnx


def most_sensitive_first(int8: "onnx.ModelProto", reference: "onnx.ModelProto", images: Tensor) -> list[str]:
    """The int8 layers of a graph, those first whose return to float brings the logits of `images` (B, 3, H, W) nearest
    to those of `reference`, the float graph. Opens one graph a layer, in ONNX Runtime, which opens them fastest."""
    engine = Engine(backend="onnxruntime")
    right = open_graph(reference.SerializeToString(), engine)(images)

    def distance(name: str) -> float:
        graph = with_float_layers(int8, reference, [name])
        found = open_graph(graph.SerializeToString(), engine)(images)
        return float(torch.linalg.vector_norm(found - right))

    return sorted(int8_layers(int8), key=distance)
