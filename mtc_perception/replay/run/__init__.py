"""A whole evaluation: its streams, and the processes and machines that replay them."""
