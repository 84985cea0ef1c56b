"""TripletLoss: embeddings of one class closer to each other than to those of other classes."""

from typing import Literal

import torch
from torch import Tensor, nn

from src import require


class TripletLoss(nn.Module):
    """Mean of max(0, d(anchor, positive) - d(anchor, negative) + margin) over triplets chosen within the batch.

    ``hard``: for each anchor the farthest sample of its class and the nearest of another; arXiv:1703.07737, equation 5.
    ``semi-hard``: for each pair of a class the nearest negative that is farther than the positive, else the farthest
    negative; arXiv:1503.03832, section 3.2. d is the Euclidean distance. A batch without any triplet has loss 0.

    Args:
        margin: wanted difference of the distances, above 0; embeddings of length 1 are at most 2 apart.
        mining: how triplets are chosen.
    """

    def __init__(self, margin: float = 0.2, mining: Literal["hard", "semi-hard"] = "hard") -> None:
        super().__init__()
        require(margin > 0, f"margin must be above 0, got {margin}")
        self.margin, self.mining = margin, mining

    def forward(self, embeddings: Tensor, targets: Tensor) -> Tensor:
        distances = torch.cdist(embeddings, embeddings, compute_mode="donot_use_mm_for_euclid_dist")
        alike = targets[:, None] == targets
        positive = alike & ~torch.eye(len(targets), dtype=torch.bool, device=targets.device)
        if self.mining == "hard":
            usable = positive.any(1) & ~alike.all(1)
            farthest = distances.masked_fill(~positive, -1).amax(1)
            gaps = farthest - distances.masked_fill(alike, torch.inf).amin(1)
        else:
            usable = positive & ~alike.all(1, keepdim=True)
            # (anchor, positive, negative)
            farther = (distances[:, None, :] > distances[:, :, None]) & ~alike[:, None, :]
            nearest = distances[:, None, :].expand(farther.shape).masked_fill(~farther, torch.inf).amin(2)
            easiest = distances.masked_fill(alike, -1).amax(1, keepdim=True)
            gaps = distances - torch.where(farther.any(2), nearest, easiest)
        losses = torch.where(usable, (gaps + self.margin).relu(), 0)  # not gaps[usable], which waits for a GPU
        return losses.sum() / usable.sum().clamp(min=1)
