"""The command line. All but `init`, `check`, `doctor`, `policies test` and `serve` are clients of a served mesh."""
