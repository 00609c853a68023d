"""One stream replayed, in lock-step or live, into a folder of records and pictures."""
