"""Whether the hub of models and data sets answers.

Its client waits long for one that does not (huggingface_hub 2.4): 23 s where connections are refused, and where a
firewall swallows them over six minutes for a file of a data set and without end for a model's list of files.
"""

from __future__ import annotations

import logging

TIMEOUT, RETRIES = 10, 2  # seconds of silence; after 1 and 2 s

log = logging.getLogger(__name__)


def unreachable() -> str | None:
    """Why the hub gives no answer, found in half a minute at most; None where it gives one, whatever it is."""
    from huggingface_hub import constants
    from huggingface_hub.errors import HTTPError  # of the HTTP library that the hub's client uses
    from huggingface_hub.utils import http_backoff

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        http_backoff("HEAD", constants.ENDPOINT, max_retries=RETRIES, retry_on_status_codes=(), timeout=TIMEOUT)
    except HTTPError as error:
        return f"{constants.ENDPOINT}: {str(error) or type(error).__name__}"
    return None


def offline_if_unreachable() -> None:
    """Let this process take data sets from the cache alone, at once, where the hub gives no answer."""
    import datasets
    from huggingface_hub import constants

    if why := unreachable():
        log.warning("the hub cannot be reached (%s): data sets are taken from the cache", why)
        constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
