"""What runs and evaluations came to: comparisons with their statistics, and pages to look at."""
