"""The service behind every protocol: models, scheduling, cache."""

from opengte.serve.core.cache import CacheInfo
from opengte.serve.core.service import CoreService
from opengte.serve.core.settings import CacheSettings, ModelSettings

__all__ = ["CacheInfo", "CacheSettings", "CoreService", "ModelSettings"]
