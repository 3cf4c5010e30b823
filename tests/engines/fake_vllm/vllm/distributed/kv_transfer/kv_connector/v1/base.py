"""The base of connectors, as far as ours uses it."""


class KVConnectorRole:
    pass


class KVConnectorMetadata:
    pass


class SupportsHMA:
    pass


class KVConnectorBase_V1:  # noqa: N801 - vLLM's name
    def __init__(self, vllm_config, role, kv_cache_config):
        self.bound = None

    def bind_connector_metadata(self, connector_metadata):
        self.bound = connector_metadata

    def clear_connector_metadata(self):
        self.bound = None
