"""From the records of runs to figures: merged, held against limits, compared."""
