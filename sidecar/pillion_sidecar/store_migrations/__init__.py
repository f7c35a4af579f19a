"""How older stores are brought up to date, by Alembic: a step per format in `versions`.

A new store is made as `store_tables.py` has it. `tests/unit/test_store_migrations.py` holds that
all steps together make the same. A step never changes once it is released.
"""
