"""Recipes: TOML into checked objects, with every problem named by file and key, all at once.

A recipe's sections hold the options in ``sections``, and beside them the options of the component that the section
names (``[data] dataset``, ``[space] aggregator``, ...). Component options come from the component's own class and
nowhere else.
"""
