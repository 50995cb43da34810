"""`make gpu-check`: what cannot be proven without a GPU, run and measured where there is one."""
