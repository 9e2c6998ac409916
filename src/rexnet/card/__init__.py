"""`rexnet card`: a trained model as a folder that describes itself, for others and for the Hugging Face hub."""
