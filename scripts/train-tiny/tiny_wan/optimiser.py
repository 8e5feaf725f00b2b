"""Muon for matrices and kernels, Adam for the rest; weights are kept in float32 beside a bfloat16 model.

Muon (Keller Jordan and others, 2024) replaces the momentum of a matrix by the nearest orthogonal one. On networks
of this size it needs about half the steps of Adam. Its steps are scaled to the size of Adam's, so that one
learning rate serves both.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn


@torch.no_grad()
def orthogonal(m: Tensor, steps: int = 5) -> Tensor:
    """Newton-Schulz iteration towards U V^T of m = U S V^T, in bfloat16: the direction need not be exact."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = (m / (m.norm() + 1e-7)).bfloat16()
    wide = x.shape[0] <= x.shape[1]
    x = x if wide else x.T.contiguous()
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if wide else x.T


class Optimiser:
    """Steps the float32 weights and writes them into the model. With several processes, gradients are averaged."""

    def __init__(self, model: nn.Module, plain: tuple[str, ...] = (), decay: float = 0.01) -> None:
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        self.model_weights = [p for _, p in named]
        self.weights = [p.detach().float().clone() for _, p in named]
        # Embeddings and tables are no maps from vectors to vectors.
        self.matrix = [
            p.dim() > 1 and min(p.shape[0], p[0].numel()) > 4 and not any(part in name for part in plain)
            for name, p in named
        ]
        self.first = [torch.zeros_like(w) for w in self.weights]
        self.second = [None if m else torch.zeros_like(w) for m, w in zip(self.matrix, self.weights, strict=True)]
        self.steps = 0
        self.decay = decay
        self.share = self._shares(dist.get_world_size() if dist.is_initialized() else 1)

    def _shares(self, world: int) -> list[list[int]]:
        """The matrices each process makes orthogonal, of about equal work."""
        work = {}
        for i in (i for i, m in enumerate(self.matrix) if m):
            w = self.weights[i]
            short, long = sorted((w.shape[0], w[0].numel()))
            work[i] = short * short * (2 * long + short)
        shares: list[list[int]] = [[] for _ in range(world)]
        for i in sorted(work, key=work.__getitem__, reverse=True):
            min(shares, key=lambda share: sum(work[j] for j in share)).append(i)
        return shares

    def _updates(self, grads: list[Tensor]) -> dict[int, Tensor]:
        """The orthogonal matrices: every process makes its share and gives it to the others."""
        rank = dist.get_rank() if len(self.share) > 1 else 0
        updates = {}
        for i in self.share[rank]:
            g = grads[i]
            updates[i] = orthogonal(torch.lerp(g, self.first[i], 0.95).reshape(g.shape[0], -1))
        if len(self.share) > 1:
            for owner, share in enumerate(self.share):
                sizes = [self.weights[i].numel() for i in share]
                flat = (
                    torch.cat([updates[i].reshape(-1) for i in share])
                    if owner == rank
                    else torch.empty(sum(sizes), dtype=torch.bfloat16, device=self.weights[0].device)
                )
                dist.broadcast(flat.view(torch.uint8), owner)
                for i, part in zip(share, flat.split(sizes), strict=True):
                    updates[i] = part.view(self.weights[i].shape[0], -1)
        return updates

    def _gradients(self, limit: float) -> list[Tensor]:
        pairs = zip(self.model_weights, self.weights, strict=True)
        grads = [torch.zeros_like(w) if p.grad is None else p.grad.float() for p, w in pairs]
        for p in self.model_weights:
            p.grad = None
        if dist.is_initialized() and dist.get_world_size() > 1:
            flat = torch.cat([g.reshape(-1) for g in grads])
            dist.all_reduce(flat)
            flat /= dist.get_world_size()
            parts = flat.split([g.numel() for g in grads])
            grads = [part.view_as(g) for part, g in zip(parts, grads, strict=True)]
        norm = torch.stack([g.norm() for g in grads]).norm()
        self.norm = norm.item()
        scale = min(1.0, limit / (self.norm + 1e-9))
        return [g * scale for g in grads]

    @torch.no_grad()
    def step(self, rate: float, limit: float = 1.0) -> None:
        """One step at learning rate `rate`, of the gradients that the model holds."""
        grads = self._gradients(limit)
        if not torch.isfinite(torch.tensor(self.norm)):
            return
        self.steps += 1
        for first, g, matrix in zip(self.first, grads, self.matrix, strict=True):
            first.lerp_(g, 0.05 if matrix else 0.1)
        updates = self._updates(grads)
        for i, (w, g) in enumerate(zip(self.weights, grads, strict=True)):
            if self.matrix[i]:
                update = updates[i].view_as(w).float()
                w.mul_(1 - rate * self.decay).sub_(update, alpha=rate * 0.2 * max(updates[i].shape) ** 0.5)
            else:
                m = self.first[i]
                v = self.second[i].lerp_(g.square(), 0.02)
                top = m / (1 - 0.9**self.steps)
                w.sub_(top / ((v / (1 - 0.98**self.steps)).sqrt() + 1e-8), alpha=rate)
        self.write()

    @torch.no_grad()
    def write(self) -> None:
        """Copies the weights into the model."""
        for p, w in zip(self.model_weights, self.weights, strict=True):
            p.copy_(w)

    def state(self) -> dict[str, object]:
        """What a resumed run needs."""
        return {"weights": self.weights, "first": self.first, "second": self.second, "steps": self.steps}

    def load(self, state: dict) -> None:
        """Takes over a state and writes its weights into the model."""
        self.weights, self.first, self.second, self.steps = (state[k] for k in ("weights", "first", "second", "steps"))
        self.write()
