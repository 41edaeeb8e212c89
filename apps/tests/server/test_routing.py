import pytest

from unipic2_apps.server.routing import asks_for, choose

DRAW = [
    "draw a red circle",
    "Please draw me a cat.",
    "Can you draw a cat on the moon?",
    "sketch the Eiffel tower at night",
    "Hey, could you please paint a fence",
    "Generate an image of a sunset",
    "generate a beautiful high-resolution photo: a fox",
    "Make me a small picture of a dog",
    "create two logos for a bakery",
    "I want a picture of a cat",
    "I\u2019d like an illustration for my book",
    "a photo of a bench",
    "another picture of it, with snow",
    "\u753b\u4e00\u4e2a\u7ea2\u8272\u7684\u5706",
    "\u8bf7\u5e2e\u6211\u751f\u6210\u4e00\u5f20\u65e5\u843d\u7684\u56fe\u7247",
]
EDIT = [
    "Change the tortoise's shell texture to a smooth surface.",
    "Transfer the image into a ukiyo-e style.",
    "Extract the striped top worn by the person in the image.",
    "Remove the red trolley",
    "Add an elegant chandelier",
    "Blur the background to create a bokeh effect",
    "Make the person lift his head slightly.",
    "Raise the person's right arm.",
    "now make it blue",
    "Make the picture brighter",
    "please turn the sky green",
    "can you get rid of the dog?",
    "give him a hat",
    "let it snow",
    'Could you add the text "SALE" at the top?',
    "convert the photo to a pencil sketch",
    "\u628a\u80cc\u666f\u6362\u6210\u84dd\u8272",
    "\u8bf7\u53bb\u6389\u72d7",
]
ASK = [
    "what is it?",
    "Can you describe the image?",
    "make a list of the objects in the picture",
    "create a caption for the image",
    "generate an image description",
    "write a description of the picture",
    "draw a conclusion from this chart",
    "give me the title of the picture",
    "give an example",
    "extract all of the words in the sign",
    "convert the table to markdown",
    "turn this into a bulleted list",
    "make sure you count them",
    "add up the numbers",
    "Should I add a hat?",
    "color of the car",
    "do you see a picture of a dog",
    "can you draw?",
    "a red circle",
    "\u753b\u4e2d\u6709\u4ec0\u4e48",
    "\u56fe\u91cc\u6709\u51e0\u53ea\u732b",
    "",
]


@pytest.mark.parametrize(
    ("text", "wish"),
    [(text, wish) for wish, texts in (("generate", DRAW), ("edit", EDIT), ("text", ASK)) for text in texts],
)
def test_words_say_what_they_want(text, wish):
    assert asks_for(text, with_picture=True) == wish
    assert asks_for(text, with_picture=False) == ("text" if wish == "edit" else wish)


def test_words_for_a_picture_that_is_there():
    assert asks_for("draw a hat on him", with_picture=True) == "edit"
    assert asks_for("paint the fence red", with_picture=True) == "edit"
    assert asks_for("paint the fence red", with_picture=False) == "generate"


@pytest.mark.parametrize(
    ("text", "pictures", "modalities", "task", "picture"),
    [
        ("draw a cat", [0], None, "generate", None),
        ("draw a cat", [0], ["text"], "text", None),
        ("draw a cat", [1], ["image", "text"], "edit", 0),
        ("draw a cat", [1, 0, 0], None, "generate", None),
        ("make it red", [1, 0, 0], None, "edit", 0),
        ("make it red", [1, 2, 0], ["image"], "edit", 1),
        ("make it red", [0], None, "text", None),
        ("a cat", [0], ["image"], "generate", None),
        ("a cat", [1, 0, 0], ["image"], "generate", None),
        ("a cat", [1], ["image"], "edit", 0),
        ("what is it?", [1], [], "text", None),
        ("what is it?", [1], ["image"], "edit", 0),
    ],
)
def test_modalities_come_first(text, pictures, modalities, task, picture):
    choice = choose(text, pictures, modalities)
    assert (choice.task, choice.picture) == (task, picture)
    assert choice.facts()["otherwise"].endswith('["image"]' if task == "text" else '["text"]')


def test_long_words_are_read_quickly():
    for text in ("please " * 10**5, "draw" + " a" * 10**5, "make a " + "small " * 10**5, "\u8bf7" * 10**5):
        assert asks_for(text, with_picture=True) in ("text", "generate")
