"""The portal's side of the inner connection: verbs and forwards through stock OpenSSH.

Nothing is imported here: an outer tunnel's programs need none of it.
"""
