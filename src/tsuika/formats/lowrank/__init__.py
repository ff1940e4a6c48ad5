"""LoRA algebra on artifacts: merge, resize, make plain, extract, apply to weights. Knows no file and no model.

Plain LoRA is worked on through its factors, never through ΔW. All in float64; what comes out is float32, every layer at
scale 1 (alpha = rank), the singular values split evenly between the two factors.

Shapes: O outputs, I inputs times kernel, R rank.
"""
