"""A graph as plain JSON values that name its tensors, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, get_args

from torch import Tensor

from tiebreak.design.axes import DesignError
from tiebreak.exact.graph import Graph, Node, Operation, Parameter
from tiebreak.exact.json_fields import CertificateError, Field
from tiebreak.exact.shapes import check_shapes
from tiebreak.numerics.geometry import PoolGeometry

OPERATIONS: dict[str, type[Operation]] = {kind.__name__: kind for kind in get_args(Operation)}
"""The operations of a graph by their names."""


def graph_tree(graph: Graph, keep: Callable[[str, Tensor], str]) -> dict[str, Any]:
    """A graph as plain values.

    Args:
        graph: any.
        keep: puts a tensor away under a name and returns the name.
    """
    return {
        "batch": keep("batch", graph.batch),
        "nodes": [_node(index, node, keep) for index, node in enumerate(graph.nodes)],
        "output": graph.output,
        "parameters": {name: list(shape) for name, shape in graph.parameters.items()},
        "nonfinite": graph.nonfinite,
    }


def _node(index: int, node: Node, keep: Callable[[str, Tensor], str]) -> dict[str, Any]:
    options = {}
    for name, value in vars(node.operation).items():
        match value:
            case Parameter(value=tensor, name=parameter):
                options[name] = {"tensor": keep(f"{index}.{name}", tensor), "parameter": parameter}
            case Tensor():
                options[name] = keep(f"{index}.{name}", value)
            case PoolGeometry():
                options[name] = {item.name: getattr(value, item.name) for item in fields(value)}
            case _:
                options[name] = value
    return {
        "operation": type(node.operation).__name__,
        "inputs": list(node.inputs),
        "shape": list(node.shape),
        "where": node.where,
        "options": options,
    }


def read_graph(field: Field, numbers: Mapping[str, Tensor]) -> Graph:
    """The graph that `graph_tree` wrote.

    Raises:
        CertificateError: a field that is missing or wrong, or operations that do not fit each other.
    """
    field.only("batch", "nodes", "output", "parameters", "nonfinite", "cotangent")
    nodes = []
    for index, item in enumerate(field["nodes"].items()):
        item.only("operation", "inputs", "shape", "where", "options")
        inputs = item["inputs"].shape()
        if any(source >= index for source in inputs):
            raise item["inputs"].wrong("places of earlier nodes")
        nodes.append(Node(_operation(item, numbers), inputs, item["shape"].shape(), item["where"].text()))
    graph = Graph(
        nodes=tuple(nodes),
        output=field["output"].whole(),
        batch=field["batch"].among(numbers).double(),
        parameters={name: field["parameters"][name].shape() for name in field["parameters"].mapping()},
        nonfinite=field["nonfinite"].optional(),
    )
    for path, problem in check_shapes(graph):
        raise CertificateError(f"the field graph.{path} cannot be: {problem}.")
    return graph


def _operation(field: Field, numbers: Mapping[str, Tensor]) -> Operation:
    name = field["operation"].text()
    if name not in OPERATIONS:
        raise field["operation"].wrong(f"one of {', '.join(OPERATIONS)}")
    kind, options = OPERATIONS[name], field["options"]
    wanted = {item.name: str(item.type) for item in fields(kind)}
    options.only(*wanted)
    return kind(**{name: _option(options[name], what, numbers) for name, what in wanted.items()})


def _option(field: Field, what: str, numbers: Mapping[str, Tensor]) -> Any:
    """One option of an operation, by the type that `graph` declares for it."""
    match what:
        case "Parameter":
            field.only("tensor", "parameter")
            return Parameter(field["tensor"].among(numbers).double(), field["parameter"].optional())
        case "Parameter | None":
            return None if field.value is None else _option(field, "Parameter", numbers)
        case "Tensor":
            tensor = field.among(numbers)
            return tensor if field.path.endswith(".float_mask") else tensor.double()
        case "tuple[int, int]":
            return field.pair()
        case "int":
            return field.whole()
        case "float":
            return field.number()
        case "str | None":
            return field.optional()
        case "PoolGeometry":
            field.only(*(item.name for item in fields(PoolGeometry)))
            sizes = {name: field[name].pair() for name in ("kernel", "stride", "padding", "dilation")}
            try:
                return PoolGeometry.of(**sizes, ceil_mode=field["ceil_mode"].truth())
            except DesignError as error:
                raise CertificateError(f"the field {field.path} cannot be: {error}") from None
        case _:
            raise AssertionError(f"{what} is no type of an option")
