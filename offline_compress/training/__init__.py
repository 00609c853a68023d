"""Training on any number of processes: resumed exactly, validated, taught by a teacher."""
