"""What is seen of studies while they run: a survey of the results folder, its summary, and a live page."""
