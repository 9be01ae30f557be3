"""Whether two gradients of a max pool differ by the rule at ties alone.

Each window w with a non-zero incoming gradient g(w) hands it to its tied set T(w), the entries equal to its
maximum. A gradient G of the input *follows a rule at ties* if there are shares s(w, p), p in T(w), with

    sum over p of s(w, p) = g(w)   for every window w,      G(p) = sum over w of s(w, p)   for every entry p.

An entry in no tied window leaves no choice. The others fall into components: tied windows that share a tied
entry, directly or through others. A component is a connected graph, so the vectors that its windows can
move between its entries are all those of sum 0; hence arbitrary real shares exist if and only if the entries
of the component sum to what its windows bring. Shares between 0 and g(w) exist if and only if a transport
problem can be solved, which is decided exactly.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from tiebreak.design.axes import DesignError
from tiebreak.numerics import kernels
from tiebreak.numerics.geometry import PoolGeometry, Size
from tiebreak.numerics.selection import has_entry
from tiebreak.testing.forward import compared, require_alike, require_tensors, ulps_apart
from tiebreak.testing.transport import can_ship

_ROUNDINGS = 6  # of one share: its weight, quotient, product, sum and storage, and one to spare
_SHOWN = 16
_NAMES = ("grad_a", "grad_b")


def assert_same_up_to_ties(
    grad_a: Tensor,
    grad_b: Tensor,
    *,
    x: Tensor,
    grad_output: Tensor,
    kernel: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    convex: bool = False,
    ulps: int = 0,
    largest_share: float = 1.0,
) -> None:
    """Asserts that two gradients of a max pool differ only by how tied windows share what they receive.

    Passes if and only if (1) at every entry in no tied window the two are equal, and are what the windows
    that select the entry bring, and (2) in every component of tied windows each of the two follows some rule
    at ties (see the module's text): its entries sum to what the windows bring, and with `convex` each
    window's shares lie between 0 and its whole gradient. So entries that are not tied, lost or doubled
    gradient and swapped windows are found; first, last, even splits and every beta pass.

    Rounding: an entry that one window selects is compared exactly. Where k windows without a tie add up, the
    sum may miss by k - 1 unit roundoffs of the sum of their absolute values. A component may miss by 6 unit
    roundoffs of each entry's absolute value (of k + 6 times `largest_share` times the absolute gradients
    where k windows add up in an entry), and by as many smallest subnormal numbers.

    A window with NaN is not tied: its gradient belongs to its last NaN. 0.0 and -0.0 are equal, in x and in
    the gradients. A component that receives NaN or infinity, or whose sums may overflow, is not judged.

    Args:
        grad_a: gradient of the loss in x; the dtype of x.
        grad_b: the same by another kernel or rule.
        x: input of the pool, (N, C, H, W) or (C, H, W).
        grad_output: gradient of the loss in the pool's output.
        kernel: entries of a window, one number or (rows, columns).
        stride: pixels from a window to the next; None for the kernel.
        padding: pixels that the first window starts before the image.
        dilation: pixels from an entry to the next.
        ceil_mode: whether a last window that the border cuts counts.
        convex: whether a share must lie between 0 and the gradient: beta = 100 does not.
        ulps: allowed distance at entries in no tied window, for kernels that add in another order.
        largest_share: largest absolute share of either rule, as a multiple of the window's gradient; it
            matters for rounding where windows overlap. 1 for convex rules, 1 + |beta| for the beta family.

    Raises:
        AssertionError: naming the window, its values, both gradients, their distance and what is wrong.
        DesignError: an x, grad_output or geometry that do not belong together, or something that is no tensor
            with numbers in order.

    Example:
        >>> x = torch.tensor([[[2.0, 2.0], [1.0, 2.0]]])
        >>> g = torch.tensor([[[3.0]]])
        >>> even = torch.tensor([[[1.0, 1.0], [0.0, 1.0]]])
        >>> last = torch.tensor([[[0.0, 0.0], [0.0, 3.0]]])
        >>> assert_same_up_to_ties(even, last, x=x, grad_output=g, kernel=2)
    """
    geometry = PoolGeometry.of(kernel, stride=stride, padding=padding, dilation=dilation, ceil_mode=ceil_mode)
    require_tensors(grad_a=grad_a, grad_b=grad_b, x=x, grad_output=grad_output)
    require_alike(grad_a, grad_b, names=_NAMES)
    require_alike(grad_a, x, names=(_NAMES[0], "x"))
    windows = _Windows.of(x, grad_output, geometry)
    gradients = (grad_a.detach().cpu().reshape(-1), grad_b.detach().cpu().reshape(-1))
    fault = _fault_outside_ties(windows, gradients, ulps=ulps)
    for component in [] if fault else windows.components(largest_share=largest_share):
        for name, gradient in zip(_NAMES, gradients, strict=True):
            fault = fault or component.fault(gradient, name=name, convex=convex)
    if fault:
        raise AssertionError(f"{fault.words}\n{windows.story(fault, gradients)}")


@dataclass(frozen=True)
class _Fault:
    """What is wrong, at which window (None where none reaches the entry) and entries."""

    words: str
    window: int | None
    entries: Sequence[int]


@dataclass(frozen=True)
class _Windows:
    """All windows of one pass; windows and entries of the input by number, on the CPU.

    Args:
        x: input, as it was given but on the CPU.
        geometry: of the pool.
        shape: of the output.
        received: incoming gradients, float64, (windows,).
        selecting: windows of all pairs of a window with g != 0 and a maximum of it, (pairs,).
        selected: entries of these pairs, (pairs,).
        is_tied: whether the pair's window has several maxima, (pairs,).
    """

    x: Tensor
    geometry: PoolGeometry
    shape: torch.Size
    received: Tensor
    selecting: Tensor
    selected: Tensor
    is_tied: Tensor

    @classmethod
    def of(cls, x: Tensor, grad_output: Tensor, geometry: PoolGeometry) -> _Windows:
        if x.dim() not in (3, 4) or 0 in x.shape[-3:]:
            raise DesignError(f"x must be (N, C, H, W) or (C, H, W), got shape {tuple(x.shape)}.")
        x = x.detach().cpu()
        output, mask = kernels.forward(x, geometry=geometry)
        if grad_output.shape != output.shape:
            raise DesignError(
                f"grad_output must have the shape of the pool's output, {tuple(output.shape)}, got "
                f"{tuple(grad_output.shape)}. Check kernel, stride, padding, dilation and ceil_mode."
            )
        received = grad_output.detach().cpu().double().reshape(-1)
        places = torch.arange(x.numel()).view(x.shape)
        numbers = torch.arange(received.numel()).view(output.shape)
        selecting, selected = [], []
        for tap in geometry.taps((x.shape[-2], x.shape[-1])):
            at, pixels = (..., *tap.windows), (..., *tap.pixels)
            marked = has_entry(mask, tap.entry)[at].bool()
            selecting.append(numbers[at][marked])
            selected.append(places[pixels][marked])
        window, entry = torch.cat(selecting), torch.cat(selected)
        is_tied = torch.bincount(window, minlength=received.numel())[window] > 1
        live = received[window] != 0  # a share of 0 is 0
        return cls(x, geometry, output.shape, received, window[live], entry[live], is_tied[live])

    def components(self, *, largest_share: float) -> Iterator[_Component]:
        """Tied windows that are connected through entries, with all that these entries receive."""
        entries_of: dict[int, list[int]] = defaultdict(list)
        windows_of: dict[int, list[int]] = defaultdict(list)
        untied_of: dict[int, list[int]] = defaultdict(list)
        for window, entry, tied in zip(
            self.selecting.tolist(), self.selected.tolist(), self.is_tied.tolist(), strict=True
        ):
            if tied:
                entries_of[window].append(entry)
                windows_of[entry].append(window)
            else:
                untied_of[entry].append(window)
        received = self.received.tolist()
        limits = torch.finfo(self.x.dtype)
        seen: set[int] = set()
        for start in entries_of:
            if start in seen:
                continue
            seen.add(start)
            members = [start]
            for window in members:  # grows while it is read
                for entry in entries_of[window]:
                    fresh = [other for other in windows_of[entry] if other not in seen]
                    seen.update(fresh)
                    members += fresh
            yield _Component(
                windows=[(window, received[window], entries_of[window]) for window in members],
                tied={e: [received[w] for w in windows_of[e]] for w in members for e in entries_of[w]},
                untied={e: [received[w] for w in untied_of[e]] for w in members for e in entries_of[w]},
                limits=limits,
                largest_share=max(1.0, largest_share),
            )

    def entries_of(self, window: int) -> list[int]:
        """The entries that a window looks at, in its order."""
        *lead, row, column = _index(window, self.shape)
        height, width = self.x.shape[-2:]
        plane = 0
        for size, place in zip(self.x.shape, lead, strict=False):
            plane = plane * size + place
        found = []
        for number in range(self.geometry.num_entries):
            steps = divmod(number, self.geometry.kernel[1])
            y, z = (
                place * self.geometry.stride[axis]
                - self.geometry.padding[axis]
                + steps[axis] * self.geometry.dilation[axis]
                for axis, place in enumerate((row, column))
            )
            if 0 <= y < height and 0 <= z < width:
                found.append((plane * height + y) * width + z)
        return found

    def window_at(self, entry: int) -> int | None:
        """A window that looks at an entry: one that selects it, if there is one."""
        selecting = self.selecting[self.selected == entry]
        if len(selecting):
            return int(selecting[0])
        places = torch.arange(self.x.numel()).view(self.x.shape)
        numbers = torch.arange(self.received.numel()).view(self.shape)
        for tap in self.geometry.taps((self.x.shape[-2], self.x.shape[-1])):
            found = numbers[(..., *tap.windows)][places[(..., *tap.pixels)] == entry]
            if len(found):
                return int(found[0])
        return None

    def story(self, fault: _Fault, gradients: Sequence[Tensor]) -> str:
        """The window of a fault with its entries, and both gradients at each."""
        lines = []
        entries = list(fault.entries)
        if fault.window is None:
            lines.append("No window looks at this entry.")
        else:
            g = self.received[fault.window].item()
            lines.append(f"Window {_index(fault.window, self.shape)} receives {g!r}; its entries:")
            inside = self.entries_of(fault.window)
            entries = [*inside, *(entry for entry in entries if entry not in inside)]
        tied = set(self.selected[self.is_tied].tolist())
        flat = self.x.reshape(-1)
        for entry in entries[:_SHOWN]:
            both = compared(gradients[0][entry], gradients[1][entry], names=_NAMES)
            note = " (in a tied set)" if entry in tied else ""
            lines.append(f"  {_index(entry, self.x.shape)}: x={flat[entry].item()!r}{note}, {both}")
        if len(entries) > _SHOWN:
            lines.append(f"  and {len(entries) - _SHOWN} more")
        return "\n".join(lines)


@dataclass(frozen=True)
class _Component:
    """Tied windows that share entries, and all that those entries receive.

    Args:
        windows: for each tied window its number, its gradient and its tied entries.
        tied: for each entry the gradients of the tied windows that may select it.
        untied: for each entry the gradients of the other windows that select it.
        limits: of the gradients' format.
        largest_share: 1 or more, as a multiple of a window's gradient.
    """

    windows: Sequence[tuple[int, float, Sequence[int]]]
    tied: dict[int, Sequence[float]]
    untied: dict[int, Sequence[float]]
    limits: torch.finfo
    largest_share: float

    def fault(self, gradient: Tensor, *, name: str, convex: bool) -> _Fault | None:
        """Why a gradient follows no rule at ties here; None if it follows one or cannot be judged."""
        if self._may_overflow():
            return None
        values = {entry: gradient[entry].item() for entry in self.tied}
        first = self.windows[0][0]
        for entry, value in values.items():
            if not math.isfinite(value):
                words = (
                    f"{name} is {value!r} at an entry that receives finite numbers only. Give "
                    "largest_share if a rule extrapolates."
                )
                return _Fault(words, self._window_of(entry), [entry])
        arrived = sum(map(Fraction, values.values()))
        sent = sum(Fraction(g) for _, g, _ in self.windows) + sum(
            Fraction(g) for gs in self.untied.values() for g in gs
        )
        slacks = {entry: self._slack(entry, value) for entry, value in values.items()}
        allowed = sum(slacks.values())
        if abs(arrived - sent) > allowed:
            words = (
                f"{name} loses or adds gradient: {_these(len(self.windows))} and those without a tie bring "
                f"{float(sent)!r} to {len(values)} tied entries, which hold {float(arrived)!r} "
                f"(allowed difference: {float(allowed):.3g})."
            )
            return _Fault(words, first, list(values))
        return self._convex_fault(values, slacks, name=name) if convex else None

    def _convex_fault(
        self, values: dict[int, float], slacks: dict[int, Fraction], *, name: str
    ) -> _Fault | None:
        """Shares between 0 and g: for g < 0 counted from g on, so that a shipment is what is left of |g|."""
        demands = []
        for entry, value in values.items():
            share = Fraction(value) - sum(map(Fraction, self.untied[entry]))
            least, most = (sum(Fraction(pick(0.0, g)) for g in self.tied[entry]) for pick in (min, max))
            margin = slacks[entry] + _gamma(_ROUNDINGS, self.limits) * (most - least)
            if not least - margin <= share <= most + margin:
                words = (
                    f"{name} has a share outside of its window's gradient: what tied windows give this entry "
                    f"is {float(share)!r}, not between {float(least)!r} and {float(most)!r}."
                )
                return _Fault(words, self._window_of(entry), [entry])
            demands.append((max(Fraction(0), share - margin - least), share + margin - least))
        numbers = {entry: number for number, entry in enumerate(values)}
        supplies = [abs(Fraction(g)) * (1 if g > 0 else len(entries) - 1) for _, g, entries in self.windows]
        arcs = [
            (supplier, numbers[entry], abs(Fraction(g)))
            for supplier, (_, g, entries) in enumerate(self.windows)
            for entry in entries
        ]
        scale = math.lcm(
            *(f.denominator for f in supplies), *(f.denominator for pair in demands for f in pair)
        )
        if can_ship(
            [int(supply * scale) for supply in supplies],
            [(int(least * scale), int(most * scale)) for least, most in demands],
            [(supplier, entry, int(capacity * scale)) for supplier, entry, capacity in arcs],
        ):
            return None
        words = (
            f"{name} has a share outside of its window's gradient: {_these(len(self.windows))} cannot bring "
            f"what the {len(values)} tied entries hold with shares between 0 and their whole gradient."
        )
        return _Fault(words, self.windows[0][0], list(values))

    def _window_of(self, entry: int) -> int:
        return next(window for window, _, entries in self.windows if entry in entries)

    def _may_overflow(self) -> bool:
        """Whether a sum of shares may be beyond the largest number; also if one is not a number."""
        most = sum(abs(g) * len(entries) for _, g, entries in self.windows) * self.largest_share
        most += sum(abs(g) for gs in self.untied.values() for g in gs)
        return not most <= self.limits.max

    def _slack(self, entry: int, value: float) -> Fraction:
        """How far rounding may have moved an entry."""
        number = len(self.tied[entry]) + len(self.untied[entry])
        roundings, size = _ROUNDINGS, Fraction(abs(value))
        if number > 1:
            roundings += number
            size = sum(Fraction(abs(g)) for g in self.tied[entry]) * Fraction(self.largest_share)
            size += sum(Fraction(abs(g)) for g in self.untied[entry])
        return _gamma(roundings, self.limits) * size + roundings * _smallest(self.limits)


def _fault_outside_ties(windows: _Windows, gradients: Sequence[Tensor], *, ulps: int) -> _Fault | None:
    """The first entry in no tied window where the two differ or are not what the windows bring."""
    num_entries = windows.x.numel()
    pairs = (windows.selecting, windows.selected)
    sent = windows.received[pairs[0]]
    number = torch.bincount(pairs[1], minlength=num_entries)
    is_outside = torch.bincount(pairs[1][windows.is_tied], minlength=num_entries) == 0
    total = torch.zeros(num_entries, dtype=torch.float64).index_add_(0, pairs[1], sent)
    size = torch.zeros(num_entries, dtype=torch.float64).index_add_(0, pairs[1], sent.abs())
    limits = torch.finfo(windows.x.dtype)
    apart = ulps_apart(*gradients)
    wrong = is_outside & (apart > ulps)
    if bool(wrong.any()):
        entry = int(wrong.nonzero()[0])
        words = (
            f"the gradients differ at {_index(entry, windows.x.shape)}, an entry in no tied window: "
            f"{compared(gradients[0][entry], gradients[1][entry], names=_NAMES)} (allowed: {ulps})."
        )
        return _Fault(words, windows.window_at(entry), [entry])
    for name, gradient in zip(_NAMES, gradients, strict=True):
        judged = is_outside & (size <= limits.max) & (gradient.double() != total)
        parts_of: dict[int, list[float]] = {entry: [] for entry in judged.nonzero().flatten().tolist()}
        for pair in judged[pairs[1]].nonzero().flatten().tolist():
            parts_of[int(pairs[1][pair])].append(sent[pair].item())
        for entry, parts in parts_of.items():
            value = gradient[entry].item()
            exact = sum(map(Fraction, parts), Fraction(0))
            allowed = _gamma(max(0, len(parts) - 1) + 2 * ulps, limits) * sum(Fraction(abs(g)) for g in parts)
            allowed += ulps * _smallest(limits)
            if not math.isfinite(value) or abs(Fraction(value) - exact) > allowed:
                words = (
                    f"{name} is {value!r} at {_index(entry, windows.x.shape)}, an entry in no tied window "
                    f"that receives {float(exact)!r} from {int(number[entry])} windows "
                    f"(allowed difference: {float(allowed):.3g})."
                )
                return _Fault(words, windows.window_at(entry), [entry])
    return None


def _these(number: int) -> str:
    return "the tied window" if number == 1 else f"the {number} tied windows connected with this one"


def _index(number: int, shape: torch.Size) -> tuple[int, ...]:
    return tuple(int(place) for place in torch.unravel_index(torch.tensor(number), shape))


def _smallest(limits: torch.finfo) -> Fraction:
    """The smallest subnormal number."""
    return Fraction(limits.tiny) * Fraction(limits.eps)


def _gamma(roundings: int, limits: torch.finfo) -> Fraction:
    """n u (1 + 2 n u), which is at least (1 + u)^n - 1 for n u <= 1/2."""
    part = Fraction(limits.eps) / 2 * roundings
    return part * (1 + 2 * part)
