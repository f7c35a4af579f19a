"""Generated from `protos/pillion/v1` by `make proto`; never edited."""
