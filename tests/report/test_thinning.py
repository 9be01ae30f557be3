"""Parts that have fewer epochs or replicates than the part that repeats the publication."""

import pandas as pd

from tiebreak.report.thinning import thinned


def part(name, *, epochs, replicates, done=0, optimizers="sgd", archs="lenet5", protocol="train"):
    return {
        "study": "paper/a", "part": name, "protocol": protocol, "archs": archs, "datas": "mnist",
        "optimizers": optimizers, "num_epochs": float(epochs), "num_replicates": replicates,
        "num_trials": 10, "num_done": done, "command": f"run {name}",
    }  # fmt: skip


def test_a_thinned_part_is_named_with_what_is_left():
    plan = pd.DataFrame(
        [
            part("short", epochs=6, replicates=3, done=4),
            part("single", epochs=6, replicates=1, done=10),
            part("as_published", epochs=100, replicates=10),
            part("adam", epochs=80, replicates=10, optimizers="adam"),
            part("other_network", epochs=200, replicates=10, archs="vgg11"),
            part("zones", epochs=float("nan"), replicates=1, protocol="zones"),
        ]
    )
    short, single = thinned(plan)
    assert short == (
        "paper/a, part short: 6 epochs, 3 replicates; part as_published: 100 epochs, 10 "
        "replicates. "
        "4 of 10 trials have a record, 6 are left: run short."
    )
    assert single.endswith("10 of 10 trials have a record.")
    assert not list(thinned(plan.iloc[2:]))
