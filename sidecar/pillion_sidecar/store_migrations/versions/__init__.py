"""A step per format. See `pillion_sidecar.store_migrations`."""
