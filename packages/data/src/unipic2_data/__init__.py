"""Data for the UniPic2 training stack: shapes world, webdataset shards, exactly resumable loading.

Nothing heavy is imported here: import the modules themselves (``unipic2_data.loader``, ``unipic2_data.manifest``, ...).
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
