"""Plugins: what they may implement (``hookspecs``) and how they are found and kept apart (``registry``)."""
