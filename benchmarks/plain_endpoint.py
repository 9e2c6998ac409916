"""The baseline of benchmarks/serve_load.py: FastAPI and timm's rexnet_100 in PyTorch, as a tutorial writes it.

uvicorn --app-dir benchmarks plain_endpoint:app
"""

import io
from typing import Annotated, Any

import timm
import torch
from fastapi import FastAPI, File
from PIL import Image
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform

app = FastAPI()
model = timm.create_model("rexnet_100", pretrained=False).eval()
transform: Any = create_transform(**resolve_data_config({}, model=model))


@app.post("/predict")
def predict(image: Annotated[bytes, File()]) -> dict:
    with torch.inference_mode():
        decoded = Image.open(io.BytesIO(image)).convert("RGB")
        probabilities = model(transform(decoded)[None]).softmax(1)[0]
        best = probabilities.topk(5)
    return {"classes": best.indices.tolist(), "probabilities": best.values.tolist()}
