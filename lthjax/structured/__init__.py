"""Structured pruning: channels by their scales, and units removed for real."""

from lthjax.structured._channels import (
  add_l1,
  channel_masks,
  mask_channels,
)
from lthjax.structured._compact import compact

__all__ = ['add_l1', 'channel_masks', 'compact', 'mask_channels']
