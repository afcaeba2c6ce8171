"""Requests to the upstreams of devpi's mirrors: one client for each mirror, with bounds, a breaker and causes in words.

Doors: `client.UpstreamClient`, which devpi's mirrors use instead of devpi's own client, `causes.Cause`,
`causes.UpstreamFault`.
"""
