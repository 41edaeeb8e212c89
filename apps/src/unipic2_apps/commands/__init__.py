"""The verbs of ``unipic2``, one function each. Their signatures are their command lines; see ``arguments``."""
