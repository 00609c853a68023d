"""Public data sets, from their downloads into the project's layout."""
