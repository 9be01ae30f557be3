"""The questions of the study, asked of a user's own network: `audit` and `tiebreak audit`."""

from tiebreak.auditing.findings import Audit
from tiebreak.auditing.measure import RULES, audit

__all__ = ["RULES", "Audit", "audit"]
