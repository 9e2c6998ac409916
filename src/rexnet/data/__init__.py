"""Images into batches: decoding, transforms, labelled image sets, loaders."""
