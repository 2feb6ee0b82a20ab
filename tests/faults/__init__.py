"""What a user keeps when something breaks: each file injects one fault. Run by `make faults`; needs neither Ray nor vLLM."""
