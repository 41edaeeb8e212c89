"""Claims of the report, settled by grids of small runs over seeds: ``unipic2-train reproduce NAME``."""
