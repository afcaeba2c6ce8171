"""The description of the API in OpenAPI 3.1: `openapi.yaml`. Door: `document`."""
