"""What is shown: statistics, tables, figures, the page. Never torch."""
