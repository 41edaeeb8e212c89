"""Known data sets by name: how they are laid out, what they may be used for, what is wrong with them.

These are the public data of the UniPic 2.0 report and of its neighbours. Licences are those that their publishers
state; NOASSERTION means that nothing is stated here: read the data set's page, and pass what it says as ``--licence``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from unipic2_data.adapters.conversations import Conversations
from unipic2_data.adapters.fields import Fields
from unipic2_data.errors import DataError

if TYPE_CHECKING:
    from unipic2_data.adapters.fields import Mapper
    from unipic2_data.adapters.record import Format

__all__ = ["PRESETS", "Preset", "find_preset"]


@dataclass(frozen=True)
class Preset:
    """How a known data set is imported.

    Attributes:
        name: Its name here.
        repository: Where it is hosted.
        format: See `unipic2_data.adapters.formats`.
        mappers: What its rows become.
        licence: SPDX name; NOASSERTION if its publishers' terms have to be read.
        notes: What to know before and after the import: what to fetch, known defects.
    """

    name: str
    repository: str
    format: Format
    mappers: tuple[Mapper, ...]
    licence: str
    notes: str

    def __str__(self) -> str:
        fields = [str(mapper) for mapper in self.mappers]
        lines = (f"{self.name}: {self.repository}", f"format {self.format}", *fields, f"licence {self.licence}")
        return "\n".join((*lines, self.notes))


_CAPTIONED_TAR = (Fields(kind="t2i", target="image", text=("txt",)),)
_OMNIGEN2 = (
    Fields(kind="any", target="output_image", references=("input_images",), text=("instruction",), task="task_type"),
)

PRESETS = (
    Preset(
        "blip3o-60k",
        "BLIP3o/BLIP3o-60k",
        "tar",
        _CAPTIONED_TAR,
        "NOASSERTION",
        "About 10,000 of the 60,000 prompts are written with GenEval's templates: run `unipic2-data leaks` on the "
        "result with GenEval's evaluation_metadata.jsonl, and leave them out before you report GenEval.",
    ),
    Preset(
        "blip3o-pretrain",
        "BLIP3o/BLIP3o-Pretrain-{Long-Caption,Short-Caption,JourneyDB}",
        "tar",
        _CAPTIONED_TAR,
        "NOASSERTION",
        "One import for each of the three. JourneyDB's pictures are Midjourney's, with terms of their own.",
    ),
    Preset(
        "text-to-image-2m",
        "jackyhate/text-to-image-2M",
        "tar",
        (Fields(kind="t2i", target="image", text=("prompt",)),),
        "MIT",
        "Import data_512_2M and data_1024_10K each; more pictures than the name says (4.6 million were counted).",
    ),
    Preset(
        "cc12m",
        "pixparse/cc12m-wds",
        "tar",
        _CAPTIONED_TAR,
        "NOASSERTION",
        "The texts are alt texts of web pages: recaption them (`unipic2-data recaption`) before training on them.",
    ),
    Preset(
        "megalith-10m",
        "drawthingsai/megalith-10m, captions and index in wusize/megalith-10m",
        "json",
        (
            Fields(
                kind="t2i",
                target="image",
                text=("caption_internlm2_short",),
                annotation="annotation",
                annotation_folder="../captions",
            ),
        ),
        "NOASSERTION",
        "Unpack the tars into raw/ and captions/ beside megalith10m_all.json, then import that file with --image-root "
        "raw. Rows whose picture or caption was not fetched are skipped. Flickr photographs that are said to be in the "
        "public domain, CC0, of the US government, or without known restrictions.",
    ),
    Preset(
        "sharegpt-4o-image",
        "FreedomIntelligence/ShareGPT-4o-Image",
        "index",
        (Fields(kind="any", target="output_image", references=("input_image",), text=("input_prompt",)),),
        "NOASSERTION",
        "The folder with the two .json files and all *_part_*.tar, as downloaded; 45,717 pictures and 46,539 edits. "
        "Outputs of a model; sizes within a pair differ now and then: those pairs are skipped.",
    ),
    Preset(
        "uniworld-v1",
        "LanguageBind/UniWorld-V1",
        "conversations",
        (Conversations(),),
        "MIT",
        "One .json with --image-root, or UniWorld's data.txt. Parts are taken from sets with terms of their own "
        "(SEED-Data-Edit: non-commercial). Perception tasks (depth, edges, boxes) are among the edits.",
    ),
    Preset(
        "gpt-image-edit-1.5m",
        "UCSC-VLAA/GPT-Image-Edit-1.5M, rows in the model repository UCSC-VLAA/gpt-image-edit-training",
        "conversations",
        (Conversations(),),
        "CC-BY-4.0",
        "Import its gptedit.txt, or one training_json file with --image-root. OmniEdit is in it twice (instructions as "
        "they were, and rewritten): `unipic2-data duplicates` finds nothing there, since the instructions differ.",
    ),
    Preset(
        "imgedit",
        "sysuyy/ImgEdit",
        "index",
        (
            Fields(kind="edit", target="output_images", references=("input_images",), text=("prompt",)),
            Fields(kind="edit", target="output_images", references=("input_images",), text=("prompt",), turns="data"),
        ),
        "NOASSERTION",
        "The folder Parquet with --image-tars Singleturn or Multiturn; the pieces (*.tar.split.000) need not be joined."
        " Each turn of a conversation is a sample; they stay in one split. Scores are in all_dataset_gpt_score.json.",
    ),
    Preset(
        "omniedit",
        "TIGER-Lab/OmniEdit-Filtered-1.2M",
        "parquet",
        (
            Fields(
                kind="edit",
                target="edited_img",
                references=("src_img",),
                text=("edited_prompt_list",),
                task="task",
                scores=("sc_score_1", "sc_score_2", "pq_score", "o_score"),
            ),
        ),
        "MIT",
        "Several instructions a pair, the last one the longest; all are kept, and training picks one at each visit.",
    ),
    Preset(
        "ultraedit",
        "BleachNick/UltraEdit, BleachNick/UltraEdit_500k",
        "parquet",
        (Fields(kind="edit", target="edited_image", references=("source_image",), text=("edit_prompt",)),),
        "CC-BY-4.0",
        "512 px pictures made with SDXL-Turbo: faces and text are poor. Masks of the region-based part are not kept.",
    ),
    Preset(
        "hq-edit",
        "UCSC-VLAA/HQ-Edit",
        "parquet",
        (
            Fields(kind="edit", target="output_image", references=("input_image",), text=("edit",), caption="output"),
            Fields(
                kind="edit", target="input_image", references=("output_image",), text=("inverse_edit",), caption="input"
            ),
        ),
        "CC-BY-NC-4.0",
        "Pairs are halves of one generated picture: what should stay often moves. Each pair is imported both ways.",
    ),
    Preset(
        "seed-data-edit",
        "AILab-CVC/SEED-Data-Edit-Part1-Openimages, -Part1-Unsplash, -Part2-3",
        "json",
        (
            Fields(
                kind="edit",
                target="target_image",
                references=("source_image",),
                text=("instruction",),
                skip={"source_image": r"20240330_315P_1323turns/Data/(20[89]|21[012])"},
            ),
        ),
        "CC-BY-NC-4.0",
        "Join and unpack the tar.gz pieces, then import the annotations with --image-root. Five folders of Part 3 have "
        "broken pictures and are left out; rows of several turns (instruction_1, ...) are skipped.",
    ),
    Preset(
        "nhr-edit",
        "iitolstykh/NHR-Edit, iitolstykh/NHR-Edit-part2",
        "parquet",
        (
            Fields(
                kind="edit",
                target="edited_image",
                references=("source_image",),
                text=("edit_instruction", "augmented_instructions"),
                task="category",
            ),
        ),
        "Apache-2.0",
        "Made and filtered without people; about 790 GB. Most edits add or remove an object. All phrasings of an "
        "instruction are kept, and training picks one at each visit. The first release had files and a metadata.jsonl "
        "(source_file_name, edited_file_name): import that with --fields and --licence.",
    ),
    Preset(
        "pico-banana-400k",
        "apple/pico-banana-400k",
        "json",
        (
            Fields(
                kind="edit",
                target="output_image",
                references=("local_input_image",),
                text=("text", "summarized_text"),
                task="edit_type",
            ),
        ),
        "CC-BY-NC-ND-4.0",
        "sft.jsonl lists addresses: fetch Open Images, run the publishers' map_openimage_url_to_local.py, and import "
        "what it writes. Sizes of many pairs differ (issue 22); those with another aspect ratio are skipped.",
    ),
    Preset(
        "metaquery-instruct",
        "xcpan/MetaQuery_Instruct_2.4M_512res",
        "parquet",
        (Fields(kind="edit", target="target_image", references=("source_images",), text=("prompt",)),),
        "CC-BY-NC-4.0",
        "References show what the target is about, they are not edited: other aspect ratios, often several; most rows "
        "are skipped unless --max-references is raised.",
    ),
    Preset(
        "x2i2",
        "OmniGen2/X2I2",
        "json",
        _OMNIGEN2,
        "NOASSERTION",
        "The tar.gz files are no valid webdataset: unpack them, then import jsons/ with --image-root. Many rows have "
        "several references; see --max-references.",
    ),
    Preset(
        "x2i",
        "yzwang/X2I-*",
        "json",
        _OMNIGEN2,
        "Apache-2.0",
        "As x2i2. The video parts have frames as pairs: nearly equal pictures.",
    ),
    Preset(
        "flow-grpo",
        "yifan123/flow_grpo, folder dataset",
        "json",
        (
            Fields(kind="prompt", text=("prompt",), task="tag", metadata=("tag", "include", "exclude")),
            Fields(kind="prompt", text=("text",)),
        ),
        "NOASSERTION",
        "Prompts of reinforcement learning: train_metadata.jsonl of geneval, train.txt of ocr and pickscore. GenEval's "
        "training prompts must not be those of its test: run `unipic2-data leaks` on them.",
    ),
)
_ADDRESSES = {"laion6m-recap": "wusize/laion6m_recap", "redcaps5m-recap": "wusize/redcaps5m_recap"}


def find_preset(name: str) -> Preset:
    """Return the preset of a name.

    Raises:
        DataError: If there is none, or the data set holds only addresses of pictures.
    """
    if name in _ADDRESSES:
        msg = (
            f"{_ADDRESSES[name]} holds addresses and captions, not pictures. Fetch them: img2dataset --input_format "
            "parquet --url_list FOLDER --url_col url --caption_col re_caption --output_format webdataset; then import "
            "the tars with --format tar."
        )
        raise DataError(msg)
    for preset in PRESETS:
        if preset.name == name:
            return preset
    msg = f"no preset named {name!r}; there are {', '.join(preset.name for preset in PRESETS)}."
    raise DataError(msg)
