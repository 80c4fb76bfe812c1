"""The records that could not be decoded: counted, named in the log once, limited."""

import logging

logger = logging.getLogger(__name__)


class BadRecords:
    """The bad records that this host has met.

    Args:
      limit: so many are let through, with weight 0; one more raises.
    """

    def __init__(self, limit: int):
        self._limit = limit
        self.names: dict[str, str] = {}  # name -> reason

    def __len__(self) -> int:
        return len(self.names)

    def add(self, name: str, reason: str) -> None:
        """Notes one; the same name counts once.

        Raises:
          ValueError: there are more than the limit.
        """
        if name in self.names:
            return
        self.names[name] = reason
        logger.warning("input_pipeline: bad record %d: %s: %s", len(self.names), name, reason)
        if len(self.names) > self._limit:
            rule = f"bad records {len(self.names)} > data.max_bad_records={self._limit}"
            raise ValueError(f"input_pipeline: {rule}; the last is {name} ({reason}); repair them or raise the limit")
