"""Who imports whom, read from the syntax tree of every module; imports inside functions count too."""

import ast
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "tiebreak"

CORE = frozenset({"design", "numerics", "models", "data", "records"})
MAY_IMPORT = {
    "design": frozenset(),
    "numerics": frozenset({"design"}),
    "exact": frozenset({"design", "numerics"}),
    "models": frozenset({"design", "numerics"}),
    "data": frozenset({"design", "numerics"}),
    "records": frozenset({"design"}),
    "protocols": CORE | {"exact"},
    "theory": CORE | {"exact", "conventions"},
    "descent": CORE | {"exact"},
    "tracking": frozenset({"design", "records"}),
    "runner": frozenset({"design", "records", "tracking"}),
    "report": frozenset({"design", "records"}),
    "config": frozenset({"design"}),
    "watching": frozenset({"design", "records", "runner", "report", "console"}),
    "console": frozenset({"design", "records", "runner"}),
    "cuda": frozenset({"design"}),
    "conventions": frozenset({"design", "numerics"}),
    "testing": frozenset({"design", "numerics"}),
    "auditing": frozenset({"design", "numerics", "exact", "models", "protocols", "report"}),
}
EVERYTHING = frozenset(MAY_IMPORT)
MAY_IMPORT |= {"cli": EVERYTHING, "__main__": frozenset({"cli"}), "__init__": EVERYTHING}

TORCH = frozenset({"torch", "torchvision", "safetensors", "optuna", "triton", "jaxtyping"})
PICKLES = frozenset({"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"})
NAMES_THAT_SAY_NOTHING = frozenset(
    {"utils", "util", "helpers", "helper", "misc", "common", "base", "manager"}
)
PANDAS_ROOMS = frozenset({"report", "records"})


@dataclass(frozen=True)
class Import:
    """One import: the dotted name, the line, and whether merely importing the module runs it."""

    name: str
    line: int
    eager: bool

    @property
    def top(self):
        return self.name.partition(".")[0]


def room_of(module):
    """`report/figures.py` belongs to report, `config.py` to config."""
    return module.split("/")[0].removesuffix(".py")


def imports_of(text, *, module):
    """Every import of the module's text; a relative one is written out."""
    package = ["tiebreak", *module.split("/")[:-1]]
    tree = ast.parse(text)
    found = []

    def note(name, node, eager):
        found.append(Import(name, node.lineno, eager))

    def walk(node, eager):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    note(alias.name, child, eager)
            elif isinstance(child, ast.ImportFrom):
                start = package[: len(package) - child.level + 1] if child.level else []
                stem = ".".join([*start, *([child.module] if child.module else [])])
                for alias in child.names:
                    note(f"{stem}.{alias.name}", child, eager)
            elif isinstance(child, ast.Call) and _called(child) in ("import_module", "__import__"):
                name = child.args[0] if child.args else None
                note(name.value if isinstance(name, ast.Constant) else "?", child, eager)
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            walk(child, eager and not inside and not _type_checking(child))

    walk(tree, True)
    return found


def _called(call):
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def _type_checking(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def violations(text, *, module):
    """What in the module's text breaks the house's table, each as a sentence."""
    room = room_of(module)
    name = module.rpartition("/")[2].removesuffix(".py")
    if name in NAMES_THAT_SAY_NOTHING:
        yield f"{module} is called {name}: a module is named after what it holds"
    if room not in MAY_IMPORT:
        yield f"{module} stands in no room of docs/architecture.md: give {room} a row there and in this test"
        return
    for item in imports_of(text, module=module):
        where = f"{module}:{item.line}"
        if item.top == "tiebreak":
            other = [*item.name.split("."), "__init__"][1]
            allowed = MAY_IMPORT[room] | {room}
            if other in MAY_IMPORT and other not in allowed:
                nothing = "nothing of ours" if not MAY_IMPORT[room] else ", ".join(sorted(MAY_IMPORT[room]))
                yield f"{where} imports {item.name}: {room} may import {nothing}"
        elif item.name == "?" and room != "__init__" and module != "models/factory.py":
            # the package names its modules in a table of its own; to a factory the user names one
            yield f"{where} imports a module by a computed name: say which module it is"
        elif room == "design" and item.top not in sys.stdlib_module_names | {"typing_extensions"}:
            # of typing_extensions the default of a type parameter, which the library has from 3.13 on
            yield f"{where} imports {item.top}: design is standard library only"
        elif room in ("report", "watching") and item.top in TORCH:
            yield f"{where} imports {item.top}: {room} never does; what it shows is rebuilt without torch"
        elif item.top in ("hydra", "omegaconf") and room not in ("config", "cli"):
            yield f"{where} imports {item.top}: only config.py knows Hydra and OmegaConf"
        elif item.top == "omegaconf" and room == "cli" and item.name != "omegaconf.DictConfig":
            yield f"{where} imports {item.name}: a DictConfig is what -m gets; the rest is config.py's"
        elif item.top == "pandas" and room not in PANDAS_ROOMS | {"cli"}:
            yield f"{where} imports pandas: tables are made in records/table.py and shown in report"
        elif item.top == "pandas" and room == "records" and module != "records/table.py":
            yield f"{where} imports pandas: in records only table.py does"
        elif item.top == "wandb" and (module != "tracking/wandb_runs.py" or item.eager):
            yield f"{where} imports wandb: only tracking/wandb_runs.py does, when a mirror starts"
        elif item.top in PICKLES:
            yield f"{where} imports {item.top}: nothing is pickled; a pickle runs code when it is read"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            weights_only = {key.arg: ast.unparse(key.value) for key in node.keywords}.get("weights_only")
            if weights_only != "True":
                yield f"{module}:{node.lineno} calls torch.load without weights_only=True: it would unpickle"


def modules():
    """Every module of the package, as `room/file.py`."""
    return {path.relative_to(SOURCE).as_posix(): path.read_text("utf-8") for path in SOURCE.rglob("*.py")}


def test_every_module_keeps_to_its_room():
    broken = [sentence for module, text in modules().items() for sentence in violations(text, module=module)]
    assert not broken, "\n" + "\n".join(broken)


def documented_table():
    """The rows of the table in docs/architecture.md: room -> rooms, or "all"."""
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    rows = {}
    for line in text.splitlines():
        columns = [column.strip() for column in line.strip().strip("|").split("|")]
        if len(columns) == 3 and (match := re.fullmatch(r"`([a-z_]+)`", columns[0])):
            if columns[2] in ("nothing", "all"):
                rows[match[1]] = columns[2]
            else:
                rows[match[1]] = frozenset(re.findall(r"[a-z_]+", columns[2].replace("`", "")))
    return rows


def test_the_table_in_the_documents_is_this_one():
    rows = documented_table()
    assert {"design", "numerics", "records", "report", "config", "cli"} <= set(rows)
    rooms_on_disk = {room_of(module) for module in modules()}
    for room, written in rows.items():
        held = MAY_IMPORT[room]
        if written == "nothing":
            assert not held, room
        elif written == "all":
            assert held == EVERYTHING, room
        else:
            # rooms of the sibling studies appear in the document when they are built
            missing, unbuilt = written - held, held - written
            assert not missing, f"docs/architecture.md lets {room} import {missing}, this test does not"
            assert not unbuilt & rooms_on_disk, (
                f"this test lets {room} import {unbuilt}, the document does not"
            )


def test_reading_needs_no_torch_however_far_one_follows_the_imports():
    texts = modules()

    def files_of(name):
        """The files that importing a dotted name of ours runs: each package on the way, then the module."""
        steps = name.split(".")[1:]
        yield "__init__.py"
        for end in range(1, len(steps) + 1):
            stem = "/".join(steps[:end])
            yield from (file for file in (f"{stem}.py", f"{stem}/__init__.py") if file in texts)

    def reach(module, path, seen):
        seen.add(module)
        for item in imports_of(texts[module], module=module):
            if not item.eager:
                continue
            assert item.top not in TORCH, f"{' -> '.join([*path, module])} imports {item.name}"
            if item.top == "tiebreak":
                for file in files_of(item.name):
                    if file not in seen:
                        reach(file, [*path, module], seen)

    seen = set()
    for module in sorted(texts):
        if room_of(module) in ("report", "records", "design", "config", "watching") and module not in seen:
            reach(module, [], seen)
    assert "design/cell.py" in seen


@pytest.mark.parametrize(
    ("module", "text", "sentence"),
    [
        ("report/figures.py", "import torch", "report never does"),
        ("report/figures.py", "def draw():\n    from torch.nn import functional", "report never does"),
        ("report/figures.py", "from tiebreak.numerics import gap", "report may import design, records"),
        ("report/html.py", "if TYPE_CHECKING:\n    from tiebreak.runner.worker import Worker", "report may"),
        ("design/cell.py", "from tiebreak.records.store import RecordStore", "nothing of ours"),
        ("design/cell.py", "import numpy as np", "standard library only"),
        ("design/cell.py", "from ..numerics import gap", "imports tiebreak.numerics.gap"),
        ("numerics/gap.py", "import tiebreak.models.build", "numerics may import design"),
        ("numerics/gap.py", "from tiebreak import config", "numerics may import design"),
        (
            "numerics/gap.py",
            "import importlib\nimportlib.import_module('tiebreak.data')",
            "may import design",
        ),
        ("numerics/gap.py", "import importlib\nimportlib.import_module(name)", "computed name"),
        ("models/vgg.py", "import hydra", "only config.py knows Hydra"),
        ("cli.py", "from omegaconf import OmegaConf", "the rest is config.py's"),
        ("records/store.py", "import pandas as pd", "only table.py does"),
        ("protocols/zones.py", "import pandas as pd", "records/table.py"),
        ("protocols/zones.py", "from tiebreak.runner.worker import work", "protocols may import"),
        ("runner/checkpoint.py", "import pickle", "nothing is pickled"),
        ("runner/checkpoint.py", "import torch\ntorch.load(path)", "without weights_only=True"),
        ("runner/checkpoint.py", "import torch\ntorch.load(path, weights_only=False)", "weights_only"),
        ("runner/session.py", "def run():\n    import wandb", "only tracking/wandb_runs.py does"),
        ("tracking/wandb_runs.py", "import wandb", "when a mirror starts"),
        ("tracking/mirror.py", "from tiebreak.runner.events import Event", "tracking may import"),
        ("numerics/utils.py", "", "named after what it holds"),
        ("attic/old.py", "", "no room"),
    ],
)
def test_a_violation_is_caught_and_said_in_words(module, text, sentence):
    found = list(violations(text, module=module))
    assert len(found) == 1
    assert sentence in found[0]
    assert found[0].startswith(module)


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("design/cell.py", "import json\nfrom tiebreak.design.axes import Arch"),
        ("design/cell.py", "from .axes import Arch"),
        ("records/table.py", "import pandas as pd\nfrom tiebreak.design.cell import Cell"),
        ("cli.py", "import hydra\nfrom tiebreak import config\nfrom tiebreak.protocols import measure"),
        ("runner/checkpoint.py", "import torch\ntorch.load(path, weights_only=True)"),
    ],
)
def test_what_the_table_allows_passes(module, text):
    assert list(violations(text, module=module)) == []
