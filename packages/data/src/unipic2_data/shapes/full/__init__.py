"""The full shapes world: 64 px and up, 1-6 objects, 8 shapes, 10 colours, nine types of edits, questions.

Beside the quick world (`unipic2_data.shapes`) of 32 px: four cells, 4 shapes and 6 colours. Its bytes stay.
"""
