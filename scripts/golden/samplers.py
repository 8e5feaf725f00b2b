"""DPM-Solver++ 2M as the official script runs it, behind the scheduler interface of diffusers.

diffusers' own class has another sigma grid, so this one is written from the formula: x0 prediction,
midpoint, first and last step of first order, sigmas from 1 down to 0 and shifted once.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch


class DpmSolver:
    """DPM-Solver++ of second order for flow matching."""

    order = 1

    def __init__(self, flow_shift: float) -> None:
        self.config = SimpleNamespace(num_train_timesteps=1000, flow_shift=flow_shift)
        self.timesteps = torch.empty(0)
        self.sigmas = torch.empty(0)
        self._index = 0
        self._previous: torch.Tensor | None = None

    def set_timesteps(self, num_inference_steps: int, device: torch.device | str | None = None) -> None:
        """Lays the grid and forgets the previous run."""
        grid = np.linspace(1.0, 0.0, num_inference_steps + 1)[:-1]
        shift = self.config.flow_shift
        sigmas = shift * grid / (1.0 + (shift - 1.0) * grid)
        self.timesteps = torch.from_numpy(sigmas * 1000.0).to(torch.int64)
        self.sigmas = torch.from_numpy(np.append(sigmas, 0.0).astype(np.float32))
        self._index = 0
        self._previous = None

    def _lambda(self, index: int) -> torch.Tensor:
        sigma = self.sigmas[index]
        return torch.log(1.0 - sigma) - torch.log(sigma)

    def step(
        self, velocity: torch.Tensor, timestep: torch.Tensor, sample: torch.Tensor, return_dict: bool = False
    ) -> tuple[torch.Tensor]:
        """One step; `timestep` only belongs to the interface, steps come in order."""
        del timestep, return_dict
        i, last = self._index, len(self.timesteps) - 1
        sigma, sigma_next = self.sigmas[i], self.sigmas[i + 1]
        clean = sample - sigma * velocity
        h = self._lambda(i + 1) - self._lambda(i)
        base = (sigma_next / sigma) * sample
        scale = (1.0 - sigma_next) * torch.expm1(-h)
        if i in (0, last) or self._previous is None:
            result = base - scale * clean
        else:
            ratio = (self._lambda(i) - self._lambda(i - 1)) / h
            result = base - scale * (clean + 0.5 * (clean - self._previous) / ratio)
        self._previous = clean
        self._index += 1
        return (result,)
