"""The images that an attack still works on: whoever is broken leaves, and the batch shrinks."""

import torch
from torch import Tensor


class WorkingSet:
    """`result` holds an answer for every image; `index` says which of them are still worked on.

    A model in train mode sees the batch that is left, and its batch norm with it.

    Args:
        x: [B, ...], the first answers; copied.
    """

    def __init__(self, x: Tensor) -> None:
        self.result = x.detach().clone()
        self.index = torch.arange(len(x), device=x.device)

    def __len__(self) -> int:
        return len(self.index)

    def drop(self, leave: Tensor, answer: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Take the rows `leave` of `answer` into the result; return the other rows of `answer` and of `state`.

        Waits for the device. Where none leaves, nothing is copied.

        Args:
            leave: [len(self)] of bool.
            answer: [len(self), ...], images.
            state: anything else with one row per image that is worked on.
        """
        if not leave.any():
            return answer, *state
        gone, stay = (mask.nonzero().squeeze(1) for mask in (leave, ~leave))
        self.result[self.index[gone]] = answer[gone]
        self.index = self.index[stay]
        return tuple(rows[stay] for rows in (answer, *state))

    def finish(self, answer: Tensor) -> Tensor:
        """The result, with `answer` for all that are still worked on."""
        self.result[self.index] = answer
        return self.result
