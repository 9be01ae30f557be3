"""One measurement each: a trial goes in, rows come out."""
