"""ShapesBench: text-to-image, editing and understanding on the shapes world, where the truth is known.

Pictures are scored without a judge: a detector of the shapes world says what is in them, and rules compare that with
the scene that every item's JSON holds. Folder: `unipic2_evals.shapesbench.layout`.
"""

from unipic2_evals.shapesbench.layout import (
    KINDS,
    SAMPLES,
    SUITE,
    OutputPath,
    SuiteItem,
    copy_suite,
    output_path,
    questions,
    read_suite,
    write_reconstructions,
    write_replies,
)

__all__ = [
    "KINDS",
    "SAMPLES",
    "SUITE",
    "OutputPath",
    "SuiteItem",
    "copy_suite",
    "output_path",
    "questions",
    "read_suite",
    "write_reconstructions",
    "write_replies",
]
