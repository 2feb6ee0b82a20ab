"""MCP authorization, as a client of upstreams: pages under basic/authorization of the specification, and their headings."""

PAGE = "MCP-2026-07-28 basic/authorization"
DISCOVERY = f"{PAGE}/authorization-server-discovery"
REGISTRATION = f"{PAGE}/client-registration"
SECURITY = f"{PAGE}/security-considerations"
ENTRIES = {
    f"{PAGE}#scope-selection": "The challenge's scopes, else those of the resource's metadata, else none.",
    f"{PAGE}#step-up": "A step-up asks for the scopes of before and those that are missing.",
    f"{PAGE}#step-up-limit": "A scope that is never granted is not asked for over and over.",
    f"{PAGE}#authorization-response": "iss is compared as it stands, before a code is sent or an error is believed.",
    f"{PAGE}#resource-parameter": "resource is in authorization, token and refresh requests.",
    f"{PAGE}#token-requirements": "A token goes to the server it was issued for, in every request's header.",
    f"{PAGE}#refresh-tokens": "Refresh tokens are used when a token has ended, and are confidential in storage.",
    f"{DISCOVERY}#location": "WWW-Authenticate's resource_metadata first, then the well-known places.",
    f"{DISCOVERY}#issuer": "Metadata of another issuer than they were asked for are not used.",
    f"{DISCOVERY}#resource": "Metadata of another resource are not used.",
    f"{REGISTRATION}#metadata-documents": "A client may be known by the https address of its document.",
    f"{REGISTRATION}#pre-registration": "A client that was registered before is used as it is.",
    f"{REGISTRATION}#dynamic": "Dynamic registration says its application_type; what fails is told.",
    f"{REGISTRATION}#server-binding": "Credentials of one authorization server are never shown to another.",
    f"{SECURITY}#pkce": "S256, and no login where the server does not say that it has it.",
    f"{SECURITY}#communication": "Authorization servers are reached by https, or on loopback.",
    f"{SECURITY}#state": "A state that was not given out, or was used, is discarded.",
    f"{SECURITY}#open-redirection": "Nobody is sent to an address that came in a request.",
    f"{SECURITY}#token-passthrough": "The token that a caller shows is never passed on.",
    f"{SECURITY}#ssrf": "What an upstream names is not nearer to the mesh than the upstream itself.",
    "MCP-2026-07-28 client/elicitation#url-mode": "A user is asked to open an address, which holds nothing secret.",
    "MCP-2026-07-28 client/elicitation#phishing": "Who opens the address logs in for themselves, and in that browser.",
}
