"""What pretraining and fine-tuning share: the optimiser, its schedule, and a state that survives `kill -9`."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ehr_tl.files import whole
from ehr_tl.models.network import FUSED, HALVES, EhrModel
from ehr_tl.tokens.batches import Batch

STATE = "state.safetensors"


def optimiser(modules: nn.Module, rate: float, decay: float) -> torch.optim.AdamW:
    """AdamW over all parameters; weight decay on matrices alone."""
    matrices = [p for p in modules.parameters() if p.ndim >= 2]
    others = [p for p in modules.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98))


def set_rate(optimiser: torch.optim.Optimizer, peak: float, progress: float, warmup: float = 0.05) -> None:
    """Linear rise to `peak`, then a cosine down to a tenth of it; `progress` goes from 0 to 1."""
    if progress < warmup:
        rate = peak * (progress + 1e-3) / warmup
    else:
        rate = peak * (0.1 + 0.45 * (1 + math.cos(math.pi * min(1.0, (progress - warmup) / (1 - warmup)))))
    for group in optimiser.param_groups:
        group["lr"] = rate


def step(modules: nn.Module, optimiser: torch.optim.Optimizer, loss: Tensor) -> float:
    """One step down; gradients are clipped to norm 1. Returns the loss."""
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
    optimiser.step()
    return float(loss.detach())


def multiplies_halves(device: torch.device) -> bool:
    """Whether a device multiplies matrices in bfloat16 faster than in single precision."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bool(torch.cpu.get_capabilities().get("avx512_bf16"))


@contextmanager
def trained_quickly(network: EhrModel) -> Iterator[bool]:
    """Within it attention goes the way that trains fastest on the network's device (`network.HALVES`).

    Yields:
        Whether matrices are to be multiplied in bfloat16.
    """
    half = multiplies_halves(network.device)
    network.set_attn_implementation(HALVES if half and network.device.type == "cpu" else FUSED)
    try:
        yield half
    finally:
        network.set_attn_implementation(FUSED)


def generators(*seed: int) -> tuple[np.random.Generator, torch.Generator]:
    """Random numbers that depend on `seed` alone, so that nothing random need be kept to go on where one stopped."""
    return np.random.default_rng(seed), torch.Generator().manual_seed(hash_seed(*seed))


def hash_seed(*seed: int) -> int:
    """One number from several."""
    return int(np.random.SeedSequence(seed).generate_state(1)[0])


def drop_events(batch: Batch, share: float, codes: int, rng: np.random.Generator) -> Batch:
    """Hides events: in each sequence a random part of the codes, `share` of them on average.

    The part differs from sequence to sequence, from almost none to almost all, so that a network has met records of
    which little is known; that is what an explanation asks it about. Age and gender are hidden like other codes.
    """
    if share <= 0:
        return batch
    count = int(batch.sequence.max()) + 1
    part = rng.random(count) ** (1 / share - 1)
    hidden = rng.random((count, codes), dtype=np.float32) < part[:, None]
    return batch.keep(~hidden[batch.owner, batch.code])


def save_state(
    folder: Path,
    modules: Mapping[str, nn.Module],
    optimiser: torch.optim.Optimizer,
    notes: dict[str, Any],
    settings: dict[str, Any],
) -> None:
    """Writes weights, the optimiser's moments and `notes` (JSON) as one safetensors file, whole or not at all.

    Args:
        settings: What the training was told (JSON); a state is of use only to a training that was told the same.
    """
    tensors = {f"{key}/{name}": t for key, module in modules.items() for name, t in module.state_dict().items()}
    for number, moments in optimiser.state_dict()["state"].items():
        tensors.update({f"optimiser/{number}/{name}": torch.as_tensor(value) for name, value in moments.items()})
    folder.mkdir(parents=True, exist_ok=True)
    with whole(folder / STATE) as temporary:
        metadata = {"notes": json.dumps(notes), "settings": json.dumps(settings, sort_keys=True)}
        save_file({name: tensor.detach().clone() for name, tensor in tensors.items()}, temporary, metadata)


def load_state(
    folder: Path, modules: Mapping[str, nn.Module], optimiser: torch.optim.Optimizer, settings: dict[str, Any]
) -> dict[str, Any] | None:
    """Puts back what `save_state` wrote and returns its notes; None when nothing fits `settings`."""
    try:
        with safe_open(folder / STATE, framework="pt") as file:
            metadata = file.metadata()
            if metadata["settings"] != json.dumps(settings, sort_keys=True):
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (FileNotFoundError, SafetensorError):
        return None
    for key, module in modules.items():
        module.load_state_dict({name.removeprefix(key + "/"): t for name, t in tensors.items() if _of(name) == key})
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if _of(name) == "optimiser":
            _, number, moment = name.split("/")
            moments.setdefault(int(number), {})[moment] = tensor
    optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})
    return json.loads(metadata["notes"])


def _of(name: str) -> str:
    return name.split("/", 1)[0]
