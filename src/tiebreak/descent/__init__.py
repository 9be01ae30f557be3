"""What kinks do to training by gradient descent, and what is claimed about it: rates, L1, stability.

`lasso`, `rates`, `stability` and `mlp` run batches over penalty, learning rate and seed; `closed_forms` says
what they must find where a formula does. `measure_descent` measures a cell: it makes rows of a batch, from
which `report` makes tables, figures and the verdicts on claims.

Example:
    >>> from tiebreak.descent.closed_forms import huber_amplitudes
    >>> huber_amplitudes(lr=3.0)
    (1.5, 2.0)
"""
