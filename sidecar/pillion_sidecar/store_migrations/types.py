"""The types of columns, as steps need them; the same as those of `store_tables.py`."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.types import TypeEngine

TEXT: TypeEngine[Any] = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
VALUE = sa.Text()
"""JSON."""
ID: TypeEngine[Any] = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
