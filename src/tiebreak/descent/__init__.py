"""What kinks do to training by gradient descent, and what is claimed about it: rates, L1, stability.

`lasso`, `rates` and `stability` run batches over penalty, learning rate and seed; `closed_forms` says what
they must find where a formula does; `claims` holds statements about nonsmooth training against both.

Example:
    >>> from tiebreak.descent.closed_forms import huber_amplitudes
    >>> huber_amplitudes(lr=3.0)
    (1.5, 2.0)
"""
