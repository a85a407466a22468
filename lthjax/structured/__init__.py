"""Channel pruning by the scales of normalization layers."""

from lthjax.structured._channels import (
  add_l1,
  channel_masks,
  mask_channels,
  scales,
)

__all__ = ['add_l1', 'channel_masks', 'mask_channels', 'scales']
