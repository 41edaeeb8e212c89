"""What a person does with a UniPic2 checkpoint: the command ``unipic2``, and a server."""

__version__ = "0.1.0"
