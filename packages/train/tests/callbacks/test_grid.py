import numpy as np
from PIL import Image

from unipic2_train.callbacks.grid import GridCell, save_grid

RED, GREEN, BLUE = (np.full((8, 8, 3), color, np.uint8) for color in ((255, 0, 0), (0, 255, 0), (0, 0, 255)))


def test_every_picture_is_on_the_sheet(tmp_path):
    file = tmp_path / "made" / "grid.png"
    save_grid([GridCell([RED, GREEN, BLUE], "make it blue"), GridCell([RED], "a red square " * 20)], file)
    colors = Image.open(file).convert("RGB").getcolors(2**24)
    counts = {color: count for count, color in colors}
    assert counts[(0, 255, 0)] == counts[(0, 0, 255)]  # one enlarged picture each
    assert counts[(255, 0, 0)] == 2 * counts[(0, 255, 0)]  # in both cells
    assert [path.name for path in file.parent.iterdir()] == ["grid.png"]


def test_rows_are_filled_before_a_new_one_starts(tmp_path):
    one, many = tmp_path / "one.png", tmp_path / "many.png"
    save_grid([GridCell([RED], "a")] * 6, one)
    save_grid([GridCell([RED], "a")] * 7, many)
    (width, height), (same_width, more_height) = Image.open(one).size, Image.open(many).size
    assert width == same_width
    assert height < more_height < 2 * height
