"""Entry points for programs: complete configs, infer on images."""
