import dataclasses
import json
import math
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiebreak.design import axes
from tiebreak.design.axes import DesignError, PoolJacobian, Precision
from tiebreak.design.cell import (
    MEASURES,
    MOST_PIXELS,
    MOST_RANKS,
    MOST_THREADS,
    PAIRED,
    SCHEMA,
    Cell,
    Data,
    Derivative,
    Drift,
    Execution,
    LrSearch,
    Network,
    Noise,
    NormPool,
    Optimizer,
    TieMap,
    Train,
    Trajectory,
    Trial,
    ZeroProgram,
    Zones,
    stream_seed,
)

# ------------------------------------------------------------------------------------ identity does not drift

PLAIN = Cell(
    network=Network(arch="lenet5"),
    data=Data(name="mnist"),
    precision="fp32",
    jacobians=(PoolJacobian(),),
    measure=Train(),
)
RICH = Cell(
    network=Network(arch="resnet18", batch_norm=True, stem_pool="3x3", init="kaiming_uniform"),
    data=Data(name="svhn", batch_size=64, augment=True, dither=0.1, train_split="extra", held_out=5000),
    precision="amp16",
    jacobians=(PoolJacobian(beta=100, forward="blended"),),
    measure=LrSearch(optimizer=Optimizer(momentum=0.9, loss_scale="dynamic"), num_candidates=20),
    execution=Execution(device="cuda", num_threads=2, memory_format="channels_last", deterministic=False),
)
PAIRS = Cell(
    network=Network(arch="vgg11"),
    data=Data(name="cifar10"),
    precision="bf16",
    jacobians=(PoolJacobian(), PoolJacobian(beta=1), PoolJacobian(selection="random", seed=3)),
    measure=Zones(num_batches=0),
)

GOLDEN = {
    PLAIN: "train.lenet5.mnist.fp32.sgd.native-16c4f9cbdad6",
    RICH: "lr_search.resnet18.svhn.amp16.bn.sgd.beta100-blended-e31070868de1",
    PAIRS: "zones.vgg11.cifar10.bf16.3jacobians-c95dea51ae26",
}
GOLDEN_SEEDS = (153790978514553898, 410005314139904584)


@pytest.mark.parametrize("cell", GOLDEN, ids=lambda cell: cell.name)
def test_identity_of_schema_3_is_pinned(cell):
    """A record of today must be found tomorrow: an id moves only with SCHEMA and a migration."""
    assert SCHEMA == 3
    assert cell.name == GOLDEN[cell]


def test_canonical_text_is_written_out_in_full():
    text = (
        '{"data":{"augment":false,"batch_size":128,"content":"","dither":0.0,"folder":"","held_out":0,"image_size":0,'
        '"name":"mnist","test_size":0,"train_size":0,"train_split":"train"},'
        '"execution":{"deterministic":true,"device":"cpu","memory_format":"contiguous","num_ranks":1,'
        '"num_threads":1},'
        '"jacobians":[{"beta":0.0,"forward":"exact","seed":0,"selection":"beta"}],'
        '"measure":{"num_epochs":10,"optimizer":{"eps":1e-08,"loss_scale":"none","lr":0.01,"momentum":0.0,'
        '"name":"sgd","schedule":"constant","step_epochs":0,"step_factor":0.1,"weight_decay":0.0},'
        '"protocol":"train"},"network":{"arch":"lenet5","batch_norm":false,"init":"pytorch","stem_pool":"2x2"},'
        '"precision":"fp32","schema":3}'
    )
    assert PLAIN.canonical == text


# ------------------------------------------------------------------------------------------------ every cell

rates = st.floats(0, 1000, exclude_min=True)
counts = st.integers(1, 10**6)
sizes = st.integers(0, 10**6)


@st.composite
def networks(draw):
    arch = draw(st.sampled_from(axes.Arch))
    stems = list(axes.StemPool) if arch.startswith(("resnet", "densenet")) else ["2x2"]
    return Network(
        arch=arch,
        batch_norm=draw(st.booleans()),
        stem_pool=draw(st.sampled_from(stems)),
        init=draw(st.sampled_from(axes.Init)),
    )


@st.composite
def data(draw):
    name = draw(st.sampled_from(axes.DataName))
    return Data(
        name=name,
        batch_size=draw(counts),
        augment=draw(st.booleans()),
        dither=draw(st.floats(0, 10)),
        train_split=draw(st.sampled_from(["train", "extra"])) if name == "svhn" else "train",
        train_size=draw(sizes),
        test_size=draw(sizes),
        held_out=draw(counts),
        image_size=draw(st.integers(0, MOST_PIXELS)) if name in ("imagenet", "image_folder") else 0,
        folder=draw(st.text(min_size=1)) if name == "image_folder" else "",
        content=draw(st.sampled_from(["", "0123456789ab"])) if name in ("imagenet", "image_folder") else "",
    )


@st.composite
def optimizers(draw, *, precision):
    name = draw(st.sampled_from(axes.OptimizerName))
    schedule = draw(st.sampled_from(axes.Schedule))
    scales = list(axes.LossScale) if precision.storage == "float32" else ["none"]
    return Optimizer(
        name=name,
        lr=draw(rates),
        momentum=draw(st.floats(0, 1, exclude_max=True)) if name == "sgd" else 0,
        weight_decay=draw(st.floats(0, 6e4)),
        eps=draw(st.floats(1e-4, 1)),
        schedule=schedule,
        step_epochs=draw(counts) if schedule == "step" else 0,
        step_factor=draw(st.floats(0.01, 1)),
        loss_scale=draw(st.sampled_from(scales)),
    )


@st.composite
def jacobians(draw, *, forward=None):
    selection = draw(st.sampled_from(axes.Selection))
    if selection != "beta":
        return PoolJacobian(
            selection=selection, seed=draw(st.integers(0, 2**63 - 1)) if selection == "random" else 0
        )
    beta = draw(st.floats(allow_nan=False, allow_infinity=False))
    return PoolJacobian(beta=beta, forward=forward or draw(st.sampled_from(axes.Forward)))


@st.composite
def cells(draw):
    device = draw(st.sampled_from(axes.Device))
    precision = draw(st.sampled_from([p for p in Precision if device == "cuda" or p != "tf32"]))
    kind = draw(st.sampled_from([Noise, Zones] if precision.is_eight_bit else list(MEASURES.values())))
    settings_of = {"optimizer": draw(optimizers(precision=precision))}
    measure = {
        Noise: lambda: Noise(num_batches=draw(counts), num_repeats=draw(counts) + 1),
        Zones: lambda: Zones(
            num_batches=draw(sizes), margins=draw(st.booleans()), certify=draw(st.booleans())
        ),
        Derivative: lambda: Derivative(num_epochs=draw(counts), lr=draw(rates)),
        Trajectory: lambda: Trajectory(
            num_epochs=draw(counts),
            every=draw(counts),
            num_batches=draw(counts),
            lr=draw(st.floats(1e-9, 1e3)),
            momentum=draw(st.floats(0, 1, exclude_max=True)),
        ),
        Train: lambda: Train(num_epochs=draw(counts), **settings_of),
        Drift: lambda: Drift(num_epochs=draw(counts), **settings_of),
        LrSearch: lambda: LrSearch(
            num_candidates=draw(counts), lr_high=draw(st.floats(1, 10)), **settings_of
        ),
        ZeroProgram: ZeroProgram,
        TieMap: lambda: TieMap(num_images=draw(counts)),
        NormPool: lambda: NormPool(
            num_batches=draw(sizes),
            gradient_at_zero=draw(st.floats(allow_nan=False, allow_infinity=False)),
            plain_squares=draw(st.booleans()),
        ),
    }[kind]()
    number = st.integers(2, 6) if kind in PAIRED else st.just(1)
    certified = kind is Trajectory or getattr(measure, "certify", False)
    forward = "exact" if kind in (Zones, Trajectory) else None
    first = [PoolJacobian()] if certified else []
    others = jacobians(forward=forward) if kind is not Derivative else st.just(PoolJacobian())
    if certified:  # with PyTorch's rule, and no rule of the program's own
        others = others.filter(lambda jacobian: jacobian.selection != "random")
    fed = draw(data())
    return Cell(
        network=draw(networks()),
        data=fed,
        precision=precision,
        jacobians=(*first, *(draw(others) for _ in range(draw(number) - len(first)))),
        measure=measure,
        execution=Execution(
            device=device,
            num_threads=draw(st.integers(1, MOST_THREADS)),
            memory_format=draw(st.sampled_from(axes.MemoryFormat)),
            deterministic=draw(st.booleans()),
            num_ranks=draw(st.integers(1, min(fed.batch_size, MOST_RANKS))) if kind is Train else 1,
        ),
    )


@given(cells())
@settings(deadline=None)
def test_a_cell_survives_the_way_through_json(cell):
    again = Cell.from_dict(json.loads(json.dumps(cell.to_dict(), allow_nan=False)))
    assert again == cell
    assert again.id == cell.id
    assert again.canonical == cell.canonical


@given(cells())
@settings(deadline=None)
def test_a_cell_is_one_flat_row(cell):
    row = cell.axes()
    assert all(type(value) in (str, int, float, bool) for value in row.values())
    assert row["cell"] == cell.id
    assert row["protocol"] == cell.protocol
    assert row["data"] == str(cell.data.name)
    assert row["precision"] == str(cell.precision)
    assert row["jacobian"].split(" ") == [jacobian.label for jacobian in cell.jacobians]
    assert ("beta" in row) == (len(cell.jacobians) == 1)
    optimizer = getattr(cell.measure, "optimizer", None)
    assert ("lr" in row) == (optimizer is not None or isinstance(cell.measure, Trajectory | Derivative))
    if optimizer is not None:
        assert (row["optimizer"], row["lr"]) == (str(optimizer.name), optimizer.lr)


@given(cells())
@settings(deadline=None)
def test_the_name_is_a_safe_file_name_that_ends_in_the_id(cell):
    assert cell.name.endswith(f"-{cell.id}")
    assert len(cell.id) == 12
    assert set(cell.id) <= set("0123456789abcdef")
    assert not set(cell.name) & set(' /\\:*?"<>|\n')


@given(cells(), cells())
@settings(deadline=None)
def test_ids_are_equal_exactly_where_cells_are(one, other):
    assert (one.id == other.id) == (one == other)


def leaves(tree, path=()):
    if isinstance(tree, dict):
        items = tree.items()
    elif isinstance(tree, list):
        items = enumerate(tree)
    else:
        yield path
        return
    for key, value in items:
        yield from leaves(value, (*path, key))


OTHER_VALUES = {  # for what is neither a number nor a truth value; with what has to move along
    ("network", "arch"): {"arch": "resnet34"},
    ("network", "stem_pool"): {"stem_pool": "2x2"},
    ("network", "init"): {"init": "pytorch"},
    ("data", "name"): {"name": "cifar10", "train_split": "train"},
    ("data", "train_split"): {"train_split": "train"},
    ("data", "folder"): {"folder": "elsewhere"},
    ("data", "content"): {"content": "0123456789ab"},
    ("precision",): {"precision": "ampbf16"},
    ("jacobians", 0, "forward"): {"forward": "exact"},
    ("measure", "optimizer", "name"): {"name": "adam", "momentum": 0.0},
    ("measure", "optimizer", "momentum"): {"momentum": 0.5},
    ("measure", "optimizer", "schedule"): {"schedule": "step", "step_epochs": 3},
    ("measure", "optimizer", "loss_scale"): {"loss_scale": "none"},
    ("execution", "device"): {"device": "cpu"},
    ("execution", "memory_format"): {"memory_format": "contiguous"},
}


def moved(cell, path):
    """The cell with the field at `path` changed to something else that can be."""
    tree = cell.to_dict()
    node = tree
    for key in path[:-1]:
        node = node[key]
    before = node[path[-1]]
    if path in OTHER_VALUES:
        node |= OTHER_VALUES[path]
    else:
        node[path[-1]] = not before if isinstance(before, bool) else before * 2 or 1
    assert node[path[-1]] != before
    return Cell.from_dict(tree)


FOLDER = dataclasses.replace(PLAIN, data=Data(name="image_folder", folder="here", image_size=32))
TRUE = dataclasses.replace(PAIRS, jacobians=(PoolJacobian(), PoolJacobian(beta=1)))
STEPPED = dataclasses.replace(PLAIN, measure=Train(optimizer=Optimizer(schedule="step", step_epochs=2)))
RANDOM = dataclasses.replace(PLAIN, jacobians=(PoolJacobian(selection="random", seed=3),))


@pytest.mark.parametrize(
    ("cell", "path"),
    [
        *(
            (RICH, path)
            for path in leaves(RICH.to_dict())
            if path[-1] not in ("folder", "content", "image_size", "seed")
            and path not in (("measure", "protocol"), ("jacobians", 0, "selection"))
            and path not in (("measure", "optimizer", "step_epochs"), ("execution", "num_ranks"))
        ),
        *((PAIRS, ("measure", key)) for key in ("num_batches", "margins")),
        (TRUE, ("measure", "certify")),
        (PLAIN, ("execution", "num_ranks")),
        *((FOLDER, ("data", key)) for key in ("folder", "content", "image_size")),
    ],
    ids=lambda value: "/".join(map(str, value)) if isinstance(value, tuple) else value.protocol,
)
def test_every_field_moves_the_id(cell, path):
    other = moved(cell, path)
    assert other.id != cell.id
    assert other.name != cell.name


def test_the_remaining_fields_move_the_id_too():
    def replace(cell, **fields):
        return dataclasses.replace(cell, **fields)

    variants = [
        PLAIN,
        STEPPED,
        replace(PLAIN, measure=Train(optimizer=Optimizer(schedule="step", step_epochs=4))),
        RANDOM,
        replace(PLAIN, jacobians=(PoolJacobian(selection="random", seed=4),)),
        replace(PLAIN, jacobians=(PoolJacobian(selection="last"),)),
        replace(PLAIN, measure=Noise()),
        replace(PLAIN, measure=Noise(num_repeats=11)),
        replace(PLAIN, measure=Drift(num_epochs=10), jacobians=(PoolJacobian(), PoolJacobian(beta=1))),
        replace(PLAIN, measure=Drift(num_epochs=10), jacobians=(PoolJacobian(beta=1), PoolJacobian())),
        replace(PLAIN, measure=Drift(num_epochs=10), jacobians=(PoolJacobian(), PoolJacobian())),
        replace(PLAIN, measure=Drift(num_epochs=10), jacobians=(PoolJacobian(),) * 3),
    ]
    assert len({cell.id for cell in variants}) == len(variants)


def test_one_cell_however_its_numbers_are_spelled():
    spellings = [
        Cell(
            network=Network(arch=arch),
            data=Data(name="mnist", dither=dither),
            precision=precision,
            jacobians=jacobians_in([PoolJacobian(beta=beta)]),
            measure=Train(optimizer=Optimizer(lr=lr, weight_decay=decay)),
        )
        for arch, dither, precision, beta, lr, decay, jacobians_in in [
            ("lenet5", 0, "fp32", 0, 1, 0, tuple),
            (axes.Arch.LENET5, -0.0, Precision.FP32, -0.0, 1.0, -0.0, list),
        ]
    ]
    one, other = spellings
    assert one == other
    assert hash(one) == hash(other)
    assert one.canonical == other.canonical
    assert one.id == other.id


# ------------------------------------------------------------------------------------- what a cell cannot be


def cell_with(**fields):
    return dataclasses.replace(PLAIN, **fields)


def trained(precision="fp32", **optimizer):
    return cell_with(precision=precision, measure=Train(optimizer=Optimizer(**optimizer)))


HUGE = 10**400

REFUSED = {
    "arch unknown": (lambda: Network(arch="vgg12"), ["arch must be one of lenet5, vgg11", "got 'vgg12'"]),
    "batch norm no bool": (
        lambda: Network(arch="vgg11", batch_norm=1),
        ["batch_norm", "true or false", "got 1"],
    ),
    "stem unknown": (
        lambda: Network(arch="resnet18", stem_pool="4x4"),
        ["arch.stem_pool must be one of 2x2, 3x3, got '4x4'"],
    ),
    "stem of vgg": (
        lambda: Network(arch="vgg11", stem_pool="3x3"),
        ["arch.stem_pool", "3x3", "vgg11", "2x2"],
    ),
    "init": (lambda: Network(arch="vgg11", init="zero"), ["init must be one of pytorch", "got 'zero'"]),
    "data unknown": (lambda: Data(name="mnsit"), ["data.name must be one of mnist, mnist5k", "got 'mnsit'"]),
    "batch 0": (lambda: Data(name="mnist", batch_size=0), ["data.batch_size", "1 or more", "got 0"]),
    "batch float": (lambda: Data(name="mnist", batch_size=8.0), ["data.batch_size", "whole", "got 8.0"]),
    "batch bool": (lambda: Data(name="mnist", batch_size=True), ["data.batch_size", "got True"]),
    "batch huge": (lambda: Data(name="mnist", batch_size=HUGE), ["data.batch_size", "bits"]),
    "train size": (lambda: Data(name="mnist", train_size=-1), ["data.train_size", "0 or more", "got -1"]),
    "test size": (lambda: Data(name="mnist", test_size=-2), ["data.test_size", "got -2"]),
    "held out": (lambda: Data(name="mnist", held_out="x"), ["data.held_out", "got 'x'"]),
    "dither": (lambda: Data(name="mnist", dither=-0.5), ["data.dither", "0 or more", "got -0.5"]),
    "dither nan": (lambda: Data(name="mnist", dither=math.nan), ["data.dither", "finite", "got nan"]),
    "dither huge": (lambda: Data(name="mnist", dither=HUGE), ["data.dither", "finite", "1329 bits"]),
    "split": (lambda: Data(name="mnist", train_split="extra"), ["data.train_split", "train", "got 'extra'"]),
    "split unknown": (
        lambda: Data(name="svhn", train_split="x"),
        ["data.train_split", "train, extra", "'x'"],
    ),
    "image too large": (
        lambda: Data(name="imagenet", image_size=10**5),
        ["data.image_size", "4096 or less", "got 100000"],
    ),
    "image size": (lambda: Data(name="mnist", image_size=32), ["data.image_size", "imagenet", "mnist", "32"]),
    "folder missing": (lambda: Data(name="image_folder"), ["data.folder", "image_folder", "got ''"]),
    "folder elsewhere": (lambda: Data(name="mnist", folder="x"), ["data.folder", "got 'x' with mnist"]),
    "folder number": (lambda: Data(name="image_folder", folder=3), ["data.folder must be text, got 3"]),
    "a million threads": (lambda: Execution(num_threads=10**6), ["num_threads", "1024 or less"]),
    "a million ranks": (lambda: Execution(num_ranks=10**6), ["num_ranks", "1024 or less"]),
    "ranks": (lambda: Execution(num_ranks=0), ["num_ranks", "1 or more", "got 0"]),
    "ranks of zones": (
        lambda: dataclasses.replace(PAIRS, execution=Execution(num_ranks=2)),
        ["num_ranks=2", "protocol=zones runs in one process", "num_ranks=1"],
    ),
    "more ranks than images": (
        lambda: dataclasses.replace(
            PLAIN, data=Data(name="mnist", batch_size=3), execution=Execution(num_ranks=4)
        ),
        ["num_ranks=4 is more than the 3 images of a batch", "larger batch"],
    ),
    "threads": (lambda: Execution(num_threads=0), ["num_threads", "1 or more", "got 0"]),
    "device": (lambda: Execution(device="gpu"), ["device must be one of cpu, cuda", "got 'gpu'"]),
    "memory": (lambda: Execution(memory_format="x"), ["memory_format must be one of contiguous", "'x'"]),
    "deterministic": (lambda: Execution(deterministic="yes"), ["deterministic", "true or false", "'yes'"]),
    "lr 0": (lambda: Optimizer(lr=0), ["optimizer.lr must be above 0, got 0.0"]),
    "lr negative": (lambda: Optimizer(lr=-1), ["optimizer.lr must be above 0, got -1.0"]),
    "lr nan": (lambda: Optimizer(lr=math.nan), ["optimizer.lr", "finite", "got nan"]),
    "lr text": (lambda: Optimizer(lr="0.1"), ["optimizer.lr", "number", "got '0.1'"]),
    "momentum": (lambda: Optimizer(momentum=1), ["optimizer.momentum", "[0, 1)", "got 1.0"]),
    "decay": (lambda: Optimizer(weight_decay=-1), ["optimizer.weight_decay", "0 or more", "got -1.0"]),
    "eps": (lambda: Optimizer(eps=0), ["optimizer.eps", "above 0", "got 0.0"]),
    "adam momentum": (
        lambda: Optimizer(name="adam", momentum=0.9),
        ["optimizer.momentum", "0.9 with adam", "Set it to 0"],
    ),
    "optimizer": (
        lambda: Optimizer(name="adamw"),
        ["optimizer.name must be one of sgd, adam", "got 'adamw'"],
    ),
    "schedule": (lambda: Optimizer(schedule="linear"), ["optimizer.schedule must be one of", "'linear'"]),
    "step without epochs": (lambda: Optimizer(schedule="step"), ["optimizer.step_epochs", "got 0", "step"]),
    "epochs without step": (lambda: Optimizer(step_epochs=2), ["optimizer.step_epochs", "got 2", "constant"]),
    "epochs negative": (lambda: Optimizer(step_epochs=-2), ["optimizer.step_epochs", "got -2"]),
    "factor": (lambda: Optimizer(step_factor=-1), ["optimizer.step_factor", "above 0", "got -1.0"]),
    "noise once": (lambda: Noise(num_repeats=1), ["protocol.num_repeats", "2 or more", "got 1"]),
    "noise none": (lambda: Noise(num_batches=0), ["protocol.num_batches", "1 or more", "got 0"]),
    "zones": (lambda: Zones(num_batches=-1), ["protocol.num_batches", "0 or more", "got -1"]),
    "train": (lambda: Train(num_epochs=0), ["protocol.num_epochs", "got 0"]),
    "drift": (lambda: Drift(num_epochs=0), ["protocol.num_epochs", "got 0"]),
    "search": (lambda: LrSearch(num_candidates=0), ["protocol.num_candidates", "got 0"]),
    "search range": (
        lambda: LrSearch(lr_low=0.1, lr_high=0.1),
        ["protocol.lr_low and lr_high", "0 < low < high", "0.1 and 0.1"],
    ),
    "zones of one": (lambda: cell_with(measure=Zones()), ["zones", "two or more, got 1", "pool.betas"]),
    "train of two": (
        lambda: cell_with(jacobians=(PoolJacobian(),) * 2),
        ["protocol=train takes one Jacobian, got 2", "pool.beta"],
    ),
    "zones of both forwards": (
        lambda: cell_with(measure=Zones(), jacobians=(PoolJacobian(), PoolJacobian(forward="blended"))),
        ["protocol=zones", "pool.forward", "both"],
    ),
    "tf32 on the cpu": (
        lambda: cell_with(precision="tf32"),
        ["precision=tf32", "device=cpu", "device=cuda", "fp32"],
    ),
    "training in e4m3": (lambda: trained("e4m3"), ["protocol=train", "training in e4m3", "protocol=zones"]),
    "drift in e5m2": (
        lambda: cell_with(precision="e5m2", measure=Drift(), jacobians=(PoolJacobian(),) * 2),
        ["protocol=drift", "training in e5m2", "another precision"],
    ),
    "search in e5m2": (
        lambda: cell_with(precision="e5m2", measure=LrSearch(), data=Data(name="mnist", held_out=5)),
        ["protocol=lr_search", "training in e5m2"],
    ),
    "content of mnist": (
        lambda: Data(name="mnist", content="0123456789ab"),
        ["data.content", "got '0123456789ab' with mnist", "Leave it out"],
    ),
    "content that is no digest": (
        lambda: Data(name="imagenet", content="auto"),
        ["data.content", "12 hexadecimal digits", "got 'auto' with imagenet"],
    ),
    "certify": (lambda: Zones(certify=1), ["certify must be true or false, got 1"]),
    "precision": (lambda: cell_with(precision="fp24"), ["precision must be one of fp16", "got 'fp24'"]),
    "search on the test set": (
        lambda: cell_with(measure=LrSearch()),
        ["protocol=lr_search", "data.held_out=0", "data.held_out=5000"],
    ),
    "scaled fp16": (
        lambda: trained("fp16", loss_scale="dynamic"),
        ["optimizer.loss_scale=dynamic", "precision=fp16", "amp16"],
    ),
    "adam in fp16": (
        lambda: trained("fp16", name="adam"),
        ["optimizer.eps=1e-08 is 0 in fp16", "1e-4", "optimizer.eps=auto"],
    ),
    "adam in fp16_rounded": (lambda: trained("fp16_rounded", name="adam"), ["optimizer.eps=1e-08 is 0 in"]),
    "adam in fp32": (lambda: trained("fp32", name="adam", eps=1e-60), ["optimizer.eps=1e-60 is 0 in fp32"]),
    "adam in bf16": (lambda: trained("bf16", name="adam", eps=1e-60), ["optimizer.eps=1e-60 is 0 in bf16"]),
    "lr beyond fp16": (lambda: trained("fp16", lr=1e5), ["optimizer.lr in fp16", "65504", "got 100000.0"]),
    "lr beyond bf16": (lambda: trained("bf16", lr=3.4e38), ["optimizer.lr in bf16", "3.38953e+38"]),
    "lr beyond fp32": (lambda: trained("amp16", lr=1e39), ["optimizer.lr in amp16", "3.40282e+38"]),
    "decay beyond fp16": (
        lambda: trained("fp16", weight_decay=1e6),
        ["optimizer.weight_decay in fp16", "65504", "got 1000000.0"],
    ),
    "a drop that lifts": (lambda: trained("fp32", step_factor=2), ["optimizer.step_factor", "at most 1"]),
    "search beyond fp16": (
        lambda: cell_with(
            precision="fp16",
            measure=LrSearch(lr_high=1e6),
            data=Data(name="mnist", held_out=5),
        ),
        ["protocol.lr_high in fp16", "65504", "got 1000000.0"],
    ),
    "replicate": (lambda: Trial(cell=PLAIN, replicate=-1), ["replicate", "0 or more", "got -1"]),
    "replicate bool": (lambda: Trial(cell=PLAIN, replicate=True), ["replicate", "got True"]),
    "replicate huge": (lambda: Trial(cell=PLAIN, replicate=10**5000), ["replicate", "bits"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_in_a_sentence(case):
    make, words = REFUSED[case]
    with pytest.raises(DesignError) as caught:
        make()
    sentence = str(caught.value)
    for word in words:
        assert word in sentence
    assert sentence.endswith(".")
    assert "\n" not in sentence


@given(eps=st.floats(2.0**-30, 2.0**-20))
def test_adam_is_refused_in_fp16_exactly_where_its_eps_rounds_to_zero(eps):
    rounded = struct.unpack("e", struct.pack("e", eps))[0]
    if rounded:
        assert trained("fp16", name="adam", eps=eps).measure.optimizer.eps == eps
    else:
        with pytest.raises(DesignError, match="is 0 in fp16"):
            trained("fp16", name="adam", eps=eps)


@pytest.mark.parametrize("name", ["fp16", "bf16", "fp32", "fp64"])
def test_adam_is_refused_where_torch_rounds_its_eps_to_zero(name):
    import torch

    precision = Precision(name)
    dtype = getattr(torch, precision.storage)
    for eps in (2.0**-k for k in (20, 24, 25, 26, 132, 133, 134, 135, 148, 149, 150, 151, 1000, 1074)):
        vanishes = torch.tensor(eps, dtype=torch.float64).to(dtype).item() == 0
        try:
            trained(name, name="adam", eps=eps)
        except DesignError:
            assert vanishes, eps
        else:
            assert not vanishes, eps


# --------------------------------------------------------------------------------------------- stored cells


def without(path):
    tree = RICH.to_dict()
    node = tree
    for key in path[:-1]:
        node = node[key]
    del node[path[-1]]
    return tree


@pytest.mark.parametrize("path", list(leaves(RICH.to_dict())), ids=lambda path: "/".join(map(str, path)))
def test_a_stored_cell_without_one_of_its_fields_is_refused(path):
    """A default filled in on reading would give an old record a new meaning."""
    with pytest.raises(DesignError):
        Cell.from_dict(without(path))


@pytest.mark.parametrize(
    "path",
    [(), ("network",), ("data",), ("jacobians", 0), ("measure",), ("measure", "optimizer"), ("execution",)],
    ids=str,
)
def test_a_stored_cell_with_a_field_too_many_is_refused(path):
    tree = RICH.to_dict()
    node = tree
    for key in path:
        node = node[key]
    node["colour"] = "blue"
    with pytest.raises(DesignError, match=rf"schema {SCHEMA}.*colour"):
        Cell.from_dict(tree)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(
    path=st.sampled_from([(), *{path[:end] for path in leaves(RICH.to_dict()) for end in (1, 2, 3)}]),
    value=json_values,
)
@settings(deadline=None, max_examples=300)
def test_whatever_stands_in_a_stored_cell_only_a_design_error_comes_out(path, value):
    tree = RICH.to_dict()
    if not path:
        tree = value
    else:
        node = tree
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = value
    try:
        cell = Cell.from_dict(tree)
    except DesignError:
        return
    assert Cell.from_dict(cell.to_dict()) == cell


def test_a_stored_protocol_that_is_not_there_is_named():
    tree = RICH.to_dict()
    tree["measure"]["protocol"] = "drfit"
    with pytest.raises(DesignError, match=r"protocol must be one of noise, zones, .* got 'drfit'"):
        Cell.from_dict(tree)


# ------------------------------------------------------------------------------------------- random streams


def test_streams_depend_on_name_and_replicate_and_on_nothing_else():
    for replicate in range(20):
        for stream in ("init", "order", "augment", "draws"):
            seeds = {Trial(cell=cell, replicate=replicate).seed(stream) for cell in (PLAIN, RICH, PAIRS)}
            assert seeds == {stream_seed(stream, replicate=replicate)}


def test_streams_are_distinct_and_fit_a_generator():
    names = ("init", "order", "augment", "draws")
    seeds = [stream_seed(name, replicate=replicate) for name in names for replicate in range(1000)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_streams_are_pinned():
    """A stored record's images and weights are drawn again from these."""
    assert stream_seed("init", replicate=0) == GOLDEN_SEEDS[0]
    assert stream_seed("order", replicate=1) == GOLDEN_SEEDS[1]


def test_trial_ids_sort_as_their_replicates():
    ids = [Trial(cell=PLAIN, replicate=replicate).id for replicate in range(120)]
    assert ids == sorted(ids)
    assert ids[7] == f"{PLAIN.id}/0007"


def certified(**settings):
    return {**vars_of(PLAIN), "measure": Zones(certify=True), **settings}


def vars_of(cell):
    return {field.name: getattr(cell, field.name) for field in dataclasses.fields(cell)}


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ((PoolJacobian(beta=1), PoolJacobian()), "the first Jacobian must be it, got minimal"),
        (
            (PoolJacobian(), PoolJacobian(selection="random", seed=1)),
            "selection=random is one of the program",
        ),
    ],
)
def test_a_certificate_needs_rules_that_mean_something_over_the_reals(rules, said):
    with pytest.raises(DesignError, match=said):
        Cell(**certified(jacobians=rules))


@pytest.mark.parametrize("settings", [{"num_epochs": 0}, {"every": 0}, {"lr": 0.0}, {"momentum": 1.0}])
def test_a_trajectory_has_epochs_a_rate_and_a_momentum(settings):
    with pytest.raises(DesignError, match=f"protocol.{next(iter(settings))}"):
        Trajectory(**settings)
