"""How far features of a student are from those of the teacher that it was pruned from."""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from offline_compress.losses.teacher_losses import distances


class FeatureDistances(nn.Module):
    """Per tap the distance between a student's feature and a teacher's.

    A tap of a student that was pruned from the teacher is compared with the channels of the teacher
    that it kept; of any other student, with the teacher's whole tap through a 1x1 convolution
    without bias that is trained along. These `projections` are the only parameters.
    """

    def __init__(
        self,
        kept: Mapping[str, Sequence[int] | None],
        widths: Mapping[str, int],
        student_widths: Mapping[str, int],
    ) -> None:
        """Args:
        kept: per tap the teacher's channels that the student's are, in order; None: unrelated.
        widths: channels of the teacher's taps.
        student_widths: channels of unrelated taps at least.
        """
        super().__init__()
        self.taps = tuple(kept)
        self.projections = nn.ModuleDict()
        self._names = {tap: f"kept_{number}" for number, tap in enumerate(kept)}
        for tap, channels in kept.items():
            if channels is None:
                self.projections[tap] = nn.Conv2d(student_widths[tap], widths[tap], 1, bias=False)
            elif list(channels) != list(range(widths[tap])):
                self.register_buffer(
                    self._names[tap], torch.tensor(list(channels)), persistent=False
                )

    def forward(
        self, own: Mapping[str, torch.Tensor], taught: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Features [N, C, H, W] by tap -> per pixel distance [N, H, W] by tap (`distances`)."""
        found = {}
        for tap in self.taps:
            feature, target = own[tap], taught[tap]
            if tap in self.projections:
                feature = self.projections[tap](feature)
            kept = getattr(self, self._names[tap], None)
            found[tap] = distances(
                feature, target if kept is None else target.index_select(1, kept)
            )
        return found
