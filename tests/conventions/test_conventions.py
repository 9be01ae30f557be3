"""The measurement against operations whose rule is known because they were written here, and its table."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tiebreak.cli import main
from tiebreak.conventions import (
    KINKS,
    SELECTIONS,
    Place,
    Rule,
    measure_conventions,
    operations,
    probes,
    surroundings,
    to_json,
    to_markdown,
)
from tiebreak.design.axes import MINIMAL, NATIVE, Device, MemoryFormat, PoolJacobian, Selection, UserError
from tiebreak.numerics.pooling import max_pool2d
from tiebreak.numerics.relu import relu

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def measured():
    return measure_conventions()


def answers(measured, operation: str, at: str) -> set[str]:
    return {each.gradient for each in measured if each.operation == operation and each.at == at}


def test_every_operation_of_the_list_is_measured_in_every_dtype_and_format(measured) -> None:
    wanted = {
        "max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d",
        "adaptive_max_pool3d", "amax", "amin", "max", "max along a dim", "maximum", "topk", "sort", "cummax",
        "relu", "relu6", "clamp, Python bounds", "clamp, tensor bounds", "abs", "hardtanh",
    }  # fmt: skip
    for name in wanted:
        rows = [each for each in measured if each.operation == name]
        assert {each.dtype for each in rows} == set(probes.DTYPES), name
        has_formats = name.startswith(("max_pool", "adaptive")) and not name.endswith("1d")
        assert len({each.memory_format for each in rows}) == (2 if has_formats else 1), name
        assert not any(each.compiled for each in rows)
        assert all(each.gradient and each.num_measured >= 9 for each in rows), name


RULES = {
    NATIVE: Rule.FIRST,
    MINIMAL: Rule.EVEN,
    PoolJacobian(selection=Selection.LAST): Rule.LAST,
    PoolJacobian(selection=Selection.ALL_ONES): Rule.ALL_ONES,
    PoolJacobian(selection=Selection.RANDOM, seed=1): Rule.ONE,
}


@pytest.mark.parametrize("jacobian", RULES, ids=lambda jacobian: jacobian.label)
@pytest.mark.parametrize("dtype", probes.DTYPES)
def test_a_pool_with_a_known_rule_is_named_so(jacobian, dtype, monkeypatch) -> None:
    """The probes read the rule that `max_pool2d` of this package was told to follow, in both orders."""

    def pool(x: torch.Tensor, kernel: int, stride: int | None = None) -> torch.Tensor:
        return max_pool2d(x, kernel=kernel, stride=stride, jacobian=jacobian)

    op = operations.SelectionOp(
        name="ours",
        call="pool(x, k)",
        cases=operations._pool_cases(pool, num_spatial=2, adaptive=False),
        num_spatial=2,
    )
    monkeypatch.setattr(probes, "SELECTIONS", (op,))
    monkeypatch.setattr(probes, "KINKS", ())
    found = measure_conventions(dtypes=(dtype,))
    finite = {each.gradient for each in found if each.at != Place.NAN}
    assert finite == {str(RULES[jacobian])}
    assert {each.memory_format for each in found} == set(MemoryFormat)
    assert {each.gradient for each in found if each.at == Place.NAN} == {"last"}


def test_a_rule_of_some_layouts_and_sizes_is_seen_there_and_named_with_them(monkeypatch) -> None:
    """Code that acts for many channels or in channels-last order alone does not hide behind the rest."""

    def pool(x: torch.Tensor, kernel: int, stride: int | None = None) -> torch.Tensor:
        is_odd = x.shape[1] >= 33 and x.is_contiguous(memory_format=torch.channels_last)
        rule = PoolJacobian(selection=Selection.LAST) if is_odd else NATIVE
        return max_pool2d(x, kernel=kernel, stride=stride, jacobian=rule)

    cases = operations._pool_cases(pool, num_spatial=2, adaptive=False)
    op = operations.SelectionOp(name="ours", call="", cases=cases, num_spatial=2, places=(Place.TIE,))
    monkeypatch.setattr(probes, "SELECTIONS", (op,))
    monkeypatch.setattr(probes, "KINKS", ())
    found = {each.memory_format: each.gradient for each in measure_conventions(dtypes=("float32",))}
    assert found == {
        MemoryFormat.CONTIGUOUS: "first",
        MemoryFormat.CHANNELS_LAST: "mixed: first (2 wide, 2 channels); "
        "last (3 wide, 33 channels, 3 wide, stride 1, 64 channels)",
    }


def test_beta_100_has_no_name_and_shows_its_numbers(monkeypatch) -> None:
    def pool(x: torch.Tensor, kernel: int, stride: int | None = None) -> torch.Tensor:
        return max_pool2d(x, kernel=kernel, stride=stride, jacobian=PoolJacobian(beta=100))

    cases = operations._pool_cases(pool, num_spatial=2, adaptive=False)[:1]
    op = operations.SelectionOp(name="ours", call="", cases=cases, places=(Place.TIE,))
    monkeypatch.setattr(probes, "SELECTIONS", (op,))
    monkeypatch.setattr(probes, "KINKS", ())
    (found,) = measure_conventions(dtypes=("float64",))
    assert re.search(r"mixed: no rule in 36, such as entries 0 1 of 4 tied -> -49 50 ", found.gradient)


@pytest.mark.parametrize("derivative", [0.0, 0.5, 1.0, 3.0])
def test_a_relu_with_a_known_derivative_at_zero_is_named_so(derivative, monkeypatch) -> None:
    op = operations.KinkOp(
        name="ours", call="", run=lambda x: relu(x, derivative_at_zero=derivative), points=(0.0,)
    )
    monkeypatch.setattr(probes, "SELECTIONS", ())
    monkeypatch.setattr(probes, "KINKS", (op,))
    texts = {each.gradient for each in measure_conventions()}
    assert texts == {
        {
            0.0: "0, the left derivative (right: 1)",
            0.5: "1/2, the mean of both (left: 0, right: 1)",
            1.0: "1, the right derivative (left: 0)",
            3.0: "3, outside of both (left: 0, right: 1)",
        }[derivative]
    }


def test_max_pool2d_of_torch_is_what_beta_0_copies(measured) -> None:
    """The family's native rule is the first maximum; the whole study rests on that."""
    for at in (Place.TIE, Place.SIGNED_ZEROS):
        assert answers(measured, "max_pool2d", at) == {"first"}
    assert answers(measured, "max_pool2d", Place.NAN) == {"last"}


def test_an_error_is_told_and_no_answer_is_made_up(monkeypatch) -> None:
    def refuse(x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError("no such kernel\nfor this dtype")

    monkeypatch.setattr(probes, "SELECTIONS", ())
    monkeypatch.setattr(
        probes, "KINKS", (operations.KinkOp(name="refuses", call="", run=refuse, points=(0.0,)),)
    )
    assert {each.gradient for each in measure_conventions()} == {"raises NotImplementedError: no such kernel"}


def test_measuring_leaves_no_trace() -> None:
    before = torch.get_rng_state(), torch.get_default_dtype(), torch.get_num_threads()
    measure_conventions(operations=("amax", "relu"))
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (torch.get_default_dtype(), torch.get_num_threads())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"device": "gpu"}, "device must be one of cpu, cuda, got 'gpu'"),
        ({"dtypes": ("fp16",)}, "dtype must be one of float16"),
        ({"operations": ("maxpool",)}, "got 'maxpool'"),
    ],
)
def test_a_mistake_is_a_sentence(arguments, sentence) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)):
        measure_conventions(**arguments)


def test_without_a_compiler_compiled_rows_are_refused(monkeypatch) -> None:
    def broken(run):
        raise RuntimeError("no C++ compiler found\nmore")

    monkeypatch.setattr(probes, "_compile", broken)
    assert probes.compiler_status() == (False, "RuntimeError: no C++ compiler found")
    with pytest.raises(UserError, match=re.escape("no C++ compiler found. Measure with compiled=False")):
        measure_conventions(compiled=True)


@pytest.mark.slow
def test_compiled_code_is_measured_beside_eager() -> None:
    available, reason = probes.compiler_status()
    if not available:
        pytest.skip(reason)
    found = measure_conventions(compiled=True, dtypes=("float32",), operations=("abs", "maximum"))
    assert {each.compiled for each in found} == {False, True}
    compiled = {
        each.operation: each.gradient for each in found if each.compiled and each.at in ("tie", "x = 0")
    }
    assert set(compiled) == {"abs", "maximum"}
    assert not any(text.startswith("raises") for text in compiled.values())


# ---- the table ---------------------------------------------------------------------------------------------


def table_of(markdown: str) -> list[list[str]]:
    lines = [line for line in markdown.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [row for row in rows if len(row) == 7][1:]


def test_the_table_says_what_was_measured_and_nothing_else(measured) -> None:
    """Every row is taken apart into settings again; these are the measured ones, each once."""
    where = surroundings(device=Device.CPU, compiled="not measured")
    short = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32", "fp64": "float64"}
    seen = {}
    for operation, call, places, dtypes, formats, modes, gradient in table_of(
        to_markdown(measured, where=where)
    ):
        for at in places.split(", "):
            for dtype in short.values() if dtypes == "all four" else [short[word] for word in dtypes.split()]:
                for memory in list(MemoryFormat) if formats == "both" else [formats]:
                    for mode in modes.split(", "):
                        key = (operation, call.strip("`"), at, dtype, str(memory), mode)
                        assert key not in seen
                        seen[key] = gradient
    assert seen == {
        (each.operation, each.call, each.at, each.dtype, str(each.memory_format), "eager"): each.gradient
        for each in measured
    }


def test_json_holds_every_answer_and_where_it_was_measured(measured) -> None:
    where = surroundings(device=Device.CPU, compiled="not measured")
    table = json.loads(to_json(measured, where=where))
    assert table["torch"] == torch.__version__
    assert table["cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    assert table["device"] == "cpu"
    assert len(table["conventions"]) == len(measured)
    assert {row["operation"] for row in table["conventions"]} == {op.name for op in (*SELECTIONS, *KINKS)}


def test_settings_that_differ_are_not_merged(measured) -> None:
    some = [each for each in measured if each.operation == "amax" and each.at == "tie"]
    odd = [replace(each, gradient="last") if each.dtype == "bfloat16" else each for each in some]
    rows = table_of(to_markdown(odd, where=surroundings(device=Device.CPU, compiled="no")))
    assert {(row[3], row[6]) for row in rows} == {("bf16", "last"), ("fp16 fp32 fp64", some[0].gradient)}


# ---- the verb ----------------------------------------------------------------------------------------------


def test_the_verb_prints_the_table_writes_files_and_speaks_json(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(probes, "SELECTIONS", SELECTIONS[:3])
    assert main(["conventions", "--device", "cpu", "--no-compile", "--output", "page.md"]) == 0
    page = Path("page.md").read_text(encoding="utf-8")
    assert f"* torch {torch.__version__}, device cpu" in page
    assert "* compiled: not measured: --no-compile was given" in page
    assert {"max_pool2d", "relu", "std"} < {row[0] for row in table_of(page)}
    assert capsys.readouterr().out == "conventions: page.md\n"
    assert main(["conventions", "--device", "cpu", "--no-compile", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["device"] == "cpu"
    assert main(["conventions", "--device", "cpu", "--no-compile"]) == 0
    assert table_of(capsys.readouterr().out) == table_of(page)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--device", "cuda"], "device=cuda needs a CUDA device"),
        (["--device", "cpu", "--output", "nowhere/page.md"], "nowhere"),
    ],
)
def test_a_mistake_at_the_verb_is_one_sentence(words, sentence, tmp_path, monkeypatch, capsys) -> None:
    if "cuda" in words and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    monkeypatch.chdir(tmp_path)
    assert main(["conventions", "--no-compile", *words]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.splitlines()) == 1


def test_the_documented_table_is_what_this_torch_does(measured) -> None:
    """The eager rows of docs/conventions.md, where the same torch runs on the same kind of processor."""
    page = (ROOT / "docs" / "conventions.md").read_text(encoding="utf-8")
    if f"torch {torch.__version__}," not in page:
        pytest.skip("the document was measured with another torch")
    if f"CPU capability {torch.backends.cpu.get_cpu_capability()}" not in page:
        pytest.skip("the document was measured on another processor")
    written = {
        (row[0], row[1], at, row[6])
        for row in table_of(page)
        if "eager" in row[5]
        for at in row[2].split(", ")
    }
    assert written == {(each.operation, f"`{each.call}`", each.at, each.gradient) for each in measured}
