"""The callbacks; `vaekit.callbacks` exports their public names."""
