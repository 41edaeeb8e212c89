"""Help texts of workflows: apart from the workflows, so that ``--help`` imports nothing heavy."""

__all__ = ["ENCODE", "PDTR", "WORKFLOWS"]

ENCODE = """\
usage: lightning run encode [--config RECIPE ...] --data.cache.path DIR [--key value ...]

Run a recipe's VAE and text encoders over its training data once. Takes the recipe, with layers and keys, of the run
that will train from the cache; the default is pretrain/tiny. Recipes of connector and joint have pictures encoded alone
(--data.cache.text null). Under torchrun or Slurm every process encodes its share. After an interruption, or with more
data, run it again: only what is missing is done.

  --data.cache.latents float32|bfloat16|null       how latents are stored (default: bfloat16)
  --data.cache.text float32|bfloat16|float8|null   how text embeddings are stored (default: bfloat16)
  --data.flip SHARE                                above 0: mirrored pictures are encoded too
  --batch_size N                                   pictures or prompts encoded at once (default: 8)
  --sizes_only                                     say how large the cache would be, and stop"""

PDTR = """\
usage: lightning run pdtr [--preset NAME] [--algorithm NAME] [--checkpoint DIR] [--run_dir DIR] [--key value ...]

Run edit-rl, and t2i-rl from the model that it exports (averaged, adapter merged). Other keys go to both stages.

  --preset NAME       recipe of both stages: tiny (default), sd35m, debug
  --algorithm NAME    pdtr-faithful, pdtr-fast or nft (default: the recipe's; tiny: nft, others: pdtr-fast)
  --checkpoint DIR    model folder or hub id to start from (default: the recipe's)
  --run_dir DIR       folder for both runs (default: ./runs/pdtr-TIME)"""

WORKFLOWS = {"encode": ENCODE, "pdtr": PDTR}
"""By name, of those that say more than their preset."""
