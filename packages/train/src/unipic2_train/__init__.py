"""Training for UniPic2: stages, workflows, objectives and recipes behind ``lightning run``.

Importing this package is cheap on purpose: the command line answers ``--help`` before any heavy library is loaded.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
