"""Recipes: everything that a training and a compression depend on, validated."""
