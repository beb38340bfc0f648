"""The endpoint picker: polyslo decides, and a gateway such as Envoy carries the bytes."""
