"""The webdataset library as a second reader of what is written here."""

import gc
import warnings

import pytest


def read_with_webdataset(tars, *stages):
    """The samples of `tars`; `stages` are (method, arguments...) of its pipeline."""
    webdataset = pytest.importorskip("webdataset")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves tars open
        pipeline = webdataset.WebDataset(list(map(str, tars)), shardshuffle=False)
        for method, *arguments in stages:
            pipeline = getattr(pipeline, method)(*arguments)
        samples = list(pipeline)
        del pipeline
        gc.collect()
    return samples
