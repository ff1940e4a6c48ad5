"""LoRA algebra on artifacts, without files and models. Plain LoRA is worked on through its factors, never through ΔW, in
float64; what comes out is float32, every layer at scale 1 (alpha = rank), the singular values split evenly between the
two factors. Shapes: O outputs, I inputs times kernel, R rank."""
