"""Every file under configs/ composes, says what its name says, and describes networks that can be built."""

import itertools
from pathlib import Path

import pytest
import torch
import yaml

from tiebreak.config import (
    ConfigError,
    compose_launch,
    compose_run,
    compose_study,
    list_studies,
    split_launch,
)
from tiebreak.config.cells import cell_of, content_once
from tiebreak.config.composition import LAUNCH_GROUPS, ROOTS, Composer, hydra_open
from tiebreak.design.axes import Arch, DataName, Device, Forward, OptimizerName, Precision
from tiebreak.design.cell import MEASURES, Cell
from tiebreak.design.stored import FAMILIES, read_cell
from tiebreak.models.build import build

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
GROUPS = ("arch", "data", "precision", "pool", "optimizer", "protocol")
OPTIONS = [(group, path.stem) for group in GROUPS for path in sorted((CONFIGS / group).glob("*.yaml"))]
NEEDS = {  # what an option cannot be without
    ("precision", "tf32"): ["device=cuda"],
    ("precision", "e4m3"): ["protocol=zones"],
    ("precision", "e5m2"): ["protocol=noise"],
    ("data", "image_folder"): ["data.folder=photos", "data.image_size=32"],
    ("protocol", "lr_search"): ["data.held_out=5000"],
    ("protocol", "correctness"): ["protocol.statement=t1"],
    ("protocol", "touches"): ["protocol.format=e4m3"],
    ("protocol", "enumeration"): ["protocol.family=two_windows", "protocol.machine=e2m1"],
}
CLASSES = {DataName.CIFAR100: 100, DataName.IMAGENET: 1000}
GREY = {DataName.MNIST, DataName.MNIST5K, DataName.FASHION_MNIST}
SEARCHED_LR = 0.03
"""What the searches of a study are taken to have found."""

FULL_COMPOSITIONS = 160
"""How many cells are composed through Hydra alone, over all studies; a larger set is sampled evenly."""


def cpu():
    return Device.CPU


def load(path):
    return yaml.safe_load(path.read_text("utf-8"))


def compose(*overrides):
    return compose_run(overrides, device=cpu).trial.cell


def test_every_file_is_an_option_a_study_or_the_root():
    options = {CONFIGS / group / f"{name}.yaml" for group, name in OPTIONS}
    studies = {CONFIGS / "study" / f"{name}.yaml" for name in list_studies()}
    launch = {CONFIGS / "launch.yaml", *(p for g in LAUNCH_GROUPS for p in (CONFIGS / g).glob("*.yaml"))}
    roots = {CONFIGS / f"{root}.yaml" for root in (*ROOTS.values(), "sibling")}
    assert set(CONFIGS.rglob("*.*")) == options | studies | launch | roots


def test_no_key_of_a_launch_is_one_of_a_cell_and_each_option_composes():
    cells = {key for root in (*ROOTS.values(), "sibling") for key in load(CONFIGS / f"{root}.yaml")}
    for group in LAUNCH_GROUPS:
        for path in (CONFIGS / group).glob("*.yaml"):
            tree = load(path)
            assert not cells.intersection(tree), path
            assert compose_launch([f"{group}={path.stem}"]).items() >= tree.items()
            overrides = [f"{key}={tree[key]!r}" for key in tree if isinstance(tree[key], int)]
            assert split_launch(["arch=vgg11", *overrides, "pool.beta=3"]) == (
                ["arch=vgg11", "pool.beta=3"],
                overrides,
            )


def test_a_key_of_a_launch_says_which_option_has_it():
    with pytest.raises(ConfigError, match="partition belongs to launcher=slurm"):
        compose_launch(["partition=gpu"])
    with pytest.raises(ConfigError, match="Did you mean slurm"):
        compose_launch(["launcher=slurn"])


def test_every_axis_has_a_file_for_each_of_its_values():
    names = {group: {name for kind, name in OPTIONS if kind == group} for group in GROUPS}
    assert names == {
        "arch": set(Arch),
        "data": set(DataName),
        "precision": set(Precision),
        "pool": set(Forward),
        "optimizer": set(OptimizerName),
        "protocol": {name for family in FAMILIES for name in family.PROTOCOLS},
    }
    assert set(ROOTS) == set(FAMILIES)


@pytest.fixture(scope="module")
def composer():
    """One for all: what it has composed once it gives again."""
    return Composer()


@pytest.mark.parametrize(("group", "name"), OPTIONS, ids="/".join)
def test_every_option_composes_to_the_cell_that_its_file_says(composer, group, name):
    overrides = [f"{group}={name}", *NEEDS.get((group, name), [])]
    cell = compose(*overrides)
    assert read_cell(cell.to_dict()) == cell
    with hydra_open():
        assert cell_of(composer(overrides), cpu, content_once()) == cell
    tree = cell.to_dict()
    written = load(CONFIGS / group / f"{name}.yaml")
    if group == "arch":
        held = {"name": tree["network"]["arch"], **tree["network"]}
    elif group == "precision":
        held = {"name": tree["precision"]}
    elif group == "pool":
        held = {**tree["jacobians"][0], "name": None}
    elif group == "optimizer":
        held = tree["measure"]["optimizer"]
    elif group == "protocol":
        held = {**tree["measure"], "name": tree["measure"]["protocol"]}
    else:
        held = tree["data"]
    for key, value in written.items():
        if (
            key in held
            and value not in ("auto", "???")
            and (group, name, key) != ("data", "image_folder", "image_size")
        ):
            assert held[key] == value, f"configs/{group}/{name}.yaml: {key}"
    assert written.get("name", name) == name


@pytest.mark.parametrize(
    ("protocol", "precision"),
    [(protocol, precision) for protocol in MEASURES for precision in ("fp16", "amp16", "tf32")],
)
def test_every_protocol_composes_with_every_optimizer_setting_that_auto_has_to_fit(protocol, precision):
    needs = [*NEEDS.get(("protocol", protocol), []), *NEEDS.get(("precision", precision), [])]
    cell = compose(f"protocol={protocol}", f"precision={precision}", "optimizer=adam", *needs)
    assert cell.protocol == protocol
    assert cell.precision == precision


@pytest.fixture(scope="module")
def studies(composer):
    found = {
        name: compose_study(name, device=cpu, best_lr=lambda _: SEARCHED_LR, composer=composer)
        for name in list_studies()
    }
    assert not any(run.waiting for run in found.values())
    return {name: run.study for name, run in found.items()}


def points(name):
    """The grid of a study read straight from its file: (part, position, overrides)."""
    for part in load(CONFIGS / "study" / f"{name}.yaml")["parts"]:
        sweep = part.get("sweep") or {}
        for point in part.get("points") or [{}]:
            for values in itertools.product(*sweep.values()):
                settings = [*point.items(), *zip(sweep, values, strict=True)]
                spelled = [f"{key}={_spell(value)}" for key, value in settings]
                spelled += [f"optimizer.lr={SEARCHED_LR}"] if "lr_from" in part else []
                yield part["name"], [*(part.get("overrides") or []), *spelled]


def _spell(value):
    return str(value).replace("'", "") if isinstance(value, list) else str(value).lower()


def test_there_are_studies():
    assert "demo" in list_studies()


@pytest.mark.parametrize("name", list_studies())
def test_every_study_has_a_question_and_no_point_twice(studies, name):
    study = studies[name]
    assert study.question.endswith("?")
    assert len({part.name for part in study.parts}) == len(study.parts)
    counts = {part.name: len(part.cells) for part in study.parts}
    grid = [part for part, _ in points(name)]
    assert counts == {part: grid.count(part) for part in counts}


@pytest.mark.parametrize("name", list_studies())
def test_a_study_composes_to_what_hydra_alone_composes(studies, name):
    """Studies are composed by setting values on a copy; here Hydra composes each point from the files."""
    cells = {part.name: list(part.cells) for part in studies[name].parts}
    every = list(points(name))
    step = -(-len(every) * len(list_studies()) // FULL_COMPOSITIONS) or 1
    seen = dict.fromkeys(cells, 0)
    for index, (part, overrides) in enumerate(every):
        cell = cells[part][seen[part]]
        seen[part] += 1
        if index % step == 0:
            whole = compose(*overrides)
            assert whole == cell, overrides
            assert whole.id == cell.id


@pytest.mark.parametrize("name", list_studies())
def test_every_network_of_a_study_builds_on_the_meta_device(studies, name):
    cells = [cell for part in studies[name].parts for cell in part.cells]
    wanted = {(cell.network, cell.data.name, cell.reference) for cell in cells if isinstance(cell, Cell)}
    assert wanted or not any(isinstance(cell, Cell) for cell in cells)
    for network, data, jacobian in wanted:
        with torch.device("meta"):
            model = build(
                network,
                num_classes=CLASSES.get(data, 10),
                in_channels=1 if data in GREY else 3,
                jacobian=jacobian,
                seed=0,
            )
        assert all(parameter.is_meta for parameter in model.parameters())
        assert any(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("arch", Arch)
@pytest.mark.parametrize("batch_norm", [False, True])
def test_every_architecture_that_composes_builds(arch, batch_norm):
    network = compose(f"arch={arch}", f"batch_norm={str(batch_norm).lower()}").network
    with torch.device("meta"):
        model = build(network, num_classes=10, in_channels=1 if arch == "lenet5" else 3, seed=0)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert bool(norms) is batch_norm
