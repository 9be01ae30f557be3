"""Networks whose nonsmooth parts are arguments."""
