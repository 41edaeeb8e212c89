import os
import subprocess
import sys

import pytest

SCRIPT = """
import os
import torch, torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.distributed.tensor import DTensor
from unipic2_dit.parallelize import shard
from unipic2_dit.transformer import SD3Transformer2DKontextModel

torch.set_num_threads(1)
folder, rank = {folder!r}, int(os.environ["RANK"])
plain = SD3Transformer2DKontextModel.from_pretrained(folder)
sharded = SD3Transformer2DKontextModel.from_pretrained(folder)
dist.init_process_group("gloo")
shard(sharded, init_device_mesh("cpu", (2,)))
assert isinstance(sharded, FSDPModule)
assert all(isinstance(parameter, DTensor) for parameter in sharded.parameters())
rng = torch.Generator().manual_seed(0)
given = dict(
    hidden_states=torch.randn(4, 4, 8, 8, generator=rng),
    ref_hidden_states=torch.randn(4, 4, 8, 8, generator=rng),
    encoder_hidden_states=torch.randn(4, 6, 40, generator=rng),
    pooled_projections=torch.randn(4, 24, generator=rng),
    timestep=torch.rand(4, generator=rng) * 1000,
)
plain(**given).sample.square().mean().backward()
mine = {{name: value.chunk(2)[rank] for name, value in given.items()}}
sharded(**mine).sample.square().mean().backward()
expected = dict(plain.named_parameters())
for name, parameter in sharded.named_parameters():
    torch.testing.assert_close(parameter.grad.full_tensor(), expected[name].grad, atol=1e-6, rtol=1e-4, msg=name)

low = SD3Transformer2DKontextModel.from_pretrained(folder)
shard(low, init_device_mesh("cpu", (2,)), MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32))
seen = []
low.time_text_embed.time_proj.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
velocity = low(**mine).sample
assert velocity.dtype == torch.bfloat16
assert torch.equal(seen[0], mine["timestep"]), "the timestep lost bits"
print("equal", flush=True)
dist.barrier()
dist.destroy_process_group()
os._exit(0)  # gloo's threads were seen to abort a process whose interpreter was already ending
"""


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one(parity_folder, tmp_path):
    script = tmp_path / "two_processes.py"
    script.write_text(SCRIPT.format(folder=str(parity_folder / "checkpoint" / "transformer")))
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("equal") == 2
