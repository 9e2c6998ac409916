"""Images with boxes and masks: reading, checking, converting, drawing and batching them."""
