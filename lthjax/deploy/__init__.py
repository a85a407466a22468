"""Deployment: what sparse weights cost to store."""

from lthjax.deploy._storage import Storage, storage

__all__ = ['Storage', 'storage']
