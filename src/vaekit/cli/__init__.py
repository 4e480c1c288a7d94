"""The command line: LightningCLI with a kind of plugin behind each part of the model."""
