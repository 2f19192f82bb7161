"""The service behind every protocol: models, scheduling, cache."""

from opengte.serve.core.settings import CacheSettings, ModelSettings
from opengte.serve.inference.cache import CacheInfo
from opengte.serve.inference.service import CoreService

__all__ = ["CacheInfo", "CacheSettings", "CoreService", "ModelSettings"]
