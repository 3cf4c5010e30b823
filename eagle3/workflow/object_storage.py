"""Object storage: a check for its plugin, and the plugin's settings for the jobs' own client.

Snakemake's plugin moves checkpoints. Captures and training transfer hidden states themselves
(`eagle3.files.object_storage`) with boto3, which reads its settings from the environment: no file
of the project has credentials.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

from eagle3.errors import UserError

# settings of the plugin, and the variables from which boto3 reads the same
VARIABLES = {
    "endpoint_url": "AWS_ENDPOINT_URL_S3",
    "region": "AWS_DEFAULT_REGION",
    "access_key": "AWS_ACCESS_KEY_ID",
    "secret_key": "AWS_SECRET_ACCESS_KEY",
    "token": "AWS_SESSION_TOKEN",  # the name of a variable, no secret
}


def check_plugin(prefix: str) -> None:
    """Raise UserError if the plugin that reaches object storage is not installed."""
    if find_spec("snakemake_storage_plugin_s3") is None:
        raise UserError(
            f"config: resources.storage_prefix is {prefix!r}, which needs the extra `s3`: "
            "pip install -c envs/constraints.txt -e '.[s3]'"
        )


def share_settings(tagged: Any) -> None:
    """Pass --storage-s3-* or SNAKEMAKE_STORAGE_S3_* on to the jobs of this process.

    `tagged`: Snakemake's settings of the plugin, None if there are none.
    """
    settings = None if tagged is None else tagged.get_settings(None)
    for name, variable in VARIABLES.items():
        value = getattr(settings, name, None)
        if value is not None:
            os.environ[variable] = value
