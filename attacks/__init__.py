"""Attacks that the defences are tested against: evasion, backdoors, extraction. Nothing here serves requests."""
