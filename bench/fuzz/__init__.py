"""Fuzzing: mutated inputs for everything that reads what others have made.

`python -m bench.fuzz` runs it, `make fuzz` for long. An input is made from the seed, the target's
name and a number alone, so that whatever is found can be had again.
"""
