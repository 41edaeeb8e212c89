import os
import subprocess
import sys

import pytest

SCRIPT = """
import os
import torch, torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.distributed.tensor import DTensor
from unipic2_connector.checkpoint import load_conditioner
from unipic2_connector.conditioner import MetaQueryConditioner
from unipic2_connector.parallelize import shard

torch.set_num_threads(1)
folder, rank = {folder!r}, int(os.environ["RANK"])

class FrozenModel(nn.Module):
    hidden_size = 48

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.TransformerEncoderLayer(48, 2, 64, 0.0, batch_first=True)
        self.requires_grad_(False)

    def forward(self, prompts, queries, **options):
        rows = [queries + float(len(prompt)) / 10 for prompt in prompts]
        return self.layer(torch.stack(rows).float())

def loss(conditioner, prompts):
    embeds, pooled = MetaQueryConditioner(FrozenModel(), conditioner)(prompts)
    return embeds.float().sin().mean() + pooled.float().sin().mean()

prompts = ["a", "another one"]
plain, sharded = load_conditioner(folder), load_conditioner(folder)
loss(plain, prompts).backward()
dist.init_process_group("gloo")
shard(sharded, init_device_mesh("cpu", (2,)))
assert isinstance(sharded, FSDPModule)
assert all(isinstance(parameter, DTensor) for parameter in sharded.parameters())
expected = dict(plain.named_parameters())
for _ in range(2):
    sharded.zero_grad()
    loss(sharded, prompts[rank : rank + 1]).backward()
    for name, parameter in sharded.named_parameters():
        torch.testing.assert_close(parameter.grad.full_tensor(), expected[name].grad, atol=1e-6, rtol=1e-4, msg=name)

low = load_conditioner(folder)
shard(low, init_device_mesh("cpu", (2,)), MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32))
assert low.queries().dtype == torch.bfloat16
loss(low, prompts[rank : rank + 1]).backward()
assert low.meta_queries.grad.dtype == torch.float32
print("equal", flush=True)
dist.barrier()
dist.destroy_process_group()
os._exit(0)  # gloo's threads were seen to abort a process whose interpreter was already ending
"""


@pytest.mark.slow
def test_two_processes_have_the_gradients_of_one(released_folder, tmp_path):
    script = tmp_path / "two_processes.py"
    script.write_text(SCRIPT.format(folder=str(released_folder)))
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
