"""What can be wrong with the data, the warehouse or a stored dataset."""

from sf_sagemaker.errors import SfSagemakerError


class WarehouseError(SfSagemakerError):
    """The root of this room's errors."""


class WarehouseNotFound(WarehouseError):
    """No warehouse is where one was to be read."""


class WarehouseUnreadable(WarehouseError):
    """A file that is there, and is no warehouse."""


class WarehouseLocked(WarehouseError):
    """Another process kept the warehouse for longer than the caller would wait."""


class QueryFailed(WarehouseError):
    """The warehouse refused or broke off a statement; its own words are in the message."""


class RelationNotFound(WarehouseError):
    """No table or view of that name."""


class AmbiguousName(WarehouseError):
    """A name that several relations or columns answer to when case is ignored."""


class ColumnNotFound(WarehouseError):
    """A relation has no column of that name; the message lists those it has."""


class ReservedColumn(WarehouseError):
    """A column whose name a dataset uses for itself."""


class ConflictingRoles(WarehouseError):
    """A column that was given two roles which exclude each other, or a model without features."""


class UnsupportedType(WarehouseError):
    """A column whose type can't play the role it was given."""


class DuplicateKeys(WarehouseError):
    """Rows of the window that share a row key."""


class NullKeys(WarehouseError):
    """Rows of the window without a row key or a split key."""


class EmptyPartition(WarehouseError):
    """A partition, or its whole window, without a usable row."""


class EmptySplit(WarehouseError):
    """A dataset one of whose splits has no rows."""


class InvalidTarget(WarehouseError):
    """A target that nothing can be learned from: missing, constant, or outside its domain."""


class BlankTexts(WarehouseError):
    """Rows whose target or feature ought to be a text, and is null or white space."""


class TooManyLevels(WarehouseError):
    """A categorical column, or a target of classes, with more values than categories have."""


class ColumnTypeChanged(WarehouseError):
    """A column that is of another type than before, appeared, or disappeared."""


class ExportFailed(WarehouseError):
    """An export that couldn't be written whole, for example because the disk is full."""


class CorruptDataset(WarehouseError):
    """A committed dataset of which a file is missing, cut short or unreadable."""


class UnreadableFile(WarehouseError):
    """A file to load that is missing or not whole Parquet."""


class IncomparableFingerprints(WarehouseError):
    """Two fingerprints made by different algorithms."""


class WarehouseUnreachable(WarehouseError):
    """The warehouse's service can't be reached over the network."""


class LoginRefused(WarehouseError):
    """Credentials that the warehouse doesn't accept, or no longer, or a role that isn't theirs."""


class AccessDenied(WarehouseError):
    """A statement for which the session's role has no privilege."""


class ComputeUnavailable(WarehouseError):
    """The warehouse's computing power can't be used: suspended, over its quota, or not there."""


class IntegrationRefused(WarehouseError):
    """The warehouse can't write to object storage the way it was told to."""


class StatementStopped(WarehouseError):
    """A statement that was cancelled, or that ran into its time limit."""
