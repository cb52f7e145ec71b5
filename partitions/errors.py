"""What a partition refuses, said in one line."""


class PartitionError(ValueError):
    """A split that cannot be made: one line that says what, where, and what is allowed.

    Settings go by the names users type: ``num-clients``, ``partition.concentration``, ``pool.fraction``.
    """


def require(ok: bool, setting: str, value: object, allowed: str) -> None:
    """Raise `PartitionError` ``<setting> = <value>: allowed is <allowed>`` unless `ok`."""
    if not ok:
        raise PartitionError(f"{setting} = {value}: allowed is {allowed}")
