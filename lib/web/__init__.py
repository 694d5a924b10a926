"""The web application in front of the portal: sign-in, the API, who may pass."""
