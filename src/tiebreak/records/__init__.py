"""What is kept: records of trials, their store, and tables made from them."""
