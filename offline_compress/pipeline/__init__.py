"""One command from a trained network to the bundle of its student, in stages that resume."""
