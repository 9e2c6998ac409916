"""Images with boxes and masks: reading, checking, conversion, synthesis and batching."""
