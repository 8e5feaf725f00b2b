"""Stage 1: the VAE, on crops of painted clips. `python -m tiny_wan.train_vae --run DIR`."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

from . import whole_clip
from .networks import count, make_vae
from .optimiser import Optimiser
from .paint import paint, photos
from .pictures import save_rows, strip
from .pool import HELD_OUT, Pool
from .scenes import draw
from .work import Clock, barrier, device, log, plain, rate, save, start

# In the end strong enough that a number of a latent holds a bit or so, with noise that the decoder is used to: the
# transformer is not to learn what no picture shows. Not from the start, or shapes are given up and never found again.
KL, KL_AT_FIRST, KL_UNTIL = 2e-3, 2e-5, 0.6
# Also only then: the brightness of whole frames. An error of a fifth of a grey level is in no single pixel's interest,
# and flickers all the same. From the start it would be most of the gradient, and shapes would wait.
BRIGHTNESS = 20.0
# Clips of one picture, repeated: the latent of a first frame, which the VAE makes from that frame alone, is to equal
# those of four equal frames. What rests can then be copied from frame to frame by the transformer.
STILL, STILL_SHARE = 0.01, 0.25
# Short crops at first, as more of them fit the time; then longer ones: after crops of 9 frames alone, colours drift in
# the frames behind the ninth.
SHORT, LONG, SIZE = 9, 17, 64
SHORT_UNTIL = 0.5


class Loss(nn.Module):
    """Reconstruction, its change over time, its brightness; latents near the unit normal and equal in still clips."""

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae = vae

    def forward(
        self, clip: Tensor, noise: Tensor, still: Tensor, weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Loss, squared error, divergence and inequality of clips in [-1, 1].

        `noise` draws the latents; `still` [B] is 1 for a picture repeated, or 0; `weights` [2]: of the divergence and
        of the brightness.
        """
        mean, log_variance = whole_clip.encode(self.vae, clip)
        log_variance = log_variance.float().clamp(-20, 10)
        z = mean + torch.exp(0.5 * log_variance).to(mean.dtype) * noise
        error = (whole_clip.decode(self.vae, z) - clip).float()
        square = error.square().mean()
        temporal = (error[:, :, 1:] - error[:, :, :-1]).square().mean()
        brightness = error.mean((3, 4)).square().mean()
        divergence = 0.5 * (mean.float().square() + log_variance.exp() - 1 - log_variance).mean()
        unequal = (mean[:, :, 1:] - mean[:, :, :1]).float().square().mean((1, 2, 3, 4))
        unequal = (unequal * still).sum() / still.sum().clamp_min(1)
        loss = square + 0.05 * error.abs().mean() + 0.25 * temporal + STILL * unequal
        loss = loss + weights[0] * divergence + weights[1] * brightness
        return loss, square.detach(), divergence.detach(), unequal.detach()


def as_compute(model: nn.Module) -> nn.Module:
    """bfloat16, kernels with the channels last, as the convolutions want them."""
    model = model.to(torch.bfloat16)
    for layer in model.modules():
        if isinstance(layer, nn.Conv3d):
            layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last_3d)
        elif isinstance(layer, nn.Conv2d):
            layer.weight.data = layer.weight.data.contiguous(memory_format=torch.channels_last)
    return model


@torch.no_grad()
def held_out(vae: nn.Module, path: Path | None, scenes: int = 6, frames: int = 17) -> tuple[float, float]:
    """PSNR in dB over held-out clips and over their first frames; draws both clips to `path`."""
    rows, psnr, first = [], [], []
    for seed in range(HELD_OUT, HELD_OUT + scenes):
        clip = paint(draw(seed, photos(True)), frames)
        weight = next(vae.parameters())
        x = (clip * 2 - 1).transpose(0, 1)[None].to(weight.device, weight.dtype)
        mean, _ = whole_clip.encode(vae, x)
        back = (whole_clip.decode(vae, mean)[0].float().cpu().transpose(0, 1) * 0.5 + 0.5).clamp(0, 1)
        square = (back - clip).square()
        psnr.append(-10 * torch.log10(square.mean()).item())
        first.append(-10 * torch.log10(square[0].mean()).item())
        rows += [strip(clip), strip(back)]
    if path:
        save_rows(path, rows)
    return sum(psnr) / len(psnr), sum(first) / len(first)


@torch.no_grad()
def take_weights(vae: nn.Module, run: Path) -> None:
    """Gives `vae` the weights of a run."""
    weights = torch.load(run / "vae.pt", map_location="cpu")["optimiser"]["weights"]
    for parameter, weight in zip(vae.parameters(), weights, strict=True):
        parameter.copy_(weight)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peak", type=float, default=2e-3)
    parser.add_argument("--encoder", type=int, default=16)
    parser.add_argument("--decoder", type=int, default=16)
    parser.add_argument("--blocks", type=int, default=2)
    default = 32 if device().type == "cuda" else 4
    parser.add_argument("--batch", type=int, default=default, help="clips per process and step")
    parser.add_argument("--no-compile", action="store_true")
    arguments = parser.parse_args()
    rank, _ = start()
    where = device()
    vae = as_compute(make_vae(arguments.seed, arguments.encoder, arguments.decoder, arguments.blocks).to(where))
    optimiser = Optimiser(vae)
    state_file, clock = arguments.run / "vae.pt", Clock(arguments.minutes)
    if state_file.exists():
        state = torch.load(state_file, map_location=where)
        optimiser.load(state["optimiser"])
        clock.spent = state["spent"]
    pool = Pool(arguments.run / "pool", arguments.seed * 1000 + rank + 7919 * optimiser.steps)
    loss = Loss(vae)
    step = loss if arguments.no_compile else torch.compile(loss, dynamic=False)
    torch.manual_seed(rank + 7919 * optimiser.steps)
    log(rank, f"VAE {count(vae):.2f} M parameters, {pool.refresh()} clips, step {optimiser.steps}")

    def crops(progress: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Clips, noise for their latents, which are still, the weights of the loss; half as many long clips."""
        frames = SHORT if progress < SHORT_UNTIL else LONG
        count = arguments.batch if frames == SHORT else max(1, arguments.batch // 2)
        clips = pool.crops(count, frames, SIZE).to(where, torch.bfloat16)
        latent = (count, vae.config.z_dim, (frames - 1) // 4 + 1, SIZE // 16, SIZE // 16)
        still = (torch.rand(count) < STILL_SHARE).float().to(where)
        clips = torch.where(still.view(-1, 1, 1, 1, 1) > 0, clips[:, :, :1], clips)
        weights = torch.tensor((KL_AT_FIRST, 0.0) if progress < KL_UNTIL else (KL, BRIGHTNESS), device=where)
        return clips, torch.randn(latent, device=where).bfloat16(), still, weights

    shown = saved = clock.spent
    mean_square = inequality = divergence = 0.0
    if optimiser.steps == 0:
        # Compiling is not training: the clock starts behind it.
        step(*crops(0))[0].backward()
        vae.zero_grad(set_to_none=True)
        barrier()
        clock.tick()
        clock.spent = 0.0
    while (progress := clock.tick()) < 1:
        value, square, kl, unequal = step(*crops(progress))
        value.backward()
        optimiser.step(rate(progress, arguments.peak))
        mean_square = 0.97 * mean_square + 0.03 * square.item() if mean_square else square.item()
        divergence = kl.item()
        inequality = unequal.item() or inequality
        if rank == 0 and clock.spent - shown > 60:
            shown = clock.spent
            whole, first = held_out(vae, arguments.run / "pictures" / "vae.png")
            db = -10 * torch.log10(torch.tensor(mean_square / 4)).item()
            place = f"step {optimiser.steps} {100 * progress:.0f} %"
            quality = f"train {db:.2f} dB, held out {whole:.2f} dB, first frames {first:.2f} dB"
            latents = f"kl {divergence:.2f}, still {inequality:.3f}"
            log(rank, f"{place} {quality}, {latents}, gradient {optimiser.norm:.3f}, {pool.refresh()} clips")
        if rank == 0 and clock.spent - saved > 60:
            saved = clock.spent
            save(state_file, {"optimiser": optimiser.state(), "spent": clock.spent, "sizes": plain(arguments)})
        if rank and optimiser.steps % 50 == 0:
            pool.refresh()
    if rank == 0:
        save(state_file, {"optimiser": optimiser.state(), "spent": clock.spent, "sizes": plain(arguments)})
        whole, first = held_out(vae, arguments.run / "pictures" / "vae.png")
        log(rank, f"done, held out {whole:.2f} dB, first frames {first:.2f} dB")
    barrier()


if __name__ == "__main__":
    main()
