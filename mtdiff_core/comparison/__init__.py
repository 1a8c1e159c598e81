"""Controlled comparison: recipes that differ in what they say, and in nothing else."""
