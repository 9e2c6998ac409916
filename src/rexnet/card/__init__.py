"""`rexnet card`: a trained model as a self-contained folder with a model card, to share or to upload to the Hugging
Face hub."""
