"""What is studied: axes, cells, trials and studies. Standard library only."""
