"""The network and its derivative modulo a prime: equality of rationals, decided by whole numbers.

A dyadic rational has a residue modulo every odd prime, and so has a sum, a product and a share 1 / n. A
residue that is not zero proves that the rational is not zero; zero residues modulo several random primes
prove it up to a probability that `primes` bounds, and with enough primes outright.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import torch
from torch import Tensor

from tiebreak.exact import contraction
from tiebreak.exact.dyadic import reduce_, residue_of, residues
from tiebreak.exact.evaluation import MOST_KEPT, Decision, Numbers, Windows, gather
from tiebreak.exact.graph import (
    Add,
    Affine,
    AveragePool2d,
    Concat,
    Conv2d,
    Graph,
    Linear,
    MaxPool2d,
    Node,
    ReLU,
    Reshape,
)
from tiebreak.exact.rules import TieRule


class Residues(Numbers[Tensor]):
    """Numbers modulo a prime: float64 holding whole numbers of at most 2**20 in size.

    Args:
        prime: from `primes.draw_primes`.
    """

    def __init__(self, prime: int) -> None:
        self.prime = prime
        self._encoded: dict[int, tuple[Tensor, Tensor]] = {}

    def reduce(self, x: Tensor) -> Tensor:
        """x modulo the prime, in place; |x| < 2**53 - 2**22, and then |result| < prime / 2 + 4."""
        return reduce_(x, prime=self.prime)

    def encode(self, x: Tensor) -> Tensor:
        """Residues of float64 numbers."""
        return residues(x, prime=self.prime)

    def constant(self, x: Tensor) -> Tensor:
        """Residues of a tensor of the graph; those of a small one are computed once."""
        if x.numel() > MOST_KEPT:
            return self.encode(x)
        if id(x) not in self._encoded:
            self._encoded[id(x)] = (x, self.encode(x))  # x is kept so that its id stays its own
        return self._encoded[id(x)][1]

    def number(self, share: Fraction) -> float:
        """The residue of a rational whose denominator the prime does not divide."""
        residue = residue_of(share, prime=self.prime)
        return residue - self.prime if residue > self.prime // 2 else residue

    def batch(self, x: Tensor) -> Tensor:
        """The batch."""
        return self.encode(x)

    def conv(self, x: Tensor, operation: Conv2d) -> Tensor:
        """Convolution with bias."""
        weight = self.constant(operation.weight.value)
        result = contraction.exact_conv(x, weight, operation, reduce=self.reduce)
        if operation.bias is None:
            return result
        return self.reduce(result.add_(self.constant(operation.bias.value)[:, None, None]))

    def linear(self, x: Tensor, operation: Linear) -> Tensor:
        """Product with a matrix, with bias."""
        weight = self.constant(operation.weight.value)
        result = contraction.exact_product(x, weight.t(), reduce=self.reduce)
        if operation.bias is None:
            return result
        return self.reduce(result.add_(self.constant(operation.bias.value)))

    def affine(self, x: Tensor, operation: Affine) -> Tensor:
        """Scale and shift a channel."""
        shape = (-1,) + (1,) * (x.dim() - 2)
        scale, shift = (self.constant(part).reshape(shape) for part in (operation.scale, operation.shift))
        return self.reduce((x * scale).add_(shift))

    def average(self, x: Tensor, operation: AveragePool2d) -> Tensor:
        """Average pool."""
        total = contraction.exact_product(
            contraction.exact_product(operation.rows, x, reduce=self.reduce),
            operation.columns.t(),
            reduce=self.reduce,
        )
        return self.reduce(total.mul_(self.quotients(operation.divisor)))

    def add(self, first: Tensor, second: Tensor) -> Tensor:
        """Sum."""
        return self.reduce(first + second)

    def concat(self, values: Sequence[Tensor], axis: int) -> Tensor:
        """One after the other."""
        return torch.cat(list(values), axis)

    def masked(self, x: Tensor, mask: Tensor) -> Tensor:
        """x where the mask is true."""
        return x * mask

    def gathered(self, x: Tensor, windows: Windows) -> Tensor:
        """The chosen entry of each window."""
        return gather(x, windows)

    def reshaped(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Another shape."""
        return x.reshape(shape)

    def quotients(self, divisor: Tensor) -> Tensor:
        """1 / n for whole numbers n."""
        if id(divisor) not in self._encoded:
            inverse = {n: self.number(Fraction(1, int(n))) for n in divisor.unique().tolist()}
            table = divisor.clone().cpu().apply_(lambda n: inverse[n])
            self._encoded[id(divisor)] = (divisor, table.to(divisor.device))
        return self._encoded[id(divisor)][1]

    def shares(self, rule: TieRule, *, most: int, difference: bool, device: torch.device) -> Tensor:
        """Shares of the first, middle and last of n tied entries for n = 0, 1, ... `most`: (3, most + 1).

        Args:
            rule: at ties.
            most: entries of a window.
            difference: subtract those of PyTorch's rule, all to the first.
            device: of the result.
        """
        native = TieRule(rule.beta * 0)
        rows = []
        for number in range(most + 1):
            shares = rule.shares(number) if number else (rule.beta * 0,) * 3
            if difference and number:
                shares = [one - other for one, other in zip(shares, native.shares(number), strict=True)]
            rows.append([self.number(share) for share in shares])
        return torch.tensor(rows, dtype=torch.float64, device=device).t()


class Adjoint:
    """Reverse mode modulo a prime: what rules at ties change in the derivative of <cotangent, output>.

    The derivative under PyTorch's rule, `a`, and under another, `a + d`, are both linear in what comes in, so
    only `a` and the differences `d` are carried: d = J (a + d) - J_native a = J d + (J - J_native) a at a
    pool. Above the last pool with a tie all d are zero; below the first, a is not needed.

    Args:
        numbers: the field.
        graph: the network.
        values: residues of the inputs of every node with parameters.
        decisions: of every ReLU and pool.
        rules: the other rules, one difference each.
    """

    def __init__(
        self,
        numbers: Residues,
        graph: Graph,
        *,
        values: dict[int, Tensor],
        decisions: dict[int, Decision],
        rules: Sequence[TieRule],
    ) -> None:
        self.numbers, self.graph, self.values, self.decisions = numbers, graph, values, decisions
        self.rules = tuple(rules)
        self.totals: tuple[dict[str, Tensor], ...] = tuple({} for _ in rules)

    def run(self, cotangent: Tensor, *, live: frozenset[int]) -> tuple[dict[str, Tensor], ...]:
        """Differences of the derivative, one dictionary a rule, summed over the images.

        Args:
            cotangent: (N, classes) residues.
            live: pools with a window at which the rules may differ; others are passed as PyTorch does.

        Returns:
            Residues by parameter; a parameter that cannot differ is missing.
        """
        nodes, output = self.graph.nodes, self.graph.output
        native: dict[int, Tensor] = {output: cotangent}
        others: list[dict[int, Tensor]] = [{} for _ in self.rules]
        lowest = min(live, default=len(nodes))
        for index in range(output, 0, -1):
            node = nodes[index]
            a = native.pop(index, None)
            for difference, total, rule in zip(others, self.totals, self.rules, strict=True):
                d = difference.pop(index, None)
                if isinstance(node.operation, MaxPool2d):
                    d = self._pool(index, node, d, a if index in live else None, rule)
                    self._into(difference, node.inputs[0], d)
                elif d is not None:
                    self._parameters(node, d, total)
                    self._inputs(index, node, d, difference)
            if a is not None and index > lowest:
                if isinstance(node.operation, MaxPool2d):
                    self._into(native, node.inputs[0], self._scatter(index, node, a, None))
                else:
                    self._inputs(index, node, a, native)
        return self.totals

    def _into(self, adjoints: dict[int, Tensor], node: int, part: Tensor | None) -> None:
        """Add to the adjoint of a node; nothing flows into the batch."""
        if part is None or node == 0:
            return
        before = adjoints.get(node)
        adjoints[node] = part if before is None else self.numbers.reduce(before + part)

    def _inputs(self, index: int, node: Node, adjoint: Tensor, adjoints: dict[int, Tensor]) -> None:
        """Pass an adjoint on to what the node reads."""
        numbers, reduce = self.numbers, self.numbers.reduce
        sources = node.inputs
        shape = torch.Size((len(adjoint), *self.graph.nodes[sources[0]].shape[1:]))
        match node.operation:
            case Add():
                for source in sources:
                    self._into(adjoints, source, adjoint)
                return
            case Concat(axis):
                sizes = [self.graph.nodes[source].shape[axis] for source in sources]
                for source, part in zip(sources, adjoint.split(sizes, axis), strict=True):
                    self._into(adjoints, source, part)
                return
            case _ if sources[0] == 0:
                return
            case Conv2d() as operation:
                weight = numbers.constant(operation.weight.value)
                result = contraction.exact_conv_input(adjoint, weight, operation, size=shape, reduce=reduce)
            case Linear() as operation:
                weight = numbers.constant(operation.weight.value)
                result = contraction.exact_product(adjoint, weight, reduce=reduce)
            case Affine() as operation:
                scale = numbers.constant(operation.scale).reshape((-1,) + (1,) * (adjoint.dim() - 2))
                result = reduce(adjoint * scale)
            case AveragePool2d() as operation:
                shared = reduce(adjoint * numbers.quotients(operation.divisor))
                rows = contraction.exact_product(operation.rows.t(), shared, reduce=reduce)
                result = contraction.exact_product(rows, operation.columns, reduce=reduce)
            case ReLU():
                mask = self.decisions[index]
                assert isinstance(mask, Tensor)
                result = adjoint * mask
            case Reshape():
                result = adjoint.reshape(shape)
            case _:
                raise AssertionError(f"{node.operation} is no operation of a graph")
        self._into(adjoints, sources[0], result)

    def _parameters(self, node: Node, d: Tensor, total: dict[str, Tensor]) -> None:
        """Add the difference of the derivative with respect to the node's own parameters."""
        reduce = self.numbers.reduce
        source = self.values.get(node.inputs[0])
        match node.operation:
            case Conv2d() as operation:
                if operation.weight.name is not None:
                    assert source is not None
                    part = contraction.exact_conv_weight(
                        source, d, operation, shape=operation.weight.value.shape, reduce=reduce
                    )
                    self._total(total, operation.weight.name, part)
                if operation.bias is not None and operation.bias.name is not None:
                    self._total(total, operation.bias.name, reduce(d.sum((0, 2, 3))))
            case Linear() as operation:
                if operation.weight.name is not None:
                    assert source is not None
                    part = contraction.exact_product(d.t(), source, reduce=reduce)
                    self._total(total, operation.weight.name, part)
                if operation.bias is not None and operation.bias.name is not None:
                    self._total(total, operation.bias.name, reduce(d.sum(0)))
            case Affine() as operation:
                axes = tuple(axis for axis in range(d.dim()) if axis != 1)
                shift = reduce(d.sum(axes))
                if operation.weight is not None:
                    assert source is not None
                    scale = reduce(reduce(d * source).sum(axes))
                    mean = self.numbers.constant(operation.mean)
                    self._total(total, operation.weight, reduce(scale.sub_(reduce(shift * mean))))
                if operation.bias is not None:
                    self._total(total, operation.bias, shift)

    def _total(self, total: dict[str, Tensor], name: str, part: Tensor) -> None:
        before = total.get(name)
        total[name] = part if before is None else self.numbers.reduce(before + part)

    def _pool(
        self, index: int, node: Node, d: Tensor | None, a: Tensor | None, rule: TieRule
    ) -> Tensor | None:
        """J d + (J - J_native) a."""
        parts = [self._scatter(index, node, d, rule) if d is not None else None]
        if a is not None:
            parts.append(self._scatter(index, node, a, rule, difference=True))
        given = [part for part in parts if part is not None]
        if not given:
            return None
        result = given[0] if len(given) == 1 else self.numbers.reduce(given[0] + given[1])
        return result if bool(result.any()) else None

    def _scatter(
        self, index: int, node: Node, adjoint: Tensor, rule: TieRule | None, *, difference: bool = False
    ) -> Tensor:
        """The transposed Jacobian of a pool; `rule` None is PyTorch's."""
        windows = self.decisions[index]
        assert isinstance(windows, Windows)
        size = self.graph.nodes[node.inputs[0]].shape[1:]
        result = adjoint.new_zeros((*adjoint.shape[:2], size[1] * size[2]))
        if rule is None:
            result.scatter_add_(-1, windows.chosen, adjoint.flatten(2))
            return self.numbers.reduce(result).reshape(len(adjoint), *size)
        table = self.numbers.shares(
            rule, most=len(windows.tied), difference=difference, device=adjoint.device
        )
        first, middle, last = (self.numbers.reduce(adjoint * share[windows.number]) for share in table)
        rank = torch.zeros_like(windows.number)
        image = result.reshape(len(adjoint), *size)
        operation = node.operation
        assert isinstance(operation, MaxPool2d)
        for tap in operation.geometry.taps((size[1], size[2])):
            at = (..., *tap.windows)
            tied = windows.tied[tap.entry][at]
            share = torch.where(rank[at] == windows.number[at] - 1, last[at], middle[at])
            share = torch.where(rank[at] == 0, first[at], share)
            image[(..., *tap.pixels)] += share * tied
            rank[at] += tied
        return self.numbers.reduce(image)
