"""Who may do what, as files say it: a table of rules in TOML, or Cedar policies. Pure.

Owns: the formats, what a rule means, and how a decision is found in time that does not grow with
the rules. Refuses to know: where a credential came from (`sira.kernel.trust`), when a file is read
again, and what an obligation does. Read rules.py first, then patterns.py; load.py makes a policy of
a setting's value.
"""
