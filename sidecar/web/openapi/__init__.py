"""The API, described in OpenAPI 3.1. Door: `document`."""
