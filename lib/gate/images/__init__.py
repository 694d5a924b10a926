"""The images of the policy: named, checked, fetched."""
