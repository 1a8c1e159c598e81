"""A plugin of strangers: gauges with a pointer, what they show, and how well that is read."""

from mtdiff_core import hookimpl
from mtdiff_gauges.dataset import Gauges
from mtdiff_gauges.metric import ReadingError
from mtdiff_gauges.modality import Reading

MTDIFF_PLUGIN_API = "1.0"


@hookimpl
def mtdiff_modalities():
    return {"reading": Reading}


@hookimpl
def mtdiff_datasets():
    return {"gauges": Gauges}


@hookimpl
def mtdiff_metrics():
    return {"reading_error": ReadingError}
