"""What was thinned: parts with fewer epochs or replicates than one beside them, such as the published one."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from tiebreak.report.wording import count


def thinned(plan: pd.DataFrame) -> Iterator[str]:
    """A sentence for each part of a training that has a larger part beside it: more epochs or replicates.

    Args:
        plan: table `plan`: a row a study and part.

    Yields:
        The part's name with its epochs and replicates, what the larger part has, how many trials have a
        record and, while some are left, the command.
    """
    trained = plan[(plan["protocol"] == "train") & plan["num_epochs"].notna()]
    for study, parts in trained.groupby("study", sort=False):
        for part in parts.to_dict("records"):
            wider = [other for other in parts.to_dict("records") if _is_wider(other, part)]
            if not wider:
                continue
            most = max(wider, key=lambda other: (other["num_epochs"], other["num_replicates"]))
            left = part["num_trials"] - part["num_done"]
            yield (
                f"{study}, part {part['part']}: {_size(part)}; part {most['part']}: "
                f"{_size(most)}. "
                f"{part['num_done']} of {part['num_trials']} trials have a record"
                + (f", {left} are left: {part['command']}" if left else "")
                + "."
            )


def _is_wider(other: dict, part: dict) -> bool:
    """Whether a part repeats the same networks and data with the same optimizer, longer or more often."""
    same = all(other[name] == part[name] for name in ("archs", "datas"))
    same = same and set(str(part["optimizers"]).split()) <= set(str(other["optimizers"]).split())
    sizes = [(row["num_epochs"], row["num_replicates"]) for row in (other, part)]
    return same and sizes[0] != sizes[1] and all(a >= b for a, b in zip(*sizes, strict=True))


def _size(part: dict) -> str:
    epochs, replicates = int(part["num_epochs"]), int(part["num_replicates"])
    return f"{count(epochs, 'epoch')}, {count(replicates, 'replicate')}"
