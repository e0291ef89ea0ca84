"""`limbeck export`: a model in another format, read again and compared with what it was made from."""

from __future__ import annotations

from typing import Any

import torch
from rich.console import Console

from limbeck.config import ExportSettings
from limbeck.disk import whole_folder, write_digests
from limbeck.divergence import kl
from limbeck.errors import BadFolder, BadSetting
from limbeck.exporters.named import EXPORTERS
from limbeck.jobs.common.environment import require_device
from limbeck.models.configuration import load_config
from limbeck.models.language_model import LanguageModel
from limbeck.models.load import load
from limbeck.types import Batch, CausalLM

_ROWS, _TOKENS = 8, 32  # of random tokens that are compared
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def export(settings: ExportSettings) -> dict[str, Any]:
    """Writes a model in a format; gives ``{"out", "format", "bytes", "kl_nats", "largest_kl_nats", "n"}``.

    The last three compare what was written with the model, at ``n`` positions behind random tokens: KL(model || written), the
    mean and the largest. They are None where limbeck cannot run the format. Raises BadSetting for a format that is not there,
    BadFolder where ``out`` holds something, and what the format raises.
    """
    name = settings.to
    if name not in EXPORTERS:
        raise BadSetting(f"--to: {EXPORTERS.unknown(name)}")
    if settings.out.exists() and any(settings.out.iterdir()):
        raise BadFolder(f"{settings.out} is not empty: give a new folder with --out")
    exporter = EXPORTERS[name]()
    require_device(settings.device)
    load_config(settings.model)
    automatic = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(automatic if settings.device == "auto" else settings.device)
    model = load(settings.model, device=device, dtype=torch.float32)
    batch = _random(model, settings.seed).to(device)
    before = _log_p(model, batch)
    compared: dict[str, Any] = dict.fromkeys(("kl_nats", "largest_kl_nats", "n"))
    with whole_folder(settings.out.absolute()) as partial, EXPORTERS.blamed(name):
        exporter.write(model, partial, dtype=_DTYPES[settings.dtype] if settings.dtype != "auto" else None)
        written = exporter.read(partial, model)
        if written is not None:
            nats = kl(before, _log_p(written, batch))
            compared = {"kl_nats": float(nats.mean()), "largest_kl_nats": float(nats.max()), "n": nats.numel()}
        write_digests(partial)
    size = sum(file.stat().st_size for file in settings.out.rglob("*") if file.is_file())
    return {"out": str(settings.out), "format": name, "bytes": size, **compared}


def _random(model: LanguageModel, seed: int) -> Batch:
    tokens = torch.randint(model.vocab, (_ROWS, _TOKENS + 1), generator=torch.Generator().manual_seed(seed))
    shape = (_ROWS, _TOKENS)
    return Batch(
        tokens=tokens[:, :-1],
        targets=tokens[:, 1:],
        weight=torch.ones(shape),
        position=torch.arange(_TOKENS).expand(shape),
        document=torch.arange(_ROWS)[:, None].expand(shape),
        row=torch.arange(_ROWS),
    )


@torch.no_grad()
def _log_p(model: CausalLM, batch: Batch) -> torch.Tensor:
    return model(batch).logits().float().log_softmax(-1)


def show(result: dict[str, Any], console: Console) -> None:
    """Prints what was written and how it compares."""
    console.print(f"{result['format']}: {result['out']} ({result['bytes'] / 1e6:,.1f} MB)", soft_wrap=True)
    if result["kl_nats"] is None:
        console.print("not compared: limbeck cannot run this format", soft_wrap=True)
    else:
        console.print(
            f"KL(model || written): {result['kl_nats']:.2g} nats on average, {result['largest_kl_nats']:.2g} at most, of "
            f"{result['n']} positions behind random tokens",
            soft_wrap=True,
        )
